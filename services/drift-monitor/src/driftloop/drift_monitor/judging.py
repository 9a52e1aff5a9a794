"""From panes to verdicts, inside the evaluator's transaction: what closed, what it proves, and which event says so."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
from psycopg import Connection

from driftloop.common.clock import Clock
from driftloop.common.envelope import Outgoing
from driftloop.common.events import Bin, DriftDetected, DriftedFeature, Evidence, FeatureValue
from driftloop.common.events import Severity as SeverityName
from driftloop.common.postgres.outbox import emit
from driftloop.common.topics import DRIFT_EVENTS
from driftloop.common.tracing import Attributes, span
from driftloop.drift_monitor.domain.attribution import Attribution, attribute
from driftloop.drift_monitor.domain.concept import ConceptTest
from driftloop.drift_monitor.domain.decline import Decline
from driftloop.drift_monitor.domain.evaluation import (
    CONCEPT,
    DECLINE,
    QUALITY,
    Alarms,
    FeatureResult,
    Watch,
    WindowResult,
    changed_since,
    evaluate,
    features_changed,
    verdict,
)
from driftloop.drift_monitor.domain.fold.base import merged
from driftloop.drift_monitor.domain.labelled import Closed, LabelledResult, judge_labels, tile_labels
from driftloop.drift_monitor.domain.panes import Pane, Window, tile
from driftloop.drift_monitor.domain.severity import Severity
from driftloop.drift_monitor.pane_store import LABELS, Version
from driftloop.drift_monitor.store import Evaluation, Seen, Store

logger = logging.getLogger(__name__)

# Looking for labels may take one part in so many of the evaluator's time.
LOOK_SHARE = 20


class Judge:
    """Moves evaluations on. It keeps nothing but what labels it has looked at, to look again only for others."""

    def __init__(self, clock: Clock, label_wait: timedelta) -> None:
        self._clock = clock
        self._label_wait = label_wait
        self._looked: dict[Version, tuple[tuple[tuple[int, int], int], float]] = {}

    def windows(
        self,
        connection: Connection,
        watch: Watch,
        version: Version,
        evaluation: Evaluation,
        panes: Sequence[Pane],
        watermark: datetime,
        seen: Seen,
    ) -> Evaluation:
        """Close what can be closed; returns the evaluation after it."""
        drift, store = watch.contract.drift, Store(connection)
        last_labels = store.last_performance(version)
        for window in tile(panes, watermark, drift.min_samples, drift.max_age_seconds):
            with span("close window", "internal", None, _said(version, evaluation.windows + 1)):
                result, alarms = evaluate(watch, evaluation.alarms, window)
                attribution = attribute(alarms, result.features, result.faults, *_tests(last_labels))
                after = replace(
                    evaluation,
                    tiled_until=window.ends,
                    alarms=alarms,
                    verdict=verdict(alarms).name,
                    windows=evaluation.windows + 1,
                    judged=evaluation.judged + window.n,
                    attribution=attribution,
                )
                number, now = after.windows, self._clock()
                store.add_window(version, number, result, attribution, _bounded(seen, window), window.state, now)
                evaluation = self._announce(connection, version, evaluation, after, result, last_labels)
                logger.info(
                    "a window was closed",
                    extra={"model": version[0], "version": version[1], "n": window.n, "raw": result.raw_severity,
                           "verdict": after.verdict, "attribution": attribution.kind},
                )  # fmt: skip
        return evaluation

    def labels(
        self, connection: Connection, watch: Watch, version: Version, evaluation: Evaluation, seen: Seen
    ) -> Evaluation:
        """Judge the closed windows that have labels enough by now; returns the evaluation after it."""
        store, begun = Store(connection), time.monotonic()
        looked = (store.panes.totals(version, LABELS), evaluation.windows)
        last, not_before = self._looked.get(version, (((-1, -1), -1), 0.0))
        if last == looked or begun < not_before:
            return evaluation
        closed = store.unlabelled_windows(version, evaluation.labelled_until)
        found, done = tile_labels(closed, watch.contract.performance, self._clock() - self._label_wait)
        for windows in found:
            evaluation = self._judge_labels(connection, watch, version, evaluation, windows, seen)
        now = time.monotonic()
        self._looked[version] = (looked[0], evaluation.windows), now + LOOK_SHARE * (now - begun)
        return replace(evaluation, labelled_until=done or evaluation.labelled_until)

    def _judge_labels(
        self,
        connection: Connection,
        watch: Watch,
        version: Version,
        evaluation: Evaluation,
        windows: Sequence[Closed],
        seen: Seen,
    ) -> Evaluation:
        store = Store(connection)
        panes = store.panes.panes(version, LABELS, windows[0].starts, windows[-1].ends)
        result, alarms = judge_labels(watch, evaluation.alarms, windows, merged(pane.state for pane in panes))
        last = store.last_window(version)
        assert last is not None
        after = replace(
            evaluation,
            alarms=alarms,
            verdict=verdict(alarms).name,
            performance_windows=evaluation.performance_windows + 1,
            attribution=attribute(alarms, last.features, last.faults, *_tests(result)),
        )
        store.add_performance_window(version, after.performance_windows, result, seen, self._clock())
        logger.info(
            "labelled rows were judged",
            extra={"model": version[0], "version": version[1], "labelled": result.labelled, "verdict": after.verdict},
        )
        return self._announce(connection, version, evaluation, after, last, result)

    def _announce(
        self,
        connection: Connection,
        version: Version,
        before: Evaluation,
        after: Evaluation,
        result: WindowResult,
        labels: LabelledResult | None,
    ) -> Evaluation:
        """Emit the event of what changed, if anything did, and remember the one that opened the alarm."""
        found = drift_event(version, before, after, result, labels, self._clock())
        if found is None:
            return after
        emit(connection, [found])
        assert isinstance(found.event, DriftDetected)
        if found.event.change == "opened":
            return replace(after, opened_by=found.id)
        return replace(after, opened_by=None) if after.verdict == Severity.GOOD.name else after


def _said(version: Version, window: int) -> Attributes:
    return {"driftloop.model.name": version[0], "driftloop.model.version": version[1], "driftloop.window": window}


def drift_event(
    version: Version,
    before: Evaluation,
    after: Evaluation,
    result: WindowResult,
    labels: LabelledResult | None,
    now: datetime,
) -> Outgoing | None:
    """The event of a verdict that changed; or of a CRITICAL one of which more is known: see `_news`."""
    was, is_now = Severity[before.verdict], Severity[after.verdict]
    news = _news(before, after)
    if was == is_now and not news:
        return None
    change = "cleared" if is_now < was else "opened"
    attribution = after.attribution or Attribution()
    event = DriftDetected(
        model_name=version[0],
        model_version=version[1],
        change="cleared" if is_now < was else "opened",
        severity=(was if is_now < was else is_now).word,
        verdict=is_now.word,
        window_start=result.starts,
        window_end=result.ends,
        detected_at=now,
        features=tuple(_feature(one) for one in result.features),
        changed_since=changed_since(after.alarms) if is_now is Severity.CRITICAL else None,
        reason=news if was == is_now else "",
        window=after.windows,
        n=result.n,
        m=max((one.m for one in result.features), default=0),
        signals=_signals(after, result, labels),
        attribution=attribution.kind,
        explanation=attribution.sentence,
        proven=_proven(after),
        retraining_blocked=_blocked(after),
        closes=before.opened_by if is_now < was else None,
    )
    identity = f"drift:{version[0]}:{version[1]}:{after.windows}.{after.performance_windows}:{change}"
    return Outgoing(DRIFT_EVENTS.name, version[0], event, identity, now)


def supersede(connection: Connection, version: Version, champion: int, now: datetime) -> None:
    """Stop evaluating a version that another has followed; its open alarm is cleared, for it tells of no one now."""
    store = Store(connection)
    evaluation = store.lock_evaluation(version)
    if evaluation is None or evaluation.superseded:
        return
    cleared = replace(
        evaluation, alarms=Alarms(), verdict=Severity.GOOD.name, opened_by=None, attribution=None, superseded=True
    )
    store.save_evaluation(version, cleared)
    event = superseded_event(version, evaluation, champion, now)
    if event is not None:
        emit(connection, [event])


def superseded_event(version: Version, evaluation: Evaluation, champion: int, now: datetime) -> Outgoing | None:
    """The event that clears a version's open alarm because another one serves; None where none is open."""
    if evaluation.verdict == Severity.GOOD.name:
        return None
    event = DriftDetected(
        model_name=version[0],
        model_version=version[1],
        change="cleared",
        severity=Severity[evaluation.verdict].word,
        verdict=Severity.GOOD.word,
        window_start=evaluation.tiled_until or now,
        window_end=evaluation.tiled_until or now,
        detected_at=now,
        features=(),
        reason=f"version {champion} serves",
        closes=evaluation.opened_by,
    )
    identity = f"superseded:{version[0]}:{version[1]}:{evaluation.windows}.{evaluation.performance_windows}"
    return Outgoing(DRIFT_EVENTS.name, version[0], event, identity, now)


def _news(before: Evaluation, after: Evaluation) -> str:
    """What changed about a verdict that was and is CRITICAL, so that who waits for it must be told."""
    if after.verdict != Severity.CRITICAL.name:
        return ""
    if _blocked(after) and not _blocked(before) and before.verdict == after.verdict:
        return "the data have become bad: nothing may be learnt from them"
    if _blocked(before) and not _blocked(after):
        return "the data are well again, the drift remains"
    if _proven(after) and not _proven(before):
        return "labels have proven it"
    if not _blocked(after) and features_changed(after.alarms) and not features_changed(before.alarms):
        return "features have drifted, too"
    return ""


def _blocked(evaluation: Evaluation) -> bool:
    """Whether nothing may be learnt now: a unit error must not teach the model."""
    return evaluation.alarms.signal(QUALITY).severity > Severity.GOOD


def _proven(evaluation: Evaluation) -> bool:
    """Whether labels, and not inputs alone, say that the model is worse."""
    return any(evaluation.alarms.signal(name).severity > Severity.GOOD for name in (CONCEPT, DECLINE))


def _tests(labels: LabelledResult | None) -> tuple[ConceptTest | None, Decline | None]:
    return (None, None) if labels is None else (labels.concept, labels.decline)


def _bounded(seen: Seen, window: Window) -> Seen:
    """For the partitions that the window has records of: from the first of them to where counting stood."""
    bounds = {
        partition: (first, seen.bounds[partition][1])
        for partition, first in sorted(window.first_offsets.items())
        if partition in seen.bounds
    }
    return Seen(seen.topic_id, bounds)


def _feature(one: FeatureResult) -> DriftedFeature:
    # A window too small to judge says nothing bad of a feature.
    raw = Severity[one.raw_severity] if one.raw_severity in Severity.__members__ else Severity.GOOD
    return DriftedFeature(
        name=one.name,
        severity=Severity[one.severity].word,
        raw_severity=raw.word,
        statistic=one.statistic,
        p=one.p,
        psi=one.psi,
        n=one.n,
        m=one.m,
        kind=one.kind,
        psi_critical=one.psi_critical,
        missing=one.missing,
        error_bound=one.error_bound,
        at=one.at,
        window_at_most=one.window_at_most,
        reference_at_most=one.reference_at_most,
        bins=tuple(Bin(bound=bound, reference=was, window=now) for bound, was, now in one.bins),
        cuts_digest=one.cuts_digest,
    )


def _signals(after: Evaluation, result: WindowResult, labels: LabelledResult | None) -> tuple[Evidence, ...]:
    """Every signal that is tested, with the numbers of its last test."""
    found = []
    for fault in result.faults:
        if fault.severity != Severity.GOOD.name:
            numbers = msgspec.structs.asdict(fault)
            found.append(Evidence(name=QUALITY, severity=Severity[numbers.pop("severity")].word, numbers=numbers))
    if labels is not None and labels.concept is not None:
        numbers = _flat(msgspec.to_builtins(labels.concept))
        found.append(Evidence(name=CONCEPT, severity=_word(after, CONCEPT), numbers=numbers))
    if labels is not None and labels.decline is not None:
        numbers = _flat(msgspec.to_builtins(labels.decline.accuracy))
        found.append(Evidence(name=DECLINE, severity=_word(after, DECLINE), numbers=numbers))
    return tuple(found)


def _word(after: Evaluation, name: str) -> SeverityName:
    return Severity(after.alarms.signal(name).severity).word


def _flat(numbers: Mapping[str, Any]) -> dict[str, FeatureValue]:
    """Pairs are (false positives, false negatives): each gets a name of its own."""
    flat: dict[str, FeatureValue] = {}
    for name, value in numbers.items():
        if isinstance(value, list | tuple):
            flat[f"{name}_false_positives"], flat[f"{name}_false_negatives"] = value
        else:
            flat[name] = int(value) if isinstance(value, bool) else value
    return flat
