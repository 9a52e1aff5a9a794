"""Random histories: predictions, what laboratories say of them in all its versions, ways in which it arrives, patients
who are erased, and upkeep that sets aside what has waited too long."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

import msgspec

from driftloop.common.contract import Contract
from driftloop.common.events import Comparator, OutcomeReported, PredictionMade
from driftloop.common.pseudonyms import order_pseudonym, pseudonym
from tests.support.label_ingest import DIABETES, PSEUDONYM_KEY, made
from tests.support.predictions import START, repeatable
from tests.support.reference_labels import Prediction

# One model labels after a single abnormal result of the nearest prediction; the other one asks for a second result,
# takes all predictions of a month, and does not read the two-hour glucose.
SCREENING = DIABETES
CONFIRMING = msgspec.structs.replace(
    DIABETES,
    name="confirming",
    labels=msgspec.structs.replace(
        DIABETES.labels,
        version=7,
        decide="confirmed",
        confirm_within_days=12,
        match="all",
        match_within_days=20,
        tests=DIABETES.labels.tests[:2],
    ),
)
CONTRACTS: Mapping[str, Contract] = {one.name: one for one in (SCREENING, CONFIRMING)}
POLICIES = {name: one.labels for name, one in CONTRACTS.items()}

TWO_HOURS = "1518-0"
# Measurements, and whether they are abnormal: said by hand, from the cut-off points that the association publishes.
MEASUREMENTS: Mapping[tuple[str, float, str, Comparator | None], bool] = {
    ("4548-4", 6.4, "%", None): False,
    ("4548-4", 6.5, "%", None): True,
    ("17856-6", 14.0, "%", ">"): True,
    ("4548-4", 47.0, "mmol/mol", None): False,
    ("59261-8", 48.0, "mmol/mol", None): True,
    ("4548-4", 4.0, "%", "<"): False,
    ("1558-6", 125.9, "mg/dL", None): False,
    ("1558-6", 126.0, "mg/dL", None): True,
    ("1558-6", 1.1, "g/L", None): False,
    ("14771-0", 7.0, "mmol/L", None): True,
    ("1558-6", 6900.0, "umol/L", None): False,
    (TWO_HOURS, 200.0, "mg/dL", None): True,
    (TWO_HOURS, 11.0, "mmol/L", None): False,
}


def verdict(model: str, report: OutcomeReported) -> bool | None:
    """Whether a model's policy calls a report abnormal; None where it does not read it."""
    if report.analyte is None or report.value is None or report.unit is None:
        return None
    if model == CONFIRMING.name and report.analyte == TWO_HOURS:
        return None
    return MEASUREMENTS[report.analyte, report.value, report.unit, report.comparator]


PATIENTS = ["ann", "bob", "eve"]
# What happens in one season lies within its first days; the next one begins after its last.
SEASON = timedelta(days=60)
ARRIVALS = timedelta(days=50)

# `lost`: the transaction is rolled back at its end. `unanswered`: it is committed, but nobody learns of it, so that all
# of it is sent again at once.
Fate = Literal["kept", "lost", "unanswered"]
Item = PredictionMade | OutcomeReported


@dataclass(frozen=True)
class Batch:
    """What arrives in one transaction."""

    predictions: tuple[PredictionMade, ...]
    reports: tuple[OutcomeReported, ...]
    fate: Fate = "kept"


@dataclass(frozen=True)
class Erasure:
    """A patient's rows go."""

    patient: str


@dataclass(frozen=True)
class Upkeep:
    """What has waited so long expires, and empty rows go, in this order or in the other one."""

    parked: timedelta
    empty_first: bool = False


Act = Batch | Erasure | Upkeep


@dataclass(frozen=True)
class Round:
    """Acts that happen at the same moment."""

    now: datetime
    acts: tuple[Act, ...]


@dataclass(frozen=True)
class History:
    """Rounds, one after the other."""

    rounds: tuple[Round, ...]

    @property
    def reports(self) -> list[OutcomeReported]:
        """All that laboratories said."""
        return [one for round_ in self.rounds for act in round_.acts if isinstance(act, Batch) for one in act.reports]


_PATIENTS = {pseudonym(PSEUDONYM_KEY, one): one for one in PATIENTS}
_ORDERS = {order_pseudonym(PSEUDONYM_KEY, one): one for one in "xyz"}


def in_clear(made: PredictionMade) -> Prediction:
    """A prediction with the names of its patient and order."""
    patient = None if made.subject is None else _PATIENTS[made.subject]
    order = None if made.order is None else _ORDERS[made.order]
    return Prediction(made.prediction_id, made.model_name, made.predicted_at, patient, order)


def history(seed: int) -> History:
    """The history of a seed: seasons, between which nothing is said that did not arrive late."""
    rng = random.Random(seed)
    seasons = rng.choice([1, 1, 2, 3])
    # In some histories all is said of one prediction, in some of one version, and in some nobody says when.
    newest, timely = rng.choice([1, 3]), rng.random() < 0.7
    often = rng.choice([0.0, 0.2, 0.4])
    tries: dict[str, tuple[PredictionMade, ...]] = {}
    arriving: list[list[Item]] = [[] for _ in range(seasons)]
    rounds: list[Round] = []
    for season in range(seasons):
        new = {f"p{len(tries) + number}": None for number in range(rng.randint(2, 8 if seasons == 1 else 4))}
        tries |= {id_: tuple(_later(one, season) for one in _tries(rng, id_)) for id_ in new}
        ids = rng.choice([[*tries], [*tries], ["p0"]])
        reports = [
            _later(one, season)
            for number in range(rng.randint(1, 8 if seasons == 1 else 5))
            for one in _versions(rng, number, ids, newest, timely)
        ]
        said: list[Item] = [one for id_ in new for one in tries[id_]]
        for one in [*said, *reports]:
            arriving[season if rng.random() < 0.8 else rng.randrange(season, seasons)].append(one)
        before = [one for items in arriving[: season + 1] for one in items]
        items = [*arriving[season], *rng.choices(before, k=rng.randint(0, len(arriving[season])))]
        rng.shuffle(items)
        rounds += _rounds(rng, items, START + season * SEASON + ARRIVALS, often)
    return History(tuple(rounds))


T = TypeVar("T", PredictionMade, OutcomeReported, Item)


def _later(one: T, season: int) -> T:
    """The same, so many seasons later."""
    names = ("predicted_at", "repeatable_until", "observed_at", "reported_at")
    times = {name: at + season * SEASON for name in names if (at := getattr(one, name, None)) is not None}
    return msgspec.structs.replace(one, **times)


def _tries(rng: random.Random, id_: str) -> tuple[PredictionMade, ...]:
    """A prediction, and perhaps the same again a little later, or another one that bears its id."""
    first = _prediction(rng, id_, 24 * 60 * rng.choice([0, 1, rng.randint(0, 30)]))
    if rng.random() < 0.1:
        return first, _prediction(rng, id_, 24 * 60 * rng.randint(0, 30) + 1)
    if rng.random() < 0.7:
        return (first,)
    return repeatable(first), repeatable(msgspec.structs.replace(first, predicted_at=first.predicted_at + _HOUR))


def _prediction(rng: random.Random, id_: str, minute: int) -> PredictionMade:
    patient, order = rng.choice(["ann", "bob", None]), rng.choice(["x", "y", None, None])
    return made(
        id_,
        minute,
        model_name=rng.choice(list(CONTRACTS)),
        features={"Age": 50},
        subject=None if patient is None else pseudonym(PSEUDONYM_KEY, patient),
        order=None if order is None else order_pseudonym(PSEUDONYM_KEY, order),
    )


_HOUR = timedelta(hours=1)


def _versions(rng: random.Random, number: int, ids: Sequence[str], newest: int, timely: bool) -> list[OutcomeReported]:
    """What is said of one result: versions, amended times of issue, contradictions."""
    days = rng.choice([2, 45])
    own: dict[str, Any] = {
        "source": rng.choice([None, "north", "south"]),
        # Some laboratories give none: then all that names the same is one result.
        "result_id": rng.choice([f"L-{number}", f"L-{number}", None]),
    }
    stated = rng.random() < 0.4
    if own["source"] and own["result_id"] and rng.random() < 0.6:
        # Each version of it says anew whose it is.
        return [
            msgspec.structs.replace(
                _version(rng, own | _named(rng, ids), days, newest, stated, timely), result_version=version
            )
            for version in range(1, rng.randint(2, 4))
        ]
    names = own | _named(rng, ids)
    return [_version(rng, names, days, newest, stated, timely) for _ in range(rng.choice([1, 1, 1, 2, 3, 4]))]


def _named(rng: random.Random, ids: Sequence[str]) -> dict[str, Any]:
    """Whose a result is."""
    kinds = ["prediction", "order", "patient", "order and patient"]
    kind = rng.choice(kinds if len(ids) > 1 else kinds[:1])
    names: dict[str, Any] = {}
    if kind == "prediction":
        names["prediction_id"] = rng.choice([*ids, rng.choice([*ids, "nobody"])])
    if "order" in kind:
        names["order_id"] = rng.choice(["x", "y", "z"])
    if "patient" in kind:
        names["patient_id"] = rng.choice(PATIENTS)
    return names


def _version(
    rng: random.Random, names: Mapping[str, Any], days: int, newest: int, stated: bool, timely: bool
) -> OutcomeReported:
    one = OutcomeReported(
        **names,
        **_content(rng, stated),
        result_version=rng.randint(1, newest),
        reported_at=rng.choice([None, _day(rng), _day(rng)]) if timely else None,
        observed_at=_day(rng, days),
    )
    if one.order_id is not None and one.patient_id is not None and rng.random() < 0.2:
        # The order was somebody else's.
        one = msgspec.structs.replace(one, patient_id=rng.choice(PATIENTS))
    withdrawn = one.status in ("cancelled", "entered-in-error")
    by_name = one.patient_id is None or one.order_id is not None
    if rng.random() < 0.4 and (withdrawn or (by_name and one.analyte is None)):
        one = msgspec.structs.replace(one, observed_at=None)
    return one


def _content(rng: random.Random, stated: bool) -> dict[str, Any]:
    status = rng.choice(["preliminary", "final", "final", "final", "corrected", "cancelled", "entered-in-error"])
    if status in ("cancelled", "entered-in-error"):
        return {"status": status}
    if stated:
        return {"status": status, "label": rng.randint(0, 1), "model_name": rng.choice(list(CONTRACTS))}
    analyte, value, unit, comparator = rng.choice(list(MEASUREMENTS))
    model = rng.choice([None, None, SCREENING.name])
    said = {"analyte": analyte, "value": value, "unit": unit, "comparator": comparator, "model_name": model}
    return {"status": status} | said


def _day(rng: random.Random, days: int = 4) -> datetime:
    return START + timedelta(days=rng.randint(-1, days))


def _rounds(rng: random.Random, items: list[Item], start: datetime, often: float) -> list[Round]:
    """Batches of a few, several at once in some rounds; what was lost comes again. Between them, and at the same moment
    as often as is said, patients are erased and upkeep goes round."""
    acts: list[Act] = []
    at_once, most = rng.choice([1, 3]), rng.choice([1, 3, 8, 30])
    while items:
        size = rng.randint(1, most)
        fate = rng.choices(list[Fate](["kept", "lost", "unanswered"]), [80, 15, 5])[0]
        batch, items = _batch(items[:size], fate), items[size:]
        if fate == "lost":
            place = rng.randint(0, len(items))
            items = [*items[:place], *batch.predictions, *batch.reports, *items[place:]]
        acts.append(batch)
        if rng.random() < often:
            acts.append(_between(rng))
    groups = [tuple(acts[place : place + at_once]) for place in range(0, len(acts), at_once)]
    return [Round(start + timedelta(minutes=number), _once(group)) for number, group in enumerate(groups)]


def _between(rng: random.Random) -> Act:
    if rng.random() < 0.5:
        return Erasure(rng.choice(["ann", "bob"]))
    return Upkeep(timedelta(minutes=rng.randint(0, 5)), rng.random() < 0.5)


def _once(acts: Sequence[Act]) -> tuple[Act, ...]:
    """The acts without a second erasure of a patient at one instant, which is the first one's."""
    return tuple(one for place, one in enumerate(acts) if not isinstance(one, Erasure) or one not in acts[:place])


def _batch(items: Sequence[Item], fate: Fate) -> Batch:
    return Batch(
        tuple(one for one in items if isinstance(one, PredictionMade)),
        tuple(one for one in items if isinstance(one, OutcomeReported)),
        fate,
    )
