"""A replay's own parts: which numbers came first, and what of two windows differs."""

from datetime import timedelta

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from driftloop.drift_monitor.cli import app
from driftloop.drift_monitor.domain.evaluation import FeatureResult, WindowResult
from driftloop.drift_monitor.domain.fold.base import Frame, State
from driftloop.drift_monitor.domain.replay import count_difference, figure_difference, selected
from driftloop.drift_monitor.replaying import Sequences
from tests.support.paths import MODELS
from tests.unit.drift_monitor.builders import START

ONE, OTHER = Frame("one", 1, 2), Frame("other", 2, 3)


def state(*frames: Frame, counts: list[int]) -> State:
    return State(frames, np.array(counts, dtype=np.int64))


def result(psi: float = 0.1, severity: str = "GOOD", verdict: str = "GOOD") -> WindowResult:
    feature = FeatureResult(
        name="income", kind="numeric", statistic=0.1, p=0.5, psi=psi, psi_critical=0.2, n=5, m=5, missing=0,
        severity=severity, raw_severity="GOOD",
    )  # fmt: skip
    return WindowResult(
        starts=START, ends=START + timedelta(seconds=1), n=5, sufficient=True, severity=verdict, raw_severity="GOOD",
        features=(feature,), score=msgspec.structs.replace(feature, name="score", severity="GOOD"),
    )  # fmt: skip


def test_a_number_of_a_source_and_partition_comes_first_once() -> None:
    rng, seen, known = np.random.default_rng(2), Sequences(), set()
    for partition, number in rng.integers(0, (2, 60), (500, 2)).tolist():
        for source in ("a", "b"):
            assert seen.add(partition, source, number) == ((partition, source, number) not in known)
            known.add((partition, source, number))


def test_the_first_cell_that_differs_is_named_by_its_accumulator() -> None:
    found = count_difference(state(ONE, OTHER, counts=[1, 2, 3, 4, 5]), state(ONE, OTHER, counts=[1, 2, 3, 7, 8]))
    assert (found.what, found.cell, found.stored, found.replayed) == ("other", 1, 4, 7)


def test_an_accumulator_that_a_stored_window_does_not_have_is_left_out() -> None:
    replayed = selected(state(ONE, OTHER, counts=[1, 2, 3, 4, 5]), state(OTHER, counts=[0, 0, 0]))
    assert (replayed.frames, replayed.counts.tolist()) == ((OTHER,), [3, 4, 5])


def test_a_window_that_no_record_reached_has_counts_of_nothing() -> None:
    replayed = selected(State((), np.zeros(0, dtype=np.int64)), state(ONE, counts=[1, 2]))
    assert replayed.counts.tolist() == [0, 0]


def test_a_figure_may_differ_in_its_last_digits_only() -> None:
    assert figure_difference(result(0.1), result(0.1 + 1e-12), with_alarms=True) is None
    found = figure_difference(result(0.1), result(0.1001), with_alarms=True)
    assert found is not None
    assert (found.what, found.stored, found.replayed) == ("features[income].psi", 0.1, 0.1001)


def test_alarms_are_compared_only_where_the_windows_before_are_known() -> None:
    stored, replayed = result(severity="WARNING", verdict="WARNING"), result()
    assert figure_difference(stored, replayed, with_alarms=False) is None
    found = figure_difference(stored, replayed, with_alarms=True)
    assert found is not None
    assert found.what == "features[income].severity"


def test_labels_may_make_a_verdict_worse_than_the_features_do_and_nothing_makes_it_better() -> None:
    assert figure_difference(result(verdict="CRITICAL"), result(), with_alarms=True) is None
    found = figure_difference(result(), result(verdict="CRITICAL"), with_alarms=True)
    assert found is not None
    assert found.what == "severity"


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ([], "several models have a contract: name one of ['diabetes', 'loan'] with --model"),
        (["--model", "nobody"], "model 'nobody' has no contract: name one of ['diabetes', 'loan'] with --model"),
        (["--from", "2026-03-01T12:00:00"], "say the offset from UTC"),
        (["--to", "yesterday"], "is no RFC 3339 time"),
    ],
)
def test_what_is_asked_for_must_be_clear(arguments: list[str], answer: str) -> None:
    contracts = ",".join(str(MODELS / model / "contract.yaml") for model in ("diabetes", "loan"))
    environment = {
        "KAFKA_BOOTSTRAP_SERVERS": "localhost:1", "DATABASE_URL": "postgresql://localhost:1", "COLUMNS": "200",
        "DRIFTLOOP_CONTRACTS": contracts,
    }  # fmt: skip
    found = CliRunner().invoke(app, ["replay", *arguments], env=environment)
    assert found.exit_code == 2
    assert answer in found.stderr
