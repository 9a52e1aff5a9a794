"""Which predictions a result belongs to that names no prediction: those of its order, or else of its patient."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

from driftloop.common.contract import Labels
from driftloop.label_ingest.domain.results import Version

ORDER, SUBJECT, PREDICTION = "o", "s", "p"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prediction that results may belong to."""

    prediction_id: str
    model_name: str
    predicted_at: datetime
    order: str | None
    subject: str | None


def matched(result: Version, candidates: Iterable[Candidate], policies: Mapping[str, Labels]) -> frozenset[str]:
    """The ids of the predictions that a result belongs to.

    It belongs to all predictions of its order, but none of another patient, and none that is further from the specimen
    than the model's policy allows: order numbers come again. Where none was made for the order, it belongs to its
    patient's: for each model the nearest one at or before the specimen, or all, as the policy says, none older than
    that allows. Of two predictions at one instant the higher id is the nearer. A measurement belongs only to models
    whose policy reads it.
    """
    if result.key[0] == PREDICTION:
        return frozenset()
    suitable = [one for one in candidates if _concerns(result, one.model_name, policies)]
    if result.key[0] == ORDER:
        of_order = frozenset(one.prediction_id for one in suitable if _is_ordered(result, one, policies))
        if of_order:
            return of_order
    if result.subject is None or result.observed_at is None:
        return frozenset()
    of_patient = sorted(
        (one for one in suitable if one.subject == result.subject),
        key=lambda one: (one.model_name, one.predicted_at, one.prediction_id),
    )
    found: set[str] = set()
    for model, group in groupby(of_patient, key=lambda one: one.model_name):
        found |= _in_time(list(group), result.observed_at, policies.get(model, Labels()))
    return frozenset(found)


def _concerns(result: Version, model: str, policies: Mapping[str, Labels]) -> bool:
    if result.model_name is not None and result.model_name != model:
        return False
    if result.analyte is None:
        return True
    policy = policies.get(model)
    return policy is not None and policy.test(result.analyte) is not None


def _is_ordered(result: Version, one: Candidate, policies: Mapping[str, Labels]) -> bool:
    if one.order != result.key[1:] or (None not in (one.subject, result.subject) and one.subject != result.subject):
        return False
    furthest = timedelta(days=policies.get(one.model_name, Labels()).match_within_days)
    return result.observed_at is None or abs(result.observed_at - one.predicted_at) <= furthest


def _in_time(ordered: Sequence[Candidate], observed_at: datetime, policy: Labels) -> set[str]:
    """Of one model's predictions, oldest first, those that a specimen proves."""
    furthest = timedelta(days=policy.match_within_days)
    near = [one for one in ordered if timedelta(0) <= observed_at - one.predicted_at <= furthest]
    return {one.prediction_id for one in (near if policy.match == "all" else near[-1:])}
