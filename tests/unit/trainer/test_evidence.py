"""The evidence of a decision: kept as a file, it gives the same decision again, and follows its rows' labels."""

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from driftloop.common.contract import Gates
from driftloop.common.registry import DigestMismatch
from driftloop.trainer.domain.evidence import Evidence, decide, reconsider
from driftloop.trainer.domain.gate import Paired
from driftloop.trainer.evidence_file import decode, encode

GATES = Gates(gate_labels=4, segment_rows=2, bootstrap=100, accepted_brier_rise=0.5, accepted_roc_auc_drop=0.1)


def paired(draw: st.DrawFn, rows: int, threshold: float) -> Paired:
    """Any labels, and any scores at all: also such as are no probabilities."""
    column = st.lists(st.one_of(st.floats(0, 1), st.floats()), min_size=rows, max_size=rows)
    labels = draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows))
    return Paired(np.array(labels, dtype=np.int8), np.array(draw(column)), np.array(draw(column)), threshold)


@st.composite
def evidences(draw: st.DrawFn) -> Evidence:
    rows, threshold = draw(st.integers(0, 12)), draw(st.floats(0.01, 0.99))
    names = draw(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=3, unique=True))
    mask = st.lists(st.booleans(), min_size=rows, max_size=rows)
    return Evidence(
        ids=np.array([f"p{row}" for row in range(rows)], dtype=np.str_),
        subjects=np.array(draw(st.lists(st.sampled_from(["", "a", "b"]), min_size=rows, max_size=rows)), dtype=np.str_),
        newest=paired(draw, rows, threshold),
        segments={name: np.array(draw(mask), dtype=np.bool_) for name in names},
        baseline=paired(draw, draw(st.integers(0, 5)), threshold),
        gates=GATES,
        seed=draw(st.integers(0, 2**32 - 1)),
        concept_drift=draw(st.booleans()),
    )


def six() -> Evidence:
    """Six rows of three subjects, one without a name: the challenger is right in all, the champion in the first two."""
    labels = np.array([0, 1, 0, 1, 0, 1], dtype=np.int8)
    right = np.where(labels == 1, 0.9, 0.1)
    newest = Paired(labels, np.where(np.arange(6) < 2, right, 1 - right), right, 0.5)
    return Evidence(
        ids=np.array([f"p{row}" for row in range(6)]),
        subjects=np.array(["a", "b", "", "a", "b", ""]),
        newest=newest,
        segments={"early": np.arange(6) < 3},
        baseline=newest,
        gates=GATES,
        seed=1,
    )


def scores(evidence: Evidence) -> list[bytes]:
    pairs = (evidence.newest, evidence.baseline)
    return [column.tobytes() for pair in pairs for column in (pair.labels, pair.champion, pair.challenger)]


@settings(max_examples=50)
@given(evidences())
def test_a_file_gives_back_the_evidence_to_the_last_bit_and_so_the_decision(evidence: Evidence) -> None:
    found = decode(encode(evidence))
    assert found.digest == evidence.digest
    assert scores(found) == scores(evidence)
    assert decide(found) == decide(evidence)


def test_a_decision_names_the_evidence_that_it_was_made_from() -> None:
    assert decide(six()).evidence == six().digest


def test_declared_concept_drift_is_a_part_of_the_evidence() -> None:
    accepted = [decide(replace(six(), concept_drift=declared)).accepted_loss for declared in (False, True)]
    assert accepted == [GATES.accepted_loss, GATES.accepted_loss_concept]


@pytest.mark.parametrize(
    "other",
    [
        replace(six(), ids=np.array([f"q{row}" for row in range(6)])),
        replace(six(), subjects=np.full(6, "")),
        replace(six(), newest=replace(six().newest, champion=six().newest.challenger)),
        replace(six(), baseline=replace(six().baseline, labels=1 - six().baseline.labels)),
        replace(six(), segments={"early": np.arange(6) < 4}),
        replace(six(), segments={"late": np.arange(6) < 3}),
        replace(six(), gates=msgspec.structs.replace(GATES, alpha=0.01)),
        replace(six(), seed=2),
        replace(six(), concept_drift=True),
    ],
)
def test_whatever_differs_gives_another_digest(other: Evidence) -> None:
    assert other.digest != six().digest


def test_a_file_that_was_changed_is_refused() -> None:
    with pa.ipc.open_file(encode(six())) as reader:
        table = reader.read_all()
    changed = table.set_column(2, "label", pa.array([1] * table.num_rows, pa.int8()))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, changed.schema) as writer:
        writer.write_table(changed)
    with pytest.raises(DigestMismatch, match="the file was changed"):
        decode(sink.getvalue().to_pybytes())


def test_what_is_no_evidence_is_refused() -> None:
    with pytest.raises(pa.ArrowInvalid):
        decode(b"no Arrow file")


def test_an_erased_subjects_rows_leave() -> None:
    found = six().without({"a", "nobody"})
    assert found.ids.tolist() == ["p1", "p2", "p4", "p5"]
    assert found.segments["early"].tolist() == [True, True, False, False]
    assert decide(found).newest.rows == 4


def test_rows_of_unknown_subjects_are_nobodys_to_erase() -> None:
    assert len(six().without({""}).ids) == len(six().without(()).ids) == 6


def test_a_changed_label_counts_and_a_retracted_one_leaves() -> None:
    found = six().relabelled({"p3": 0, "p4": None, "unknown": 1})
    assert found.ids.tolist() == ["p0", "p1", "p2", "p3", "p5"]
    assert found.newest.labels.tolist() == [0, 1, 0, 0, 1]
    before, after = decide(six()), decide(found)
    assert (before.newest.wins, before.newest.losses) == (4, 0)
    assert (after.newest.wins, after.newest.losses) == (2, 1)


def test_labels_that_did_not_change_change_nothing() -> None:
    labels = dict(zip(six().ids.tolist(), six().newest.labels.tolist(), strict=True))
    assert six().relabelled(labels).digest == six().relabelled({}).digest == six().digest


def test_too_many_retracted_labels_are_missing_evidence() -> None:
    decision = decide(six().relabelled(dict.fromkeys(("p0", "p1", "p2"))))
    assert not decision.promoted
    assert decision.reasons[0] == "only 3 of 4 newest labelled rows: wait for labels"


def test_a_decision_is_made_again_by_the_labels_as_they_are_now_and_from_nine_tenths_of_them() -> None:
    again = reconsider(replace(six(), gates=msgspec.structs.replace(GATES, gate_labels=5)), {"p0": None, "p3": 0})
    assert (again.changed, again.evidence.gates.gate_labels, len(again.evidence.ids)) == (2, 5, 5)
    assert again.decision == decide(decode(encode(again.evidence)))
    few = reconsider(replace(six(), gates=msgspec.structs.replace(GATES, gate_labels=6)), dict.fromkeys(("p0", "p3")))
    assert few.decision.reasons[0] == "only 4 of 6 newest labelled rows: wait for labels"


def test_a_label_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="neither 0 nor 1"):
        six().relabelled({"p1": 2})


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"subjects": np.array(["a"])}, "columns of different lengths"),
        ({"segments": {"early": np.array([True])}}, "columns of different lengths"),
        ({"ids": np.full(6, "p0")}, "occurs twice"),
        ({"baseline": replace(six().baseline, threshold=0.4)}, "thresholds"),
    ],
)
def test_rows_that_do_not_fit_are_refused(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        replace(six(), **changed)
