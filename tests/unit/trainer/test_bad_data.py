"""Data that allow no model, or no verdict: refused with a reason, or a version that says what it is worth."""

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from driftloop.common.contract import Contract, Recipe
from driftloop.trainer.domain.challenger import BaselineData, Challenger, ReferenceRows, challenge, first_version
from driftloop.trainer.domain.dataset import LabeledRows, division_of
from driftloop.trainer.domain.export import score
from driftloop.trainer.label_rows import ProductionRows
from tests.support.models import shipped

LOAN = shipped("loan", trees=3)
GATES = msgspec.structs.replace(LOAN.contract.gates, gate_labels=40)
CONTRACT = msgspec.structs.replace(LOAN.contract, gates=GATES)
NEW_ONLY = msgspec.structs.replace(CONTRACT, training=Recipe(baseline=False))
BASELINE = BaselineData.of(CONTRACT, LOAN.values, LOAN.labels)
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
SINCE = np.datetime64("2026-01-01", "us")
TERM = LOAN.contract.feature_names.index("term")


@pytest.fixture(scope="module")
def champion() -> bytes:
    return first_version(CONTRACT, BASELINE, 1, CREATED).model


def production(values: NDArray[np.float64], labels: NDArray[np.int8], subjects: list[str] | None = None) -> LabeledRows:
    """A labelled row a second."""
    n = len(labels)
    return LabeledRows(
        ids=np.array([f"p{row:03d}" for row in range(n)], dtype=np.str_),
        times=SINCE + np.arange(n).astype("m8[s]"),
        values=values,
        labels=labels,
        subjects=np.array(subjects or [""] * n, dtype=np.str_),
    )


def usual(n: int = 100) -> LabeledRows:
    return production(LOAN.values[:n].copy(), LOAN.labels[:n].copy())


def no_values(n: int) -> NDArray[np.float64]:
    """Rows [n, d] in which everything is missing."""
    return np.tile([-1 if one.type == "category" else np.nan for one in CONTRACT.features], (n, 1))


def challenged(rows: LabeledRows, champion: bytes, contract: Contract = CONTRACT) -> Challenger:
    return challenge(
        contract, BASELINE, division_of(contract, rows, SINCE), ReferenceRows(rows.ids, rows.values), champion,
        since=SINCE, version=2, created=CREATED, reason="a test",
    )  # fmt: skip


def test_rows_of_one_class_alone_make_no_model(champion: bytes) -> None:
    rows = production(usual().values, np.ones(100, dtype=np.int8))
    with pytest.raises(ValueError, match="0 negative and 60 positive training rows"):
        challenged(rows, champion, NEW_ONLY)


def test_rows_of_one_class_beside_the_baseline_make_one_that_is_judged(champion: bytes) -> None:
    rows = production(usual().values, np.ones(100, dtype=np.int8))
    made = challenged(rows, champion)
    assert made.card.decision is not None
    assert made.card.metrics["newest.challenger"].roc_auc is None


def test_balance_does_not_make_up_a_class_that_is_not_there(champion: bytes) -> None:
    balanced = msgspec.structs.replace(CONTRACT, training=Recipe(baseline=False, balance="balanced", half_life_days=1))
    rows = production(usual().values, np.zeros(100, dtype=np.int8))
    with pytest.raises(ValueError, match="60 negative and 0 positive training rows"):
        challenged(rows, champion, balanced)


def test_without_a_single_label_nothing_is_judged(champion: bytes) -> None:
    rows = usual()
    none, never = np.full(100, -1, dtype=np.int8), np.full(100, "NaT", dtype="M8[us]")
    unlabelled = ProductionRows(rows.ids, rows.times, rows.values, none, rows.subjects, never)
    with pytest.raises(ValueError, match="no labelled rows: nothing can be measured; wait for labels"):
        challenged(unlabelled.labeled(), champion)


def test_a_constant_feature_teaches_nothing_and_harms_nothing(champion: bytes) -> None:
    rows = usual()
    rows.values[:, TERM] = 24.0
    made = challenged(rows, champion, NEW_ONLY)
    term = made.profile.features[TERM]
    assert sum(1 for count in term.counts if count) == 1
    assert made.card.decision is not None


def test_a_baseline_of_three_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="a baseline of 2 negative and 1 positive rows cannot hold out 80"):
        BaselineData.of(CONTRACT, LOAN.values[:3], np.array([0, 1, 0], dtype=np.int8))


def test_three_labelled_rows_are_the_gates_and_prove_nothing(champion: bytes) -> None:
    made = challenged(usual(3), champion)
    assert made.card.training.labeled_rows == 0
    assert not made.promoted


def test_three_labelled_rows_without_the_baseline_make_no_set(champion: bytes) -> None:
    with pytest.raises(ValueError, match=r"of 0 older labelled rows .* leaves none"):
        challenged(usual(3), champion, NEW_ONLY)


def test_rows_without_any_value_make_a_model_that_says_the_same_of_all(champion: bytes) -> None:
    made = challenged(production(no_values(100), usual().labels), champion, NEW_ONLY)
    assert len(set(score(made.model, LOAN.features).tolist())) == 1
    assert not made.promoted


def test_a_first_version_of_rows_without_any_value_knows_only_how_common_the_classes_are() -> None:
    baseline = BaselineData(no_values(len(LOAN.labels)), LOAN.labels, BASELINE.split)
    held = first_version(CONTRACT, baseline, 1, CREATED).card.metrics["baseline_holdout"]
    assert held.accuracy == held.majority


def test_contradictory_labels_of_a_patient_are_all_learnt_from_and_counted(champion: bytes) -> None:
    """Both may be true: a patient falls ill, and one row says nothing of when."""
    values = np.repeat(usual(1).values, 100, axis=0)
    rows = production(values, (np.arange(100) % 2).astype(np.int8), ["one"] * 30 + ["two"] * 30 + [""] * 40)
    made = challenged(rows, champion, NEW_ONLY)
    assert made.card.leaks is not None
    assert made.card.leaks.contradictory == 60
    assert score(made.model, values[:1].astype(np.float32))[0] == pytest.approx(0.5, abs=0.2)
    assert not made.promoted
