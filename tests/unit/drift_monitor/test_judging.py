"""Which events are emitted, and that a person can compute each number in them anew."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import jsonschema
import msgspec
import numpy as np
import pytest
from scipy import stats

from driftloop.common.contract import Feature
from driftloop.common.envelope import Outgoing, decode_event, encode_event
from driftloop.common.events import Bin, DriftDetected, json_schema
from driftloop.common.profile import categorical_reference
from driftloop.drift_monitor.domain.alarm import FeatureAlarm, Signal
from driftloop.drift_monitor.domain.attribution import attribute
from driftloop.drift_monitor.domain.evaluation import (
    CONCEPT,
    DECLINE,
    QUALITY,
    Alarms,
    Watch,
    WindowResult,
    evaluate,
    verdict,
)
from driftloop.drift_monitor.domain.labelled import Closed, LabelledResult, judge_labels
from driftloop.drift_monitor.judging import drift_event, superseded_event
from driftloop.drift_monitor.store import Evaluation
from tests.unit.drift_monitor.builders import (
    Rows,
    at,
    labels_of,
    lawful_rows,
    scored,
    watch_of,
    watch_of_column,
    window_of,
    window_of_column,
)

VERSION = ("model", 3)
NOW = at(1000)
RNG = np.random.default_rng(13)
REFERENCE = RNG.normal(105, 15, size=(768, 2)).round(1)
REFERENCE[:40, 1] = np.nan
WINDOW = RNG.normal(117, 12, size=(500, 2)).round(1)
WINDOW[:25, 1] = np.nan
WATCH = watch_of(REFERENCE, calibration=scored(*lawful_rows(1, 1000)), heldout=scored(*lawful_rows(2, 500)))
LEVELS = {"W": 1, "C": 2}


def evaluated(opened: str, windows: int = 1, opened_by: str | None = None) -> Evaluation:
    """After a window with these alarms open: a feature x or y, quality, concept, performance; each W or C."""
    levels = dict(one.split(":") for one in opened.split())
    features = {
        name: FeatureAlarm(severity=LEVELS[level], second_critical=at(60) if level == "C" else None)
        for name, level in levels.items()
        if len(name) == 1
    }
    signals = {name: Signal(severity=LEVELS[level], since=at(30)) for name, level in levels.items() if len(name) > 1}
    alarms = Alarms(features=features, signals=signals)
    return Evaluation(alarms=alarms, verdict=verdict(alarms).name, windows=windows, opened_by=opened_by)


def emitted(before: str, after: str, opened_by: str | None = "event-1") -> Outgoing | None:
    return drift_event(VERSION, evaluated(before, 1, opened_by), evaluated(after, 2, opened_by), window(), None, NOW)


def event_of(found: Outgoing | None) -> DriftDetected:
    assert found is not None
    assert isinstance(found.event, DriftDetected)
    return found.event


def told(before: str, after: str, opened_by: str | None = "event-1") -> DriftDetected:
    return event_of(emitted(before, after, opened_by))


def window(rows: Rows = WINDOW, watch: Watch = WATCH) -> WindowResult:
    return evaluate(watch, Alarms(), window_of(watch, rows))[0]


def labels() -> tuple[LabelledResult, Alarms]:
    """Labels of a law that was turned round."""
    scores, truth = lawful_rows(3, 1000)
    state = WATCH.labels.add(labels_of(scores, 1 - truth))
    return judge_labels(WATCH, Alarms(), [Closed(1, at(0), at(60), 1200, 1000)], state)


# --- when


@pytest.mark.parametrize(
    ("before", "after", "change", "severity", "holds"),
    [
        ("", "x:W", "opened", "WARNING", "WARNING"),
        ("", "x:C", "opened", "CRITICAL", "CRITICAL"),
        ("x:W", "x:C", "opened", "CRITICAL", "CRITICAL"),
        ("x:W", "x:W y:C", "opened", "CRITICAL", "CRITICAL"),
        ("", "quality:C", "opened", "CRITICAL", "CRITICAL"),
        ("", "concept:C", "opened", "CRITICAL", "CRITICAL"),
        ("", "performance:C", "opened", "CRITICAL", "CRITICAL"),
        ("x:C", "x:W", "cleared", "CRITICAL", "WARNING"),
        ("x:C y:W", "y:W", "cleared", "CRITICAL", "WARNING"),
        ("x:C", "", "cleared", "CRITICAL", "GOOD"),
        ("x:W", "", "cleared", "WARNING", "GOOD"),
        ("quality:C", "", "cleared", "CRITICAL", "GOOD"),
        ("quality:C x:W", "x:W", "cleared", "CRITICAL", "WARNING"),
    ],
)
def test_a_verdict_that_changed_is_told(before: str, after: str, change: str, severity: str, holds: str) -> None:
    event = told(before, after)
    assert (event.change, event.severity, event.verdict, event.reason) == (change, severity, holds, "")


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("x:C", "x:C quality:C", "the data have become bad: nothing may be learnt from them"),
        ("x:C", "x:C quality:W", "the data have become bad: nothing may be learnt from them"),
        ("concept:C", "concept:C quality:C", "the data have become bad: nothing may be learnt from them"),
        ("x:C", "quality:C", "the data have become bad: nothing may be learnt from them"),
        ("x:C quality:C", "x:C", "the data are well again, the drift remains"),
        ("quality:C", "x:C", "the data are well again, the drift remains"),
        ("x:C quality:W", "x:C", "the data are well again, the drift remains"),
        ("quality:C concept:C", "concept:C", "the data are well again, the drift remains"),
        ("x:C", "x:C concept:C", "labels have proven it"),
        ("x:C", "x:C performance:C", "labels have proven it"),
        ("x:C quality:C", "x:C quality:C concept:C", "labels have proven it"),
        ("concept:C", "concept:C x:C", "features have drifted, too"),
        ("performance:C", "performance:C x:C", "features have drifted, too"),
    ],
)
def test_what_is_new_of_a_critical_verdict_is_told_with_its_reason(before: str, after: str, reason: str) -> None:
    event = told(before, after)
    assert (event.change, event.severity, event.verdict, event.reason) == ("opened", "CRITICAL", "CRITICAL", reason)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("x:W", "x:W"),
        ("x:W", "y:W"),
        ("x:W", "x:W y:W"),
        ("x:W", "x:W quality:W"),
        ("x:W quality:W", "x:W"),
        ("x:C", "x:C"),
        ("x:C", "x:C y:C"),
        ("x:C", "y:C"),
        ("x:C y:W", "x:C"),
        ("quality:C", "quality:C"),
        ("quality:C", "quality:C x:C"),
        ("quality:C", "quality:C x:W"),
        ("quality:C x:C", "quality:W x:C"),
        ("concept:C", "concept:C performance:C"),
        ("concept:C performance:C", "performance:C"),
        ("x:C concept:C", "x:C"),
        ("concept:C x:C", "concept:C"),
    ],
)
def test_what_changes_no_verdict_and_nothing_of_what_must_be_known_is_not_told(before: str, after: str) -> None:
    assert emitted(before, after) is None


# --- what it says


@pytest.mark.parametrize(
    ("after", "proven", "blocked"),
    [
        ("x:C", False, False),
        ("x:C quality:W", False, True),
        ("quality:C", False, True),
        ("concept:C", True, False),
        ("x:C performance:C", True, False),
        ("concept:C quality:C", True, True),
    ],
)
def test_it_says_whether_labels_have_proven_it_and_whether_the_data_are_bad(
    after: str, proven: bool, blocked: bool
) -> None:
    event = told("", after)
    assert (event.proven, event.retraining_blocked) == (proven, blocked)


@pytest.mark.parametrize(
    ("after", "since"),
    [("x:C", at(60)), ("concept:C", at(30)), ("x:C concept:C", at(60)), ("x:W", None), ("quality:C", None)],
)
def test_it_says_since_when_the_population_is_a_new_one(after: str, since: datetime | None) -> None:
    event = told("", after)
    assert event.changed_since == since


@pytest.mark.parametrize(
    ("before", "after", "opened_by", "closes"),
    [
        ("x:C", "", "event-1", "event-1"),
        ("x:C", "x:W", "event-1", "event-1"),
        ("x:C", "", None, None),
        ("x:W", "x:C", "event-1", None),
        ("x:C", "x:C concept:C", "event-1", None),
    ],
)
def test_what_clears_an_alarm_names_the_event_that_opened_it(
    before: str, after: str, opened_by: str | None, closes: str | None
) -> None:
    event = told(before, after, opened_by)
    assert event.closes == closes


def test_it_tells_of_the_window_that_decided() -> None:
    event, result = told("", "x:C"), window()
    assert (event.window_start, event.window_end, event.window, event.n) == (result.starts, result.ends, 2, 500)
    assert (event.model_name, event.model_version, event.detected_at) == (*VERSION, NOW)
    assert (event.m, [one.name for one in event.features]) == (768, ["x0", "x1"])


def test_it_says_which_drift_it_is_in_a_sentence() -> None:
    result = window()
    alarms = Alarms(features={"x0": FeatureAlarm(severity=2, second_critical=at(60))})
    found = attribute(alarms, result.features, result.faults, None, None)
    after = replace(evaluated("x:C"), alarms=alarms, attribution=found)
    event = event_of(drift_event(VERSION, evaluated(""), after, result, None, NOW))
    assert (event.attribution, event.explanation) == ("covariate", found.sentence)


def test_a_window_of_few_rows_says_nothing_bad_of_a_feature() -> None:
    labelled, alarms = labels()
    after = Evaluation(alarms=alarms, verdict="CRITICAL", windows=1, performance_windows=1)
    event = event_of(drift_event(VERSION, Evaluation(windows=1), after, window(WINDOW[:100]), labelled, NOW))
    assert {one.raw_severity for one in event.features} == {"GOOD"}


# --- its name


def identity(before: Evaluation, after: Evaluation) -> str:
    found = drift_event(VERSION, before, after, window(), None, NOW)
    assert found is not None
    assert (found.topic, found.key) == ("drift-events", "model")
    return found.id


def test_the_same_event_has_the_same_id_and_every_other_another() -> None:
    names = [
        identity(evaluated("", 1), evaluated("x:C", 2)),
        identity(evaluated("x:C", 2), evaluated("", 3)),
        identity(evaluated("", 3), evaluated("x:C", 4)),
        identity(evaluated("x:C", 4), replace(evaluated("x:C concept:C", 4), performance_windows=1)),
    ]
    assert len(set(names)) == len(names)
    assert identity(evaluated("", 1), evaluated("x:C", 2)) == names[0]
    assert names[1:] == ["drift:model:3:3.0:cleared", "drift:model:3:4.0:opened", "drift:model:3:4.1:opened"]


# --- a version that another follows


def test_a_version_that_another_follows_has_its_open_alarm_cleared() -> None:
    event = event_of(superseded_event(VERSION, evaluated("x:C", opened_by="event-1"), 4, NOW))
    assert (event.change, event.severity, event.verdict) == ("cleared", "CRITICAL", "GOOD")
    assert (event.closes, event.reason, event.changed_since) == ("event-1", "version 4 serves", None)
    assert decode_event("driftloop.DriftDetected", encode_event(event)) == event


def test_a_version_without_an_open_alarm_goes_in_silence() -> None:
    assert superseded_event(VERSION, evaluated(""), 4, NOW) is None


# --- its numbers


@pytest.fixture(scope="module")
def event() -> dict[str, Any]:
    """An event with every kind of evidence, as JSON."""
    labelled, alarms = labels()
    rows = WINDOW.copy()
    rows[100:250, 1] = np.nan
    result, moved = evaluate(WATCH, alarms, window_of(WATCH, rows))
    after = Evaluation(alarms=moved, verdict=verdict(moved).name, windows=1, performance_windows=1)
    found = drift_event(VERSION, Evaluation(), after, result, labelled, NOW)
    assert found is not None
    assert decode_event("driftloop.DriftDetected", encode_event(found.event)) == found.event
    decoded: dict[str, Any] = msgspec.json.decode(encode_event(found.event) or b"")
    return decoded


def numbers(event: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (one["numbers"] for one in event["signals"] if one["name"] == name)
    assert isinstance(found, dict)
    return found


def test_it_keeps_to_its_published_schema(event: dict[str, Any]) -> None:
    schema = json_schema(DriftDetected)
    jsonschema.Draft202012Validator(schema).validate(event)


def test_d_and_its_p_can_be_computed_anew_from_the_event_and_from_the_rows() -> None:
    found = told("", "x:C")
    for place, feature in enumerate(found.features):
        was, now = (column[~np.isnan(column)] for column in (REFERENCE[:, place], WINDOW[:, place]))
        assert feature.at is not None
        assert feature.window_at_most is not None
        assert feature.reference_at_most is not None
        d = abs(feature.window_at_most / feature.n - feature.reference_at_most / feature.m)
        assert feature.statistic == pytest.approx(d, abs=1e-12)
        assert (feature.n, feature.m, feature.missing) == (len(now), len(was), int(np.isnan(WINDOW[:, place]).sum()))
        assert feature.window_at_most == (now <= feature.at).sum()
        assert feature.reference_at_most == (was <= feature.at).sum()
        theirs = stats.ks_2samp(was, now)
        assert (feature.statistic, feature.p) == pytest.approx((theirs.statistic, theirs.pvalue), abs=1e-9)


def test_psi_and_its_critical_value_can_be_computed_anew_from_the_bins() -> None:
    found = told("", "x:C")
    for feature in found.features:
        assert feature.psi == pytest.approx(index_of(feature.bins), abs=1e-12)
        n, m = sum(one.window for one in feature.bins), sum(one.reference for one in feature.bins)
        assert (n, m) == (500, 768)
        critical = stats.chi2.ppf(0.95, len(feature.bins) - 1) * (1 / n + 1 / m)
        assert feature.psi_critical == pytest.approx(critical)


def test_the_bins_can_be_counted_anew_from_the_rows() -> None:
    found = told("", "x:C")
    for place, feature in enumerate(found.features):
        edges = [-np.inf, *(one.bound for one in feature.bins if isinstance(one.bound, float)), np.inf]
        counts = [[one.reference, one.window] for one in feature.bins]
        both = REFERENCE[:, place], WINDOW[:, place]
        expected = [[int(((low < rows) & (rows <= high)).sum()) for rows in both] for low, high in pairwise(edges)]
        if place == 1:
            expected.append([int(np.isnan(rows).sum()) for rows in both])
        assert counts == expected


def test_a_categorys_distance_and_psi_can_be_computed_anew_from_the_bins() -> None:
    reference = categorical_reference("c", ("a", "b", "c"), ["a"] * 400 + ["b"] * 300 + [None] * 68)
    watch = watch_of_column(reference, Feature(name="c", type="category", categories=("a", "b", "c")))
    values = np.array(["a"] * 100 + ["b"] * 200 + ["c"] * 150 + [None] * 50, dtype=np.object_)
    result, _ = evaluate(watch, Alarms(), window_of_column(watch, "c", values))
    event = event_of(drift_event(VERSION, evaluated(""), evaluated("c:C"), result, None, NOW))
    (feature,) = event.features
    bins = {one.bound: (one.reference, one.window) for one in feature.bins}
    assert bins == {"a": (400, 100), "b": (300, 200), "other": (0, 150), "missing": (68, 50)}
    assert feature.psi == pytest.approx(index_of(feature.bins), abs=1e-12)
    assert feature.statistic == pytest.approx(sum(abs(was / 700 - now / 450) for was, now in [*bins.values()][:3]) / 2)


def test_the_tests_of_bad_data_can_be_computed_anew(event: dict[str, Any]) -> None:
    found = numbers(event, QUALITY)
    share = found["count"] / found["n"] - found["reference_count"] / found["m"]
    pooled = (found["count"] + found["reference_count"]) / (found["n"] + found["m"])
    z = share / np.sqrt(pooled * (1 - pooled) * (1 / found["n"] + 1 / found["m"]))
    assert (found["feature"], found["fault"], found["count"]) == ("x1", "missing", 175)
    assert found["p"] == pytest.approx(stats.norm.sf(z))


def test_the_test_of_the_law_can_be_computed_anew(event: dict[str, Any]) -> None:
    found = numbers(event, CONCEPT)
    wrong = ("false_positives", "false_negatives")
    gap = np.array([found[f"realised_{name}"] - found[f"estimated_{name}"] for name in wrong])
    variances = [found[f"sampling_variance_{name}"] + found[f"calibration_variance_{name}"] for name in wrong]
    covariance = found["calibration_covariance"]
    variance = np.diag(variances) + found["margin"] ** 2 * np.eye(2) + covariance * (1 - np.eye(2))
    statistic = gap @ np.linalg.solve(variance, gap)
    assert found["statistic"] == pytest.approx(statistic)
    assert found["p"] == pytest.approx(stats.chi2.sf(statistic, 2))
    assert (found["concept"], found["n"]) == (1, 1000)


def test_the_test_of_performance_can_be_computed_anew(event: dict[str, Any]) -> None:
    found = numbers(event, DECLINE)
    then = [found["heldout_right"], found["heldout_rows"] - found["heldout_right"]]
    now = [found["right"], found["rows"] - found["right"]]
    assert found["p"] == pytest.approx(stats.fisher_exact(np.array([then, now]), alternative="greater").pvalue)
    assert (found["rows"], found["heldout_rows"]) == (1000, 500)


def test_every_signal_says_how_bad_it_is(event: dict[str, Any]) -> None:
    assert {one["name"]: one["severity"] for one in event["signals"]} == {
        QUALITY: "CRITICAL", CONCEPT: "CRITICAL", DECLINE: "CRITICAL",
    }  # fmt: skip


def index_of(bins: Sequence[Bin]) -> float:
    """PSI: no share is taken for less than .0001, and none is changed for that."""
    p, q = (np.maximum(counts / counts.sum(), 1e-4) for counts in np.array([(b.reference, b.window) for b in bins]).T)
    return float(((q - p) * np.log(q / p)).sum())
