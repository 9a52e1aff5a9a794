"""What labels are to be, computed anew from all that was ever said: the join's tests compare the service with it.

It is written from the documents alone, and knows nothing of how the service goes about it: no order of arrival, no
batches, no row that changes. Slow and short on purpose.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from driftloop.common.contract import Labels
from driftloop.common.events import OutcomeReported, PredictionMade

# Earlier than any time that was said, in place of one that was not.
UNSAID = datetime(1, 1, 1, tzinfo=UTC)
# Later than any, in place of that of a correction.
NEVER = datetime(9999, 1, 1, tzinfo=UTC)
# Codes of one test, which says the same of a specimen whichever it is reported under.
TESTS = {
    "4548-4": "HbA1c", "17856-6": "HbA1c", "59261-8": "HbA1c", "1558-6": "fasting", "14771-0": "fasting",
    "1518-0": "two hours",
}  # fmt: skip
STAGES = ["preliminary", "final", "corrected", "cancelled", "entered-in-error"]

# Which result it is: its source and its id; where one of these is missing, also which of prediction, order and patient
# it names, and that name (else two empty texts).
Name = tuple[str, str, str, str]
# Whether a measurement is abnormal for a model; None where its policy does not read it.
Verdict = Callable[[str, OutcomeReported], bool | None]


@dataclass(frozen=True)
class Truth:
    """What results are and make: the label and whether it is contested, by prediction id, and who belongs to what.

    `timeless` are those that were taken back without a word on when their specimen was: nobody can tell from what holds
    where they belong. `by_id` are those that name a prediction.
    """

    labels: Mapping[str, int | None]
    contested: Mapping[str, bool]
    belongs: Mapping[Name, frozenset[str]]
    timeless: frozenset[Name]
    by_id: frozenset[Name]


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


def truth(
    predictions: Sequence[tuple[PredictionMade, str | None, str | None]],
    reports: Iterable[OutcomeReported],
    policies: Mapping[str, Labels],
    verdict: Verdict,
) -> Truth:
    """The labels of predictions, each given with its patient and its order, that all the reports make together."""
    versions: dict[Name, list[OutcomeReported]] = {}
    for report in reports:
        versions.setdefault(name_of(report), []).append(report)
    held = {name: _newest(said) for name, said in versions.items()}
    belongs = {name: _belonging(one, predictions, policies, verdict) for name, (one, _) in held.items()}
    labels: dict[str, int | None] = {}
    contested: dict[str, bool] = {}
    for made, _patient, _order in predictions:
        own = {
            name: held[name]
            for name in held
            if made.prediction_id in belongs[name] and held[name][0].model_name in (None, made.model_name)
        }
        labels[made.prediction_id], contested[made.prediction_id] = _label(made.model_name, own, policies, verdict)
    timeless = frozenset(
        name for name, (one, _) in held.items() if one.observed_at is None and one.status in STAGES[3:]
    )
    by_id = frozenset(name for name, (one, _) in held.items() if one.prediction_id is not None)
    return Truth(labels, contested, belongs, timeless, by_id)


def _newest(said: Sequence[OutcomeReported]) -> tuple[OutcomeReported, bool]:
    """The report that holds, and whether its version was reported with two contents."""

    def age(one: OutcomeReported) -> tuple[int, int, datetime, int]:
        stage, correcting = STAGES.index(one.status), STAGES.index("corrected")
        unsaid = NEVER if stage > correcting else UNSAID
        return one.result_version, min(stage, correcting), one.reported_at or unsaid, stage

    newest = [one for one in said if age(one) == max(map(age, said))]
    contents = {(one.label, one.analyte, one.value, one.unit, one.comparator) for one in newest}
    return max(newest, key=_rank), len(contents) > 1


def _rank(one: OutcomeReported) -> tuple[datetime, int, float, str]:
    """Of two reports of one version the later specimen holds, then a stated label, the higher one, then the value.

    Those that say the same may still be of two models: then that of the higher name holds.
    """
    return (
        one.observed_at or UNSAID,
        -1 if one.label is None else one.label,
        one.value or 0.0,
        one.model_name or "",
    )


def _belonging(
    report: OutcomeReported,
    predictions: Sequence[tuple[PredictionMade, str | None, str | None]],
    policies: Mapping[str, Labels],
    verdict: Verdict,
) -> frozenset[str]:
    """The predictions that a result proves: the one it names, or those of its order, or of its patient."""
    if report.prediction_id is not None:
        return frozenset(made.prediction_id for made, _, _ in predictions if made.prediction_id == report.prediction_id)
    meant = [
        (made, patient, order)
        for made, patient, order in predictions
        if report.model_name in (None, made.model_name)
        and (report.analyte is None or verdict(made.model_name, report) is not None)
    ]
    of_order = frozenset(
        made.prediction_id
        for made, patient, order in meant
        if order is not None
        and order == report.order_id
        and (patient is None or report.patient_id is None or patient == report.patient_id)
        and (
            report.observed_at is None
            or abs(report.observed_at - made.predicted_at)
            <= timedelta(days=policies[made.model_name].match_within_days)
        )
    )
    if of_order or report.patient_id is None or report.observed_at is None:
        return of_order
    found: set[str] = set()
    for model in {made.model_name for made, _, _ in meant}:
        policy = policies[model]
        oldest = report.observed_at - timedelta(days=policy.match_within_days)
        near = [
            (made.predicted_at, made.prediction_id)
            for made, patient, _ in meant
            if made.model_name == model
            and patient == report.patient_id
            and oldest <= made.predicted_at <= report.observed_at
        ]
        if near:
            found |= {id_ for _, id_ in near} if policy.match == "all" else {max(near)[1]}
    return frozenset(found)


def _label(
    model: str, results: Mapping[Name, tuple[OutcomeReported, bool]], policies: Mapping[str, Labels], verdict: Verdict
) -> tuple[int | None, bool]:
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
        if (abnormal := verdict(model, one)) is not None
    )
    if not read:
        return None, False
    contested = any(twice for _, twice in final.values())
    abnormal_at = sorted({(one[0], TESTS[one[-1]]) for one in read if one[-2]})
    policy = policies[model]
    if policy.decide == "single":
        return int(bool(abnormal_at)), contested
    within = timedelta(days=policy.confirm_within_days)
    if any(abs(one[0] - other[0]) <= within for i, one in enumerate(abnormal_at) for other in abnormal_at[:i]):
        return 1, contested
    return (0 if not read[-1][-2] else None), contested
