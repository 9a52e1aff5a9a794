"""Random histories: predictions, what laboratories say of them in all its versions, and ways in which it arrives."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import msgspec

from driftloop.common.contract import Contract
from driftloop.common.events import Comparator, OutcomeReported, PredictionMade
from driftloop.common.pseudonyms import order_pseudonym, pseudonym
from tests.support.label_ingest import DIABETES, PSEUDONYM_KEY, made
from tests.support.predictions import START, repeatable

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


@dataclass(frozen=True)
class Batch:
    """What arrives in one transaction. `lost`: it is rolled back at its end, and comes again later."""

    predictions: tuple[PredictionMade, ...]
    reports: tuple[OutcomeReported, ...]
    lost: bool = False


@dataclass(frozen=True)
class History:
    """Rounds of batches; those of one round arrive at the same moment. `tries` has all tries of each prediction."""

    rounds: tuple[tuple[Batch, ...], ...]
    tries: Mapping[str, tuple[PredictionMade, ...]]
    patients: Mapping[str, str | None]
    orders: Mapping[str, str | None]

    @property
    def reports(self) -> list[OutcomeReported]:
        """All that laboratories said."""
        return [one for batches in self.rounds for batch in batches for one in batch.reports]


def history(seed: int) -> History:
    """The history of a seed."""
    rng = random.Random(seed)
    patients: dict[str, str | None] = {}
    orders: dict[str, str | None] = {}
    tries: dict[str, tuple[PredictionMade, ...]] = {}
    for number in range(rng.randint(2, 8)):
        id_ = f"p{number}"
        patients[id_] = rng.choice(["ann", "bob", None])
        orders[id_] = rng.choice(["x", "y", None, None])
        tries[id_] = _tries(rng, id_, patients[id_], orders[id_])
    # In some histories all is said of one prediction, and in some of one version.
    ids, newest = rng.choice([[*tries], ["p0"]]), rng.choice([1, 3])
    reports = [one for number in range(rng.randint(1, 8)) for one in _versions(rng, number, ids, newest)]
    items: list[PredictionMade | OutcomeReported] = [one for tried in tries.values() for one in tried]
    items += reports
    items += rng.choices(items, k=rng.randint(0, len(items)))
    rng.shuffle(items)
    return History(tuple(_rounds(rng, items)), tries, patients, orders)


def _tries(rng: random.Random, id_: str, patient: str | None, order: str | None) -> tuple[PredictionMade, ...]:
    """A prediction, and perhaps the same again a little later."""
    first = made(
        id_,
        24 * 60 * rng.choice([0, 1, rng.randint(0, 30)]),
        model_name=rng.choice(list(CONTRACTS)),
        features={"Age": 50},
        subject=None if patient is None else pseudonym(PSEUDONYM_KEY, patient),
        order=None if order is None else order_pseudonym(PSEUDONYM_KEY, order),
    )
    if rng.random() < 0.7:
        return (first,)
    return repeatable(first), repeatable(msgspec.structs.replace(first, predicted_at=first.predicted_at + _HOUR))


_HOUR = timedelta(hours=1)


def _versions(rng: random.Random, number: int, ids: Sequence[str], newest: int) -> list[OutcomeReported]:
    """What is said of one result: versions, amended times of issue, contradictions."""
    days = rng.choice([2, 45])
    own: dict[str, Any] = {
        "source": rng.choice([None, "north", "south"]),
        # Some laboratories give none: then all that names the same is one result.
        "result_id": rng.choice([f"L-{number}", f"L-{number}", None]),
    }
    stated = rng.random() < 0.4
    if own["source"] and own["result_id"] and rng.random() < 0.4:
        # Each version of it says anew whose it is.
        return [
            msgspec.structs.replace(_version(rng, own | _named(rng, ids), days, newest, stated), result_version=version)
            for version in range(1, rng.randint(2, 4))
        ]
    names = own | _named(rng, ids)
    return [_version(rng, names, days, newest, stated) for _ in range(rng.choice([1, 1, 1, 2, 3, 4]))]


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
        names["patient_id"] = rng.choice(["ann", "bob", "eve"])
    return names


def _version(rng: random.Random, names: Mapping[str, Any], days: int, newest: int, stated: bool) -> OutcomeReported:
    one = OutcomeReported(
        **names,
        **_content(rng, stated),
        result_version=rng.randint(1, newest),
        reported_at=None if newest == 1 else rng.choice([None, _day(rng), _day(rng)]),
        observed_at=_day(rng, days),
    )
    if one.order_id is not None and one.patient_id is not None and rng.random() < 0.2:
        # The order was somebody else's.
        one = msgspec.structs.replace(one, patient_id=rng.choice(["ann", "bob", "eve"]))
    withdrawn = one.status in ("cancelled", "entered-in-error")
    by_name = one.patient_id is None or one.order_id is not None
    if rng.random() < 0.3 and (withdrawn or (by_name and one.analyte is None)):
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


def _rounds(rng: random.Random, items: list[PredictionMade | OutcomeReported]) -> list[tuple[Batch, ...]]:
    """Batches of a few, several at once in some rounds; what was lost comes again."""
    batches: list[Batch] = []
    at_once, most = rng.choice([1, 1, 4]), rng.choice([1, 3, 8, 30])
    while items:
        size = rng.randint(1, most)
        batch, items = _batch(items[:size]), items[size:]
        if rng.random() < 0.15:
            place = rng.randint(0, len(items))
            items = [*items[:place], *batch.predictions, *batch.reports, *items[place:]]
            batch = _lost(batch)
        batches.append(batch)
    return [tuple(batches[start : start + at_once]) for start in range(0, len(batches), at_once)]


def _lost(batch: Batch) -> Batch:
    """The batch whose transaction is rolled back."""
    return Batch(batch.predictions, batch.reports, lost=True)


def _batch(items: Sequence[PredictionMade | OutcomeReported]) -> Batch:
    return Batch(
        tuple(one for one in items if isinstance(one, PredictionMade)),
        tuple(one for one in items if isinstance(one, OutcomeReported)),
    )
