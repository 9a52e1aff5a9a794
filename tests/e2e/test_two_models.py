"""Nothing is hard-wired to one model: two of them live side by side, and each goes its own way."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from driftloop.common.contract import baseline_path, load_contract
from driftloop.common.rows import Row, read_baseline
from driftloop.common.topics import OUTCOMES
from driftloop.demo.installation import Installation, prepare
from driftloop.demo.observer import Observer, wait_for
from driftloop.demo.populations import Case
from driftloop.demo.scenarios import write_contract
from driftloop.demo.traffic import Answer, Traffic
from driftloop.devstack.processes import ProcessGroup
from tests.support.house import House
from tests.support.paths import MODELS

pytestmark = [pytest.mark.xdist_group("loop"), pytest.mark.timeout(400)]
QUICK = {"drift": {"pane_seconds": 0.5}}
JOBS = ("employed", "self-employed", "retired", "unemployed")


@contextmanager
def two_models(house: House, folder: Path) -> Iterator[Installation]:
    contracts = [write_contract(MODELS / name / "contract.yaml", folder / name, QUICK) for name in ("diabetes", "loan")]
    installation = prepare(
        folder / "installation", house.stack, contracts, namespace=house.namespace.prefix, predictors=1
    )
    with ProcessGroup(installation.processes()):
        yield installation


def traffic_to(installation: Installation, predictor: str) -> Traffic:
    return Traffic(
        [installation.ports[predictor].url],
        installation.client_key.read_text(),
        installation.ports["label-ingest"].url,
        installation.stack.bootstrap_servers,
        installation.namespace.topic(OUTCOMES),
    )


def poorer_borrowers(rng: np.random.Generator, count: int) -> list[Case]:
    """Borrowers of a crisis: little income, long terms, many without work; they default where they have no work."""
    income = np.round(rng.lognormal(9.6, 0.4, count), -1)
    job = rng.choice(4, count, p=[0.3, 0.2, 0.1, 0.4])
    term = 6 * rng.integers(8, 20, count)
    rows: list[Row] = [
        {"income": float(income[i]), "employment": JOBS[job[i]], "term": int(term[i])} for i in range(count)
    ]
    return [Case(row, int(row["employment"] == "unemployed")) for row in rows]


def baseline_patients() -> list[Case]:
    path = MODELS / "diabetes" / "contract.yaml"
    contract = load_contract(path)
    rows, labels = read_baseline(contract, baseline_path(path, contract))
    missing = {feature.name: feature.missing[0] for feature in contract.features if feature.missing}
    return [
        Case({name: missing.get(name) if value is None else value for name, value in row.items()}, int(label))
        for row, label in zip(rows, labels, strict=True)
    ]


def wait_until_counted(observer: Observer, answered: int) -> None:
    wait_for(f"{answered} predictions and labels", lambda: observer.counted() == (answered, answered))


@pytest.mark.slow("a second model must drift, be labelled and be learnt while the first is served")
def test_one_model_drifts_and_is_replaced_while_the_other_stays(house: House, tmp_path: Path) -> None:
    with two_models(house, tmp_path) as installation:
        diabetes, loan = (Observer(installation.doors, name) for name in ("diabetes", "loan"))
        patients = traffic_to(installation, "predictor-1")
        borrowers = traffic_to(installation, "predictor-loan-1")
        rng = np.random.default_rng(2)
        known = itertools.cycle(baseline_patients())
        answers: list[Answer] = []

        def loan_replaced() -> bool:
            for one, cases in ((borrowers, poorer_borrowers(rng, 40)), (patients, list(itertools.islice(known, 20)))):
                one.report_outcomes(new := one.predict(cases))
                answers.extend(new)
            return bool(loan.swapped(2))

        wait_for("version 2 of the loan model", loan_replaced, 240)
        fresh = borrowers.predict(poorer_borrowers(rng, 200))
        borrowers.report_outcomes(fresh)
        assert {one.model_version for one in fresh} == {2}
        assert sum(one.right for one in fresh) / len(fresh) > 0.95
        assert diabetes.training()["champion"] == 1
        assert diabetes.training()["requests"] == []
        for observer, one in ((diabetes, patients), (loan, borrowers)):
            wait_until_counted(observer, one.counts.answered)
            assert one.counts.failed == 0
        assert {one["name"] for one in loan.report()["features"]} <= {"income", "employment", "term"}
        for one in (patients, borrowers):
            one.close()
        for observer in (diabetes, loan):
            observer.close()
