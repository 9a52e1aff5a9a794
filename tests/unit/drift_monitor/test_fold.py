"""The fold: counts add up however they were split, come back as they were stored, and are never taken for others."""

from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.contract import Drift, Performance
from driftloop.common.events import LabelRetracted, PredictionLabeled, PredictionMade
from driftloop.common.profile import CategoricalReference, numeric_reference
from driftloop.common.statistics.cells import Counts
from driftloop.drift_monitor.domain.evaluation import Watch
from driftloop.drift_monitor.domain.fold.base import (
    EMPTY,
    FORMAT,
    Accumulator,
    Fold,
    Frame,
    State,
    UnreadableState,
    merged,
)
from driftloop.drift_monitor.domain.fold.rows import PredictionRows, label_rows, prediction_rows
from tests.support.predictions import labeled, prediction
from tests.unit.drift_monitor.builders import (
    mixed_watch,
    parts_of,
    retracted,
    scored,
    with_contract,
    with_profile,
)

WATCH = mixed_watch()
SCORES = st.integers(0, 10**6).map(lambda units: units / 10**6)
EVENTS = st.lists(
    st.builds(
        lambda x, c, score: prediction(WATCH.contract, {"x": x, "c": c}, score=score),
        st.sampled_from([None, -1.0, 1.0, 2.0, 3.0, 11.0, "text"]),
        st.sampled_from([None, "a", "b", "z"]),
        SCORES,
    ),
    max_size=30,
)
FRAMES = st.lists(
    st.builds(Frame, st.text(max_size=10), st.integers(0, 2**63 - 1), st.integers(0, 5)), max_size=6, unique=True
)
COUNT = st.integers(-(2**63), 2**63 - 1)


class Answers(Accumulator[PredictionRows]):
    """How many rows were answered 1: what a later release may count as well."""

    name = "answers"
    size = 1

    @property
    def meaning(self) -> bytes:
        return b""

    def add(self, counts: Counts, rows: PredictionRows) -> None:
        counts[0] += int(rows.predictions.sum())


class RevisedAnswers(Answers):
    revision = 2


def predictions(events: list[PredictionMade], watch: Watch = WATCH) -> State:
    return watch.predictions.add(prediction_rows(watch.contract, events))


def split(data: st.DataObject, events: list[Any]) -> list[list[Any]]:
    """The events in another order, in groups."""
    shuffled = data.draw(st.permutations(events))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    return [shuffled[low:high] for low, high in pairwise([0, *cuts, len(events)])]


def state(*frames: Frame, fill: int = 1) -> State:
    return State(frames, np.full(sum(frame.size for frame in frames), fill, dtype=np.int64))


# --- merging


@given(EVENTS, st.data())
def test_predictions_that_are_merged_in_any_grouping_and_order_have_the_same_counts(
    events: list[PredictionMade], data: st.DataObject
) -> None:
    groups = [predictions(group) for group in split(data, events)]
    assert parts_of(merged(groups)) == parts_of(predictions(events))


@given(EVENTS, st.data())
def test_labels_that_are_merged_in_any_grouping_and_order_have_the_same_counts(
    events: list[PredictionMade], data: st.DataObject
) -> None:
    labels: list[PredictionLabeled | LabelRetracted] = [
        labeled(event, place % 2, previous=data.draw(st.sampled_from([None, 0, 1])))
        if place % 3
        else retracted(event, 0)
        for place, event in enumerate(events)
    ]
    groups = [WATCH.labels.add(label_rows(group)) for group in split(data, labels)]
    assert parts_of(merged(groups)) == parts_of(WATCH.labels.add(label_rows(labels)))


@given(EVENTS, st.data())
def test_merging_two_by_two_is_merging_all_at_once(events: list[PredictionMade], data: st.DataObject) -> None:
    groups = [predictions(group) for group in split(data, events)]
    assert (
        parts_of(reduce(State.merge, groups))
        == parts_of(reduce(State.merge, groups, EMPTY))
        == parts_of(merged(groups))
    )


@given(EVENTS, EVENTS)
def test_what_was_merged_is_left_as_it_was(first: list[PredictionMade], second: list[PredictionMade]) -> None:
    one, other = predictions(first), predictions(second)
    before = (one.counts.tolist(), other.counts.tolist())
    merged([one, other])
    one.merge(other)
    assert (one.counts.tolist(), other.counts.tolist()) == before


def test_nothing_merged_is_empty_and_adds_nothing() -> None:
    one = state(Frame("a", 1, 2))
    assert parts_of(merged([])) == {}
    assert parts_of(EMPTY.merge(one)) == parts_of(one.merge(EMPTY)) == parts_of(one)


def test_each_accumulator_of_a_fold_has_a_frame_of_its_own() -> None:
    for fold in (WATCH.predictions, WATCH.labels):
        assert len({frame.name for frame in fold.frames}) == len(fold.accumulators)


# --- storing


@given(FRAMES, st.data())
def test_a_stored_state_comes_back(frames: list[Frame], data: st.DataObject) -> None:
    size = sum(frame.size for frame in frames)
    counts = data.draw(st.lists(COUNT, min_size=size, max_size=size))
    found = State.from_bytes(State(tuple(frames), np.array(counts, dtype=np.int64)).to_bytes())
    assert (found.frames, found.counts.tolist()) == (tuple(frames), counts)


@given(EVENTS)
def test_the_same_counts_are_the_same_bytes(events: list[PredictionMade]) -> None:
    stored = predictions(events).to_bytes()
    assert State.from_bytes(stored).to_bytes() == stored == predictions(list(reversed(events))).to_bytes()


def test_a_state_that_an_earlier_release_stored_is_read() -> None:
    stored = bytes.fromhex(
        "035dbad01c13000000180000009293a161010293a162cf7fffffffffffffff01780163678080ff5000e63132300000645f0801"
    )
    found = State.from_bytes(stored)
    assert parts_of(found) == {Frame("a", 1, 2): [7, -1], Frame("b", 2**63 - 1, 1): [2**40]}


@given(st.data())
def test_a_state_with_one_byte_changed_is_refused(data: st.DataObject) -> None:
    stored = bytearray(predictions([prediction(WATCH.contract, {"x": 1.0, "c": "a"})]).to_bytes())
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(UnreadableState):
        State.from_bytes(bytes(stored))


def test_a_state_that_was_cut_off_is_refused_wherever_it_was_cut() -> None:
    stored = state(Frame("a", 1, 3), Frame("b", 2, 100)).to_bytes()
    for length in range(len(stored)):
        with pytest.raises(UnreadableState):
            State.from_bytes(stored[:length])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "0 bytes are too few"),
        (bytes([FORMAT - 1]) + EMPTY.to_bytes()[1:], f"format {FORMAT - 1}, wanted {FORMAT}"),
        (bytes([FORMAT + 1]) + EMPTY.to_bytes()[1:], f"format {FORMAT + 1}, wanted {FORMAT}"),
        (EMPTY.to_bytes() + b"\0", "checksum"),
        (State((Frame("a", 1, 3),), np.arange(4)).to_bytes(), "do not fill their frames"),
        (State((Frame("a", 1, 3),), np.arange(2)).to_bytes(), "do not fill their frames"),
    ],
    ids=["empty", "older format", "newer format", "more bytes", "more counts than frames", "fewer counts than frames"],
)
def test_a_state_that_cannot_be_trusted_is_refused_with_the_reason(data: bytes, says: str) -> None:
    with pytest.raises(UnreadableState, match=says):
        State.from_bytes(data)


# --- other meanings


def test_counts_of_another_meaning_are_never_read() -> None:
    old, new = Frame("cells:x", 1, 2), Frame("cells:x", 2, 2)
    assert state(old).part(new) is None


def test_counts_of_another_meaning_are_never_added_and_both_live_side_by_side() -> None:
    old, new, same = Frame("cells:x", 1, 2), Frame("cells:x", 2, 2), Frame("scores", 1, 1)
    both = state(old, same, fill=3).merge(state(new, same, fill=5))
    assert parts_of(both) == {old: [3, 3], new: [5, 5], same: [8]}


def test_each_meaning_goes_on_counting_for_itself() -> None:
    old, new = Frame("cells:x", 1, 2), Frame("cells:x", 2, 3)
    both = merged([state(old), state(new), state(old, new), state(new, old), state(old)])
    assert parts_of(State.from_bytes(both.to_bytes())) == {old: [4, 4], new: [3, 3, 3]}


CHANGES = {
    "a value between": (mixed_watch((1, 3, 4)), {"cells:x"}),
    "a value at the end": (mixed_watch((1, 2, 5)), {"cells:x", "quality:x", "scale:x"}),
    "one value more": (mixed_watch((1, 2, 3, 4)), {"cells:x"}),
    "how often a value occurred": (mixed_watch((1, 2, 2, 2, 4, None)), set()),
    "quantiles for values": (with_contract(WATCH, drift=Drift(max_distinct=2)), {"cells:x", "scale:x"}),
    "the order of categories": (mixed_watch(categories=("b", "a")), {"cells:c"}),
    "other categories": (mixed_watch(categories=("a", "d")), {"cells:c", "quality:c"}),
    "how often a category occurred": (
        with_profile(
            WATCH, features=(WATCH.profile.features[0], CategoricalReference("c", ("a", "b"), (500, 1), 9))
        ),
        set(),
    ),
    "the least that is allowed": (mixed_watch(minimum=1), {"quality:x"}),
    "the most that is allowed": (mixed_watch(maximum=None), {"quality:x"}),
    "what scores occurred": (with_profile(WATCH, scores=numeric_reference("score", [0.25, 0.8])), {"score"}),
    "the calibrator": (
        with_profile(WATCH, calibration=scored([0.2, 0.4, 0.7], [0, 1, 1])),
        {"calibrated", "labels: calibrated"},
    ),
    "the held-out rows": (with_profile(WATCH, heldout=scored([0.3, 0.6], [0, 1])), {"labels: coverage"}),
    "the level of sets": (with_contract(WATCH, performance=Performance(interval_level=0.8)), {"labels: coverage"}),
    "how drift is judged": (with_contract(WATCH, drift=Drift(alpha=0.01, psi_bins=5, min_samples=9)), set()),
    "the threshold": (with_contract(WATCH, decision_threshold=0.4), set()),
}  # fmt: skip


@pytest.mark.parametrize(("other", "moved"), CHANGES.values(), ids=CHANGES)
def test_what_gives_counts_their_meaning_and_nothing_else_changes_their_digest(other: Watch, moved: set[str]) -> None:
    before, after = digests(WATCH), digests(other)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == moved


def test_what_a_count_means_is_called_the_same_in_every_release() -> None:
    """Where one of these must change, panes that are stored can no longer be read: say so in the change log."""
    assert {
        name: digests(WATCH)[name] for name in ("cells:x", "cells:c", "scores", "labels: labelled", "labels: delays")
    } == {
        "cells:x": 5262715364158106574,
        "cells:c": 4294296726414454880,
        "scores": 1551621825030610933,
        "labels: labelled": 4659606699699472194,
        "labels: delays": 8660210473851792778,
    }


def test_names_that_run_together_are_other_categories() -> None:
    assert digests(mixed_watch(categories=("ab", "c"))) != digests(mixed_watch(categories=("a", "bc")))


def test_who_changes_how_it_counts_changes_the_digest() -> None:
    assert Answers().frame != RevisedAnswers().frame
    assert Answers().frame == Answers().frame


def test_two_ways_to_count_the_same_are_told_apart() -> None:
    """Prediction and label folds have an accumulator of one name and one meaning: the calibrated sums."""
    ours, theirs = (
        [frame for frame in fold.frames if frame.name == "calibrated"] for fold in (WATCH.predictions, WATCH.labels)
    )
    assert ours != theirs


def test_a_new_accumulator_leaves_what_was_stored_before_as_it_was() -> None:
    events = [prediction(WATCH.contract, {"x": 1.0, "c": "a"}, score=score) for score in (0.2, 0.7, 0.9)]
    rows = prediction_rows(WATCH.contract, events)
    stored = WATCH.predictions.add(rows).to_bytes()
    new = Fold((Answers(), *WATCH.predictions.accumulators))
    both = State.from_bytes(stored).merge(new.add(rows))
    assert State.from_bytes(stored).part(Answers().frame) is None
    assert parts_of(both)[Answers().frame] == [2]
    once, twice = parts_of(State.from_bytes(stored)), parts_of(both)
    assert all(twice[frame] == [2 * count for count in once[frame]] for frame in once)


def digests(watch: Watch) -> dict[str, int]:
    """The digest of each accumulator, by name."""
    labels = {f"labels: {frame.name}": frame.digest for frame in watch.labels.frames}
    return {frame.name: frame.digest for frame in watch.predictions.frames} | labels
