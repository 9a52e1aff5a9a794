"""Predictions and results meet here, whichever comes first, by whichever door: lock → rule → save and emit.

One function for both, because one transaction may bring both and must take its locks in one order.
"""

import logging
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

from psycopg.errors import SerializationFailure

from driftloop.common import metrics
from driftloop.common.contract import Labels as Policy
from driftloop.common.envelope import Outgoing
from driftloop.common.events import LabelRetracted, PredictionLabeled, PredictionMade
from driftloop.common.postgres.outbox import Emit
from driftloop.common.topics import LABELED_PREDICTIONS
from driftloop.label_ingest.domain.labels import Change, Decision, Published, decide, publish
from driftloop.label_ingest.domain.matching import ORDER, PREDICTION, SUBJECT, matched
from driftloop.label_ingest.domain.results import Fate, Result, Version, take
from driftloop.label_ingest.domain.retries import clashes
from driftloop.label_ingest.reports import Answer, Status
from driftloop.label_ingest.store import Join, Key, Known, Match, Saved, Store, StoredPrediction

logger = logging.getLogger(__name__)

Policies = Mapping[str, Policy]
# What news came of: a prediction's, an order's or a patient's key → the trace context.
Traces = Mapping[str, str | None]


@dataclass
class Joined:
    """What one call did: an answer for each version, in order, and what is to be counted once it is committed.

    `delays` are seconds from a prediction to its first label, by model name. `clashes` counts predictions whose id
    another one bears, which they do not repeat; `erased` those of a patient who was erased since.
    """

    answers: list[Answer] = field(default_factory=list)
    delays: list[tuple[str, float]] = field(default_factory=list)
    retracted: int = 0
    clashes: int = 0
    erased: int = 0


def join(
    store: Store,
    emit: Emit,
    now: datetime,
    policies: Policies,
    predictions: Sequence[PredictionMade],
    versions: Sequence[Version],
    traces: Traces,
) -> Joined:
    """Take predictions and results, in any order of arrival and however often, and emit each change of a label."""
    joined = Joined()
    counts = _counts(predictions, versions)
    # What is known of one that has expired may name more than what comes of it now.
    expired = store.expired(one.result for one in versions) if versions else []
    counts.update(_named(expired))
    keys = store.lock_keys(counts)
    erased = [one.prediction_id for one in predictions if _erased(one, keys)] if keys else []
    kept = [one for one in predictions if not _erased(one, keys)] if erased else predictions
    joined.erased = len(erased)
    gone = _gone(store, versions, keys)
    left = [one for one, is_gone in zip(versions, gone, strict=True) if not is_gone]
    # Reversed, so that of two with one id the first stays.
    halves = {one.prediction_id: one for one in reversed(kept)}
    rows = store.lock(halves, (one.key[1:] for one in [*left, *expired] if one.key[0] == PREDICTION))
    if len(halves) < len(kept) or any(not rows[id_].fresh for id_ in halves):
        joined.clashes = sum(_clashes(rows[one.prediction_id], one) for one in kept)

    come = _Come(store, policies, rows, now)
    come.take(left, keys)
    come.match(_met(kept, keys))
    come.unpark(halves)
    changes = come.decide()
    answers = iter(come.answers())
    joined.answers = [_GONE if is_gone else next(answers) for is_gone in gone]
    if erased:
        store.drop_parked(erased)
    if changes:
        _emit(store, emit, changes, come, traces, now, joined)
    return joined


def look_again(store: Store, emit: Emit, now: datetime, policies: Policies, prediction_ids: Iterable[str]) -> Joined:
    """Make the labels of predictions anew, some of whose results are gone, and emit what that changes."""
    joined = Joined()
    come = _Come(store, policies, store.joins(prediction_ids), now)
    come.reread_all()
    changes = come.decide()
    if changes:
        _emit(store, emit, changes, come, {}, now, joined)
    return joined


def begin_counts(models: Iterable[str]) -> None:
    """Show at 0 what is counted by a label, so that the first one is seen, too."""
    metrics.begin(metrics.OUTCOMES, get_args(Status))
    metrics.begin(metrics.LABEL_DELAY, list(models))


def observe(joined: Joined) -> None:
    """Count what a call did. Call it once its transaction is committed."""
    for status, count in Counter(answer.status for answer in joined.answers).items():
        metrics.OUTCOMES.labels(status).inc(count)
        if status == "conflict":
            logger.warning("results contradict each other", extra={"outcomes": count})
    for model, seconds in joined.delays:
        metrics.LABEL_DELAY.labels(model).observe(seconds)
    metrics.LABELS_RETRACTED.inc(joined.retracted)
    if joined.clashes:
        logger.warning("predictions bear an id that is taken; the first stays", extra={"predictions": joined.clashes})
    if joined.erased:
        logger.warning("predictions of erased patients are not kept", extra={"predictions": joined.erased})


_GONE = Answer("rejected", "patient_id: was erased: what was known of this patient before is not kept")
_NOTHING = Known(Published(), contested=False)


class _Come:
    """What a batch brought, on its way through the steps of a join. `rows` grows as further join rows are looked at."""

    def __init__(self, store: Store, policies: Policies, rows: dict[str, Join], now: datetime) -> None:
        self._store = store
        self._policies = policies
        self._now = now
        self.rows = rows
        self.decisions: dict[str, Decision] = {}
        # Which result each version is of.
        self._ids: list[str] = []
        # What each version did to its result, and the result after it.
        self._fates: list[tuple[Fate, Result]] = []
        self._results: dict[str, Result] = {}
        # Results that name an order or a patient and are new or say something else now.
        self._keyed: set[str] = set()
        # Which predictions each of them belongs to.
        self._belongs: dict[str, set[str]] = {}
        # Predictions that a result named by their id, and names no more.
        self._left: set[str] = set()
        # Predictions whose results must be read again, because this batch may not hold all of them.
        self._reread: set[str] = set()
        # Predictions whose results have changed, whatever that makes of them.
        self._altered: set[str] = set()

    def take(self, versions: Sequence[Version], locked: Container[str]) -> None:
        """Fold the versions into their results, one after the other; `locked` are the keys of orders and patients.

        Raises SerializationFailure where a result has just expired that names others.
        """
        if not versions:
            return
        self._ids = [one.result for one in versions]
        by_id: dict[str, list[int]] = {}
        for place, id_ in enumerate(self._ids):
            by_id.setdefault(id_, []).append(place)
        self._fates = [(Fate.HOLDS, Result(one)) for one in versions]
        folded = (self._placed(self._fold(None, versions, places)) for places in by_id.values())
        known, fresh = self._store.lock_results(folded, self._now)
        # What has expired is known all the same: an old version that comes again is no news.
        expired = self._store.take_expired(fresh)
        if not all(self._is_locked(one.holds, locked) for one in expired.values()):
            raise SerializationFailure("a result has expired meanwhile")
        known |= expired
        fresh -= expired.keys()
        changed = []
        for id_, places in by_id.items():
            before = known[id_]
            if id_ not in fresh:
                known[id_] = self._placed(self._fold(before, versions, places))
                if known[id_] == before and id_ not in expired:
                    continue
                changed.append(known[id_])
            keys = {before.holds.key, known[id_].holds.key}
            self._altered |= {key[1:] for key in keys if key[0] == PREDICTION}
            if any(key[0] != PREDICTION for key in keys):
                self._keyed.add(id_)
            # A correction may name another prediction: the one before has lost a result.
            self._left |= {key[1:] for key in keys if key[0] == PREDICTION and key != known[id_].holds.key}
        for place in (place for id_ in expired for place in by_id[id_]):
            fate, after = self._fates[place]
            self._fates[place] = (Fate.HOLDS if fate is Fate.DUPLICATE else fate), after
        self._store.save_results(changed, self._now)
        self._results = known

    def _is_locked(self, version: Version, keys: Container[str]) -> bool:
        """Whether all that a version names is."""
        return all(key in keys for key in _named([version])) and (
            version.key[0] != PREDICTION or version.key[1:] in self.rows
        )

    def _fold(self, known: Result | None, versions: Sequence[Version], places: Sequence[int]) -> Result:
        for place in places:
            known, fate = take(known, versions[place])
            self._fates[place] = fate, known
        assert known is not None
        return known

    def _placed(self, result: Result) -> Result:
        """The result, which says whether the prediction that it names by its id is there."""
        key = result.holds.key
        # One that older news names is not at hand, and has not changed.
        if key[0] != PREDICTION or key[1:] not in self.rows:
            return result
        return Result(result.holds, result.contested, self.rows[key[1:]].taken is not None)

    def match(self, met: Sequence[str]) -> None:
        """Find the predictions of results that name an order or a patient.

        `met` are the keys of new predictions that have results: these may belong elsewhere now.
        """
        results = {id_: self._results[id_] for id_ in self._keyed}
        if met:
            results |= {id_: one for id_, one in self._store.results_of_keys(met).items() if id_ not in results}
        before = self._store.matches(results) if results else set()
        after = self._belonging(results) if results else set()
        # Who takes a result back need not say when its specimen was taken: it stays where it was.
        after |= {one for one in before if _is_timeless(results[one[1]].holds)}
        # What a corrected result says has changed, wherever it belongs.
        touched = {id_ for id_, result in before | after if result in self._keyed}
        touched |= {id_ for id_, _result in before ^ after} | self._left
        if not touched and not results:
            return
        self.rows.update(self._store.joins(touched - self.rows.keys()))
        # Some may have been erased since their results were looked at.
        touched &= self.rows.keys()
        after = {one for one in after if one[0] in touched or one in before}
        self._store.change_matches(before - after, after - before)
        self._reread |= touched
        self._altered |= touched
        self._flag(results, after)

    def _belonging(self, results: Mapping[str, Result]) -> set[Match]:
        orders = {key[1:] for one in results.values() if (key := one.holds.key)[0] == ORDER}
        subjects = {one.holds.subject for one in results.values() if one.holds.subject is not None}
        candidates = self._store.candidates(orders, subjects)
        by_order: dict[str | None, set[int]] = {}
        by_subject: dict[str | None, set[int]] = {}
        for place, one in enumerate(candidates):
            by_order.setdefault(one.order, set()).add(place)
            by_subject.setdefault(one.subject, set()).add(place)
        found: set[Match] = set()
        for name, result in results.items():
            key = result.holds.key
            near = by_order.get(key[1:], set()) if key[0] == ORDER else set()
            if result.holds.subject is not None:
                near = near | by_subject.get(result.holds.subject, set())
            ids = matched(result.holds, [candidates[place] for place in near], self._policies)
            found |= {(id_, name) for id_ in ids}
        return found

    def _flag(self, results: Mapping[str, Result], after: set[Match]) -> None:
        """Say of each result whether it belongs anywhere."""
        belongs: dict[str, set[str]] = {id_: set() for id_ in results}
        for prediction, result in after:
            belongs[result].add(prediction)
        self._belongs = belongs
        flagged = {
            id_: Result(one.holds, one.contested, bool(belongs[id_]))
            for id_, one in results.items()
            if one.holds.key[0] != PREDICTION
        }
        self._results.update(flagged)
        self._store.save_results((one for id_, one in flagged.items() if one != results[id_]), self._now)

    def unpark(self, predictions: Iterable[str]) -> None:
        """Results that named a prediction by its id before it came are parked no more."""
        waited_for = {id_ for id_ in predictions if not self.rows[id_].fresh}
        if waited_for:
            self._store.unpark(waited_for)
            self._reread |= waited_for
            self._altered |= waited_for

    def reread_all(self) -> None:
        """Look at all results of the predictions that are at hand."""
        self._reread |= self.rows.keys()

    def decide(self) -> dict[str, Change]:
        """The label of every prediction that has news, saved; what is to be published of it."""
        named = {id_ for one in self._results.values() if (id_ := _prediction_of(one)) in self.rows}
        rows = {id_: self.rows[id_] for id_ in named | self._reread}
        taken = {id_: row.taken for id_, row in rows.items() if row.taken is not None}
        old = {id_: one for id_, one in taken.items() if not rows[id_].fresh}
        known = self._store.labels(old) if old else {}
        results = self._all_results(self._reread | known.keys())
        changes: dict[str, Change] = {}
        saved: dict[str, Saved] = {}
        for id_, one in taken.items():
            before = known.get(id_, _NOTHING)
            own = [result for result in results.get(id_, []) if result.holds.model_name in (None, one.model_name)]
            decision = decide(self._policies.get(one.model_name), own)
            self.decisions[id_] = decision
            change = publish(before.published, decision)
            if change is not None:
                changes[id_] = change
            published = before.published if change is None else Published(change.label, change.revision)
            version = None if published.label is None else decision.policy_version
            now = Known(published, decision.contested, version, before.looks)
            # Who looks at the same moment must see that there is more to look at, even if it makes no difference.
            if now != before or (id_ in self._altered and id_ in results):
                saved[id_] = Saved(one, now)
        self._store.save(saved, self._now)
        return changes

    def _all_results(self, reread: set[str]) -> dict[str, list[Result]]:
        """The results of predictions: those that have had others before are read, this batch's are at hand."""
        results = self._store.results_of(reread) if reread else {}
        for result in self._results.values():
            id_ = _prediction_of(result)
            if id_ is not None and id_ not in reread:
                results.setdefault(id_, []).append(result)
        return results

    def answers(self) -> list[Answer]:
        """What became of each version, in order."""
        return [self._answer(id_, *fate) for id_, fate in zip(self._ids, self._fates, strict=True)]

    def _answer(self, id_: str, fate: Fate, after: Result) -> Answer:
        if fate is Fate.DUPLICATE:
            return Answer("duplicate")
        decisions = [self.decisions[one] for one in self._predictions(id_) if one in self.decisions]
        held = after.holds
        if fate is Fate.SUPERSEDED:
            return Answer("superseded", f"version {held.version} is known: {_holding(held, decisions)}")
        if fate is Fate.CONFLICT:
            said = f"version {held.version} was reported with two contents"
            return Answer("conflict", f"{said}: {_holding(held, decisions)} until a newer one")
        if any(one.contested for one in decisions):
            return Answer("conflict", f"results disagree: {_holding(None, decisions)} until a newer one")
        if not self._results[id_].matched:
            return Answer("parked")
        if held.withdrawn:
            return Answer("retracted")
        if any(one.label is not None for one in decisions):
            return Answer("joined")
        return Answer("waiting", f"there is no label yet: this waits for {self._waits(held, decisions)}")

    def _waits(self, held: Version, decisions: Sequence[Decision]) -> str:
        row = self.rows.get(held.key[1:]) if held.key[0] == PREDICTION else None
        if row is not None and row.taken is not None and held.model_name not in (None, row.taken.model_name):
            return f"one of its own model: the prediction is of {row.taken.model_name}"
        return next((one.waits for one in decisions if one.waits), "a final result")

    def trace(self, prediction_id: str, traces: Traces) -> str | None:
        """The trace context of what brought news of a prediction."""
        own = traces.get(PREDICTION + prediction_id)
        if own is not None:
            return own
        keys = (self._results[id_].holds.key for id_, ids in self._belongs.items() if prediction_id in ids)
        return next((one for key in keys if (one := traces.get(key)) is not None), None)

    def _predictions(self, id_: str) -> Iterable[str]:
        named = _prediction_of(self._results[id_])
        return sorted(self._belongs.get(id_, ())) if named is None else [named]


def _holding(held: Version | None, decisions: Sequence[Decision]) -> str:
    """Which label holds: that which the result states, or that of its predictions."""
    stated = None if held is None else held.label
    label = stated if stated is not None else next((one.label for one in decisions if one.label is not None), None)
    return "no label holds" if label is None else f"label {label} holds"


def _prediction_of(result: Result) -> str | None:
    """The prediction that a result names by its id."""
    key = result.holds.key
    return key[1:] if key[0] == PREDICTION else None


def _counts(predictions: Sequence[PredictionMade], versions: Iterable[Version]) -> Counter[str]:
    """The keys of orders and patients that are named, each with how many results name it."""
    counts: Counter[str] = Counter({key: 0 for made in predictions if _is_named(made) for key in _keys(made)})
    counts.update(_named(versions))
    return counts


def _named(versions: Iterable[Version]) -> Iterator[str]:
    """The keys of orders and patients that results name."""
    for one in versions:
        if one.key[0] != PREDICTION:
            yield one.key
            if one.subject is not None and one.key[0] != SUBJECT:
                yield SUBJECT + one.subject


def _is_named(made: PredictionMade) -> bool:
    return made.subject is not None or made.order is not None


def _keys(made: PredictionMade) -> list[str]:
    keys = [] if made.subject is None else [SUBJECT + made.subject]
    return keys if made.order is None else [*keys, ORDER + made.order]


def _erased(made: PredictionMade, keys: Mapping[str, Key]) -> bool:
    if made.subject is None:
        return False
    erased_at = keys[SUBJECT + made.subject].erased_at
    return erased_at is not None and made.predicted_at < erased_at


def _gone(store: Store, versions: Sequence[Version], keys: Mapping[str, Key]) -> list[bool]:
    """Which results are from before the erasure of their patient.

    Without any time that is not to be seen: one that is known has come since, for the others of then are gone.
    """
    erased = {
        one.subject: at
        for one in versions
        if one.subject is not None and (at := keys[SUBJECT + one.subject].erased_at) is not None
    }
    if not erased:
        return [False] * len(versions)
    known = store.known(one.result for one in versions if one.subject in erased and _time(one) is None)
    gone = []
    for one in versions:
        at, time = erased.get(one.subject or ""), _time(one)
        gone.append(at is not None and (one.result not in known if time is None else time < at))
        if not gone[-1]:
            # The next version of it may be in the same batch.
            known.add(one.result)
    return gone


def _time(version: Version) -> datetime | None:
    """When the specimen was taken, or else when the result was reported."""
    return version.observed_at or version.reported_at


def _met(predictions: Sequence[PredictionMade], keys: Mapping[str, Key]) -> list[str]:
    """The keys of predictions that may have results."""
    return sorted({key for made in predictions if _is_named(made) for key in _keys(made) if keys[key].results})


def _is_timeless(version: Version) -> bool:
    return version.withdrawn and version.observed_at is None and version.key[0] != PREDICTION


def _clashes(row: Join, made: PredictionMade) -> bool:
    return row.taken is not None and clashes(row.taken, made)


def _emit(
    store: Store,
    emit: Emit,
    changes: Mapping[str, Change],
    come: _Come,
    traces: Traces,
    now: datetime,
    joined: Joined,
) -> None:
    stored = store.predictions({id_: one for id_ in changes if (one := come.rows[id_].taken) is not None})
    # A result may name a prediction whose month has just been dropped.
    changes = {id_: change for id_, change in changes.items() if id_ in stored}
    emit(
        Outgoing(
            LABELED_PREDICTIONS.name,
            id_,
            _event(id_, stored[id_], change, come.decisions[id_], now),
            f"labeled:{id_}:{change.revision}",
            now,
            come.trace(id_, traces),
        )
        for id_, change in changes.items()
    )
    for id_, change in changes.items():
        if change.revision == 1:
            joined.delays.append((stored[id_].model_name, _delay(stored[id_], now)))
        joined.retracted += change.label is None


def _delay(stored: StoredPrediction, now: datetime) -> float:
    return max((now - stored.predicted_at).total_seconds(), 0.0)


def _event(
    id_: str, stored: StoredPrediction, change: Change, decision: Decision, now: datetime
) -> PredictionLabeled | LabelRetracted:
    if change.label is None:
        assert change.previous is not None
        return LabelRetracted(
            prediction_id=id_,
            model_name=stored.model_name,
            model_version=stored.model_version,
            predicted_at=stored.predicted_at,
            score=stored.score,
            prediction=stored.prediction,
            variant=stored.variant,
            previous_label=change.previous,
            label_revision=change.revision,
            retracted_at=now,
            subject=stored.subject,
        )
    return PredictionLabeled(
        prediction_id=id_,
        model_name=stored.model_name,
        model_version=stored.model_version,
        predicted_at=stored.predicted_at,
        features=stored.features,
        score=stored.score,
        prediction=stored.prediction,
        variant=stored.variant,
        label=change.label,
        previous_label=change.previous,
        label_revision=change.revision,
        labeled_at=now,
        subject=stored.subject,
        shadows=stored.shadows,
        policy_version=decision.policy_version,
        delay_seconds=_delay(stored, now),
    )
