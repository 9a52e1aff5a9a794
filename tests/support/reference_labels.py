"""What is to be known, and which labels that makes, said in sets: the join's tests compare the service with it.

It is written from the documents alone, and knows nothing of how the service goes about it: each act is done whole, one
after the other, and the labels are computed anew from all that is known. Slow and short on purpose.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from driftloop.common.contract import Labels
from driftloop.common.events import OutcomeReported

# Earlier than any time that was said, in place of one that was not.
UNSAID = datetime(1, 1, 1, tzinfo=UTC)
# Later than any, in place of that of a withdrawal.
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
# Codes of one test, which says the same of a specimen whichever it is reported under.
TESTS = {
    "4548-4": "HbA1c", "17856-6": "HbA1c", "59261-8": "HbA1c", "1558-6": "fasting", "14771-0": "fasting",
    "1518-0": "two hours",
}  # fmt: skip
STAGES = ["preliminary", "final", "corrected", "cancelled", "entered-in-error"]
CORRECTED = STAGES.index("corrected")

# Which result it is: its source and its id; where one of these is missing, also which of prediction, order and patient
# it names, and that name (else two empty texts).
Name = tuple[str, str, str, str]


@dataclass(frozen=True)
class Prediction:
    """One try of a prediction, as far as it matters to a label; patient and order by their own names."""

    id: str
    model: str
    at: datetime
    patient: str | None
    order: str | None


@dataclass(frozen=True)
class Rules:
    """The models' policies, and whether a measurement is abnormal for a model; None where its policy does not read it.

    `tie` orders two reports that differ in nothing that the documents speak of: which of them holds is the service's
    to choose, as long as it is always the same.
    """

    policies: Mapping[str, Labels]
    verdict: Callable[[str, OutcomeReported], bool | None]
    tie: Callable[[OutcomeReported], tuple[str, ...]]


@dataclass(frozen=True)
class World:
    """All that is known.

    `since` says of a result from when on it waits, if it does; `places` has the predictions that results belong to
    which name none by id; `erased` the instants of erasures, by patient.
    """

    predictions: frozenset[Prediction] = frozenset()
    said: frozenset[tuple[Name, OutcomeReported]] = frozenset()
    since: frozenset[tuple[Name, datetime]] = frozenset()
    expired: frozenset[Name] = frozenset()
    places: frozenset[tuple[Name, str]] = frozenset()
    erased: frozenset[tuple[str, datetime]] = frozenset()

    @property
    def ids(self) -> frozenset[str]:
        """The ids that predictions bear."""
        return frozenset(one.id for one in self.predictions)

    @property
    def names(self) -> frozenset[Name]:
        """The results that are known, also those that have expired."""
        return frozenset(name for name, _ in self.said)


def name_of(report: OutcomeReported) -> Name:
    """Which result a report is about."""
    own = (report.source or "", report.result_id or "")
    if all(own):
        return ("", "", *own)
    if report.prediction_id is not None:
        return ("prediction", report.prediction_id, *own)
    if report.order_id is not None:
        return ("order", report.order_id, *own)
    return ("patient", report.patient_id or "", *own)


# --- what happens


def arrived(
    world: World, predictions: Sequence[Prediction], reports: Sequence[OutcomeReported], now: datetime, rules: Rules
) -> World:
    """The world after a batch. Of several predictions that bear an id the first stays.

    A prediction from before the erasure of its patient is not kept, and with it goes what waits for it by its id.
    """
    erased = dict(world.erased)
    late = [one for one in predictions if one.patient is not None and one.at < erased.get(one.patient, UNSAID)]
    kept = {one.id: one for one in reversed(predictions) if one not in late}
    kept |= {one.id: one for one in world.predictions}
    said, since, expired = set(world.said), dict(world.since), set(world.expired)
    for report in reports:
        name = name_of(report)
        known = any(one == name for one, _ in said)
        if _is_gone(report, erased, known):
            continue
        if not known or name in expired:
            since[name] = now
        said.add((name, report))
        expired.discard(name)
    after = replace(world, predictions=frozenset(kept.values()), said=frozenset(said), expired=frozenset(expired))
    nobody = {one.id for one in late} - after.ids
    in_vain = {name for name, (one, _) in holding(after, rules).items() if one.prediction_id in nobody} - expired
    after = _without(after, in_vain)
    return _settled(world, replace(after, since=frozenset(since.items())), now, rules)


def _is_gone(report: OutcomeReported, erased: Mapping[str, datetime], known: bool) -> bool:
    """Whether a report is of a patient's time before an erasure: nobody knows of one that says no time and is new."""
    if report.prediction_id is not None or report.patient_id is None or report.patient_id not in erased:
        return False
    time = report.observed_at or report.reported_at
    return not known if time is None else time < erased[report.patient_id]


def forgotten(world: World, patient: str, now: datetime, rules: Rules) -> World:
    """The world after a patient's erasure.

    Results go that name the patient or one of the predictions. Those that name an order of the patient's go unless
    they name somebody else, or belong to a prediction that stays.
    """
    gone = {one.id for one in world.predictions if one.patient == patient}
    held = {name: one for name, (one, _) in holding(world, rules).items()}
    own = {name for name, one in held.items() if one.prediction_id is None and one.patient_id == patient}
    orders = {one.order for one in world.predictions if one.patient == patient}
    orders |= {held[name].order_id for name in own - world.expired}
    shared = {name for name, id_ in world.places if id_ not in gone}
    of_order = {
        name
        for name, one in held.items()
        if one.prediction_id is None and one.order_id in orders - {None} and one.patient_id is None
    }
    named = {name for name, one in held.items() if one.prediction_id in gone}
    after = replace(
        _without(world, own | named | (of_order - shared)),
        predictions=frozenset(one for one in world.predictions if one.patient != patient),
        places=frozenset((name, id_) for name, id_ in world.places if id_ not in gone),
        erased=frozenset({**dict(world.erased), patient: now}.items()),
    )
    return _settled(world, after, now, rules)


def waited_too_long(world: World, before: datetime, rules: Rules) -> World:
    """The world after those have expired that have waited since before then."""
    belonging = belongs(world, rules)
    stale = {name for name, since in world.since if since < before and not belonging[name]}
    return replace(world, expired=world.expired | stale)


def _without(world: World, names: Iterable[Name]) -> World:
    gone = set(names)
    return replace(
        world,
        said=frozenset(one for one in world.said if one[0] not in gone),
        since=frozenset(one for one in world.since if one[0] not in gone),
        expired=world.expired - gone,
        places=frozenset(one for one in world.places if one[0] not in gone),
    )


def _settled(before: World, after: World, now: datetime, rules: Rules) -> World:
    """The world in which every result is where it belongs; what has lost its last prediction waits from now on."""
    places = set()
    for name, (one, _) in holding(after, rules).items():
        if name in after.expired:
            continue
        places |= {(name, id_) for id_ in _belonging(one, after.predictions, rules)}
        # Who takes a result back need not say when its specimen was taken: it stays where it was, or is where it says.
        if one.prediction_id is None and one.observed_at is None and one.status in STAGES[3:]:
            places |= {(name, id_) for of, id_ in before.places if of == name and id_ in after.ids}
    after = replace(after, places=frozenset(places))
    was, is_ = belongs(before, rules), belongs(after, rules)
    waits = {name: now if was.get(name) and not is_[name] else since for name, since in after.since if name in is_}
    return replace(after, since=frozenset(waits.items()))


# --- what that makes


def holding(world: World, rules: Rules) -> dict[Name, tuple[OutcomeReported, bool]]:
    """Of each result the report that holds, and whether its version was reported with two contents."""
    versions: dict[Name, list[OutcomeReported]] = {}
    for name, report in world.said:
        versions.setdefault(name, []).append(report)
    return {name: _newest(said, rules) for name, said in versions.items()}


def belongs(world: World, rules: Rules) -> dict[Name, frozenset[str]]:
    """The predictions that each result belongs to: none where it has expired."""
    found: dict[Name, set[str]] = {name: set() for name in world.names}
    for name, (one, _) in holding(world, rules).items():
        if name not in world.expired and one.prediction_id in world.ids:
            assert one.prediction_id is not None
            found[name].add(one.prediction_id)
    for name, id_ in world.places:
        found[name].add(id_)
    return {name: frozenset(ids) for name, ids in found.items()}


def labels(world: World, rules: Rules) -> dict[str, tuple[int | None, bool]]:
    """The label of each prediction, by its id, and whether it is contested."""
    held, belonging = holding(world, rules), belongs(world, rules)
    return {
        one.id: _label(
            one.model,
            {
                name: held[name]
                for name, ids in belonging.items()
                if one.id in ids and held[name][0].model_name in (None, one.model)
            },
            rules,
        )
        for one in world.predictions
    }


def _newest(said: Sequence[OutcomeReported], rules: Rules) -> tuple[OutcomeReported, bool]:
    """The highest version; of one version what corrects or withdraws, then what is final; then what was issued last."""

    def age(one: OutcomeReported) -> tuple[int, int, datetime, int]:
        stage = STAGES.index(one.status)
        unsaid = NEVER if stage > CORRECTED else UNSAID
        return one.result_version, min(stage, CORRECTED), one.reported_at or unsaid, stage

    def rank(one: OutcomeReported) -> tuple[datetime, int, float, tuple[str, ...]]:
        # Of two reports of one version the later specimen holds, then a stated label, the higher one, then the value.
        return one.observed_at or UNSAID, -1 if one.label is None else one.label, one.value or 0.0, rules.tie(one)

    newest = [one for one in said if age(one) == max(map(age, said))]
    contents = {(one.label, one.analyte, one.value, one.unit, one.comparator) for one in newest}
    return max(newest, key=rank), len(contents) > 1


def _belonging(report: OutcomeReported, predictions: Iterable[Prediction], rules: Rules) -> frozenset[str]:
    """The predictions that a result proves which names none by id: those of its order, or else of its patient."""
    if report.prediction_id is not None:
        return frozenset()
    meant = [
        one
        for one in predictions
        if report.model_name in (None, one.model)
        and (report.analyte is None or rules.verdict(one.model, report) is not None)
    ]
    of_order = frozenset(
        one.id
        for one in meant
        if one.order is not None
        and one.order == report.order_id
        and (one.patient is None or report.patient_id is None or one.patient == report.patient_id)
        and (
            report.observed_at is None
            or abs(report.observed_at - one.at) <= timedelta(days=rules.policies[one.model].match_within_days)
        )
    )
    if of_order or report.patient_id is None or report.observed_at is None:
        return of_order
    found: set[str] = set()
    for model in {one.model for one in meant}:
        policy = rules.policies[model]
        oldest = report.observed_at - timedelta(days=policy.match_within_days)
        near = [
            (one.at, one.id)
            for one in meant
            if one.model == model and one.patient == report.patient_id and oldest <= one.at <= report.observed_at
        ]
        if near:
            found |= {id_ for _, id_ in near} if policy.match == "all" else {max(near)[1]}
    return frozenset(found)


def _label(model: str, results: Mapping[Name, tuple[OutcomeReported, bool]], rules: Rules) -> tuple[int | None, bool]:
    final = {name: one for name, one in results.items() if one[0].status in ("final", "corrected")}
    stated = [(one, *name[2:4], twice) for name, (one, twice) in final.items() if one.label is not None]
    if stated:
        winner = max(
            stated,
            key=lambda one: (
                one[0].observed_at or UNSAID, one[0].result_version, one[0].reported_at or UNSAID, *one[1:3],
                one[0].label,
            ),
        )[0]  # fmt: skip
        return winner.label, any(twice or one.label != winner.label for one, _, _, twice in stated)
    read = sorted(
        (one.observed_at or UNSAID, *name[2:4], abnormal, one.analyte or "")
        for name, (one, _) in final.items()
        if (abnormal := rules.verdict(model, one)) is not None
    )
    if not read:
        return None, False
    contested = any(twice for _, twice in final.values())
    abnormal_at = sorted({(one[0], TESTS[one[-1]]) for one in read if one[-2]})
    policy = rules.policies[model]
    if policy.decide == "single":
        return int(bool(abnormal_at)), contested
    within = timedelta(days=policy.confirm_within_days)
    if any(abs(one[0] - other[0]) <= within for i, one in enumerate(abnormal_at) for other in abnormal_at[:i]):
        return 1, contested
    return (0 if not read[-1][-2] else None), contested
