"""Which drift is it? How often quality, concept and covariate drift are told apart, and quiet streams left in peace.

Every stream is a world of its own: five normal features and a logistic law with random weights, 768 baseline rows, and
a forest made of them as the trainer makes version 1. A stream is four windows of 500 rows; the first two are labelled.
The peer is NannyML's CBPE with the same rows: it alarms where the realised accuracy leaves its confidence band.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from benchmarks.harness import Ask, Figure, conditions, peer, record, say
from benchmarks.streams import START, closed
from driftloop.common.contract import Baseline, Contract, Feature, Target
from driftloop.common.profile import ReferenceProfile, ScoredRows, scored_rows
from driftloop.common.rows import canonical_scores
from driftloop.drift_monitor.domain.attribution import attribute
from driftloop.drift_monitor.domain.evaluation import Alarms, Watch, evaluate
from driftloop.drift_monitor.domain.fold.base import State, merged
from driftloop.drift_monitor.domain.fold.rows import LabelRows
from driftloop.drift_monitor.domain.labelled import Closed, judge_labels
from driftloop.trainer.domain.reference import reference_profile
from driftloop.trainer.domain.split import split_baseline
from driftloop.trainer.domain.training import out_of_fold_scores, train

STREAMS = 200
FEATURES, BASELINE_ROWS = 5, 768
WINDOWS, ROWS, LABELLED = 4, 500, 2
MEAN, DEVIATION = 100.0, 15.0
# The law's log-odds: how strong the features are, and how rare a positive is.
STRENGTH, INTERCEPT = 1.5, -0.7
# mg/dL for mmol/L of glucose, kg for lb, cm for inch, a lost decimal point.
UNIT_ERRORS = (1 / 18.016, 2.2046, 1 / 2.54, 10.0)
# What a stream is made of: a kind, and how much of it. And what it must be called.
KINDS: Mapping[str, str] = {
    "quiet": "quiet",
    "covariate 0.3": "covariate",
    "covariate 0.6": "covariate",
    "concept 1.2": "concept",
    "missing 0.2": "quality",
    "unit": "quality",
}
CONTRACT = Contract(
    name="attribution",
    features=tuple(
        Feature(name=f"x{number}", type="number", minimum=0, maximum=10_000, resolution=0.1)
        for number in range(FEATURES)
    ),
    target=Target(name="y"),
    baseline=Baseline(path="none.csv"),
)


@dataclass(frozen=True, eq=False)
class World:
    """The law's `weights` [d], the model that learnt it, and what that is watched by."""

    weights: NDArray[np.float64]
    model: Pipeline
    watch: Watch


@dataclass(frozen=True, eq=False)
class Stream:
    """Rows as the predictor logs them: `values` [windows, rows, d], `scores` and `labels` [windows, rows]."""

    values: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int8]


# --- worlds and their streams


def make_world(seed: int) -> World:
    """A law of random direction, a baseline of it, and version 1 of its model as the trainer makes it."""
    rng = np.random.default_rng([seed, 0])
    weights = rng.normal(size=FEATURES)
    weights *= STRENGTH / np.linalg.norm(weights)
    z = rng.normal(size=(BASELINE_ROWS, FEATURES))
    values, labels = measured(z), law(rng, weights, z)
    split = split_baseline(CONTRACT, labels)
    features, known = values[split.train].astype(np.float32), labels[split.train]
    model = train(CONTRACT, features, known)
    scores = np.empty(BASELINE_ROWS)
    scores[split.train] = out_of_fold_scores(CONTRACT, features, known)
    scores[split.holdout] = score(model, values[split.holdout])
    calibration = scored_rows(scores[split.train], known)
    heldout = scored_rows(scores[split.holdout], labels[split.holdout])
    profile = reference_profile(CONTRACT, 1, "training", values, scores, calibration=calibration, heldout=heldout)
    return World(weights, model, Watch(CONTRACT, profile))


def law(
    rng: np.random.Generator, weights: NDArray[np.float64], z: NDArray[np.float64], shift: float = 0.0
) -> NDArray[np.int8]:
    """Labels [n] of standardised rows [n, d]; `shift` is added to their log-odds."""
    odds = np.exp(INTERCEPT + shift + z @ weights)
    positive: NDArray[np.bool_] = rng.random(len(z)) < odds / (1 + odds)
    return positive.astype(np.int8)


def measured(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standardised rows on the features' own scale and grid."""
    return (MEAN + DEVIATION * z).round(1)


def score(model: Pipeline, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Canonical scores [n] of rows [n, d]."""
    return canonical_scores(model.predict_proba(values.astype(np.float32))[:, 1])


def make_stream(world: World, kind: str, seed: int) -> Stream:
    """Four windows of one kind. The law sees the rows as they are, the model sees them as they were measured."""
    rng = np.random.default_rng([seed, *kind.encode()])
    z = rng.normal(size=(WINDOWS * ROWS, FEATURES))
    place, sign = int(rng.integers(FEATURES)), float(rng.choice([-1, 1]))
    name, _, size = kind.partition(" ")
    if name == "covariate":
        z[:, place] += sign * float(size)
    labels = law(rng, world.weights, z, sign * float(size) if name == "concept" else 0.0)
    values = measured(z)
    if name == "missing":
        values[rng.random(len(values)) < float(size), place] = np.nan
    if name == "unit":
        values[:, place] = (values[:, place] * rng.choice(UNIT_ERRORS)).round(1)
    shape = (WINDOWS, ROWS)
    return Stream(values.reshape(*shape, FEATURES), score(world.model, values).reshape(shape), labels.reshape(shape))


# --- what is decided of a stream


def called(watch: Watch, stream: Stream) -> str:
    """What the monitor calls a stream, as its evaluator does: quality before concept before covariate, or quiet.

    `performance` is what it says where accuracy fell and none of the three was shown: an alarm, and no drift.
    """
    alarms, told = Alarms(), set()
    counted: list[State] = []
    concept = declined = None
    for number in range(WINDOWS):
        window = closed(watch, number, stream.values[number], stream.scores[number])
        result, alarms = evaluate(watch, alarms, window)
        told.add(attribute(alarms, result.features, result.faults, concept, declined).kind)
        counted.append(watch.labels.add(_labels(stream, number)))
        if number + 1 == LABELLED:
            both = [Closed(one, START, window.ends, ROWS, ROWS) for one in range(LABELLED)]
            found, alarms = judge_labels(watch, alarms, both, merged(counted))
            concept, declined = found.concept, found.decline
            told.add(attribute(alarms, result.features, result.faults, concept, declined).kind)
    return next((name for name in ("quality", "concept", "covariate", "performance") if name in told), "quiet")


def _labels(stream: Stream, number: int) -> LabelRows:
    scores = stream.scores[number]
    return LabelRows(
        scores,
        scores >= CONTRACT.decision_threshold,
        stream.labels[number].astype(np.int64),
        np.ones(ROWS, dtype=np.int64),
        np.zeros(ROWS),
        [str(row) for row in range(ROWS)],
    )


# --- the peer


def peer_alarms(ask: Ask, profile: ReferenceProfile, stream: Stream) -> bool:
    """Whether the labelled rows' accuracy lies outside the band that the peer estimates for them."""
    assert profile.calibration is not None
    scores, labels = stream.scores[:LABELLED].ravel(), stream.labels[:LABELLED].ravel()
    question = {
        "threshold": CONTRACT.decision_threshold,
        "reference": _columns(profile.calibration),
        "window": {"scores": scores.tolist()},
    }
    low, high = ask(question)
    realised = float(np.mean((scores >= CONTRACT.decision_threshold) == labels))
    return not low <= realised <= high


def _columns(rows: ScoredRows) -> dict[str, list[float]]:
    """The rows one by one."""
    both = (*rows.negatives, *rows.positives)
    labels = np.repeat([0, 1], len(rows.scores))
    return {"scores": np.repeat(rows.scores * 2, both).tolist(), "labels": np.repeat(labels, both).tolist()}


# --- the figures


def main() -> int:
    """Measure every kind, print and record its figure; 1 where one is missed."""
    right = dict.fromkeys(KINDS, 0)
    alarmed = {"quiet": 0, "concept 1.2": 0}
    fell = 0
    with peer("nannyml", "cbpe") as ask:
        for seed in range(STREAMS):
            world = make_world(seed)
            for kind, wanted in KINDS.items():
                stream = make_stream(world, kind, seed)
                call = called(world.watch, stream)
                fell += kind == "quiet" and call == "performance"
                right[kind] += call == wanted or (kind == "quiet" and call == "performance")
                if kind in alarmed:
                    alarmed[kind] += peer_alarms(ask, world.watch.profile, stream)
            if seed % 20 == 19:
                say(f"{seed + 1} of {STREAMS} worlds: {right}")
    figures = [_figure(kind, right[kind], alarmed.get(kind), fell) for kind in KINDS]
    return 0 if all(record(figure).met for figure in figures) else 1


def _figure(kind: str, right: int, alarmed: int | None, fell: int) -> Figure:
    """Quiet streams by what was called drift, the others by what was called rightly; in per cent."""
    quiet = kind == "quiet"
    ours = 100 * (STREAMS - right if quiet else right) / STREAMS
    theirs = None if alarmed is None else 100 * alarmed / STREAMS
    return Figure(
        figure=f"attribution, {kind}: % of streams called {'drift' if quiet else KINDS[kind]}",
        ours=ours,
        peer=theirs,
        ratio=None if not theirs else ours / theirs,
        target="at most 1" if quiet else "at least 95",
        met=ours <= 1 if quiet else ours >= 95,
        conditions=conditions(
            "numpy",
            "scipy",
            "scikit-learn",
            streams=STREAMS,
            labels=LABELLED * ROWS,
            rows=WINDOWS * ROWS,
            reference=BASELINE_ROWS,
            quiet_streams_with_an_alarm_of_performance=fell,
            min_labels=CONTRACT.performance.min_labels,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
