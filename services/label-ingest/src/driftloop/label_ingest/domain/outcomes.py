"""From what a door was given to what the join keeps: is it an outcome that can ever count, and which result is it?"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from driftloop.common.contract import Labels
from driftloop.common.events import OutcomeReported
from driftloop.common.pseudonyms import order_pseudonym, pseudonym
from driftloop.label_ingest.domain.limits import EARLIEST, LATEST
from driftloop.label_ingest.domain.matching import ORDER, PREDICTION, SUBJECT
from driftloop.label_ingest.domain.measuring import reading_problem
from driftloop.label_ingest.domain.results import SEPARATOR, Version, result_of

# How far a laboratory's clock may be ahead of ours.
CLOCK_DIFFERENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Terms:
    """What outcomes are judged by: the label policies, by model name, and the key that makes pseudonyms, if any."""

    policies: Mapping[str, Labels]
    pseudonym_key: bytes | None = None

    @property
    def analytes(self) -> frozenset[str]:
        """The LOINC codes that any policy reads."""
        return frozenset(code for one in self.policies.values() for test in one.tests for code in test.loinc)


def outcome_problem(event: OutcomeReported, terms: Terms, now: datetime) -> str | None:
    """Why an outcome can never count, or None: `field: reason`. The text holds no value of it."""
    return (
        _text_problem(event)
        or _identity_problem(event, terms)
        or _time_problem(event, now)
        or _content_problem(event, terms)
        or _name_problem(event)
    )


def version_of(event: OutcomeReported, terms: Terms) -> Version:
    """The version of a result that an outcome without a problem is."""
    order = subject = None
    if event.prediction_id is not None:
        key = PREDICTION + event.prediction_id
    else:
        assert terms.pseudonym_key is not None
        if event.patient_id is not None:
            subject = pseudonym(terms.pseudonym_key, event.patient_id)
        if event.order_id is not None:
            order = order_pseudonym(terms.pseudonym_key, event.order_id)
        key = f"{SUBJECT}{subject}" if order is None else f"{ORDER}{order}"
    only = next(iter(terms.policies)) if len(terms.policies) == 1 else None
    return Version(
        key=key,
        result=result_of(key, event.source, event.result_id),
        subject=subject,
        # Where a label is stated and one model is known here, it can be about no other one.
        model_name=event.model_name or (only if event.label is not None and key[0] != PREDICTION else None),
        version=event.result_version,
        reported_at=event.reported_at,
        status=event.status,
        observed_at=event.observed_at,
        label=event.label,
        analyte=event.analyte,
        value=event.value,
        unit=event.unit,
        comparator=event.comparator,
    )


def _text_problem(event: OutcomeReported) -> str | None:
    for name in ("result_id", "source", "order_id", "patient_id", "unit"):
        text = getattr(event, name)
        if text is None:
            continue
        if "\0" in text or SEPARATOR in text:
            return f"{name}: must not contain the characters U+0000 and U+001F"
        if not _is_text(text):
            return f"{name}: must be text that UTF-8 can say"
    return None


def _is_text(text: str) -> bool:
    return not any("\ud800" <= one <= "\udfff" for one in text)


def _identity_problem(event: OutcomeReported, terms: Terms) -> str | None:
    if event.prediction_id is None and event.order_id is None and event.patient_id is None:
        return "prediction_id: missing: say which prediction this is about, by prediction_id, order_id or patient_id"
    if event.model_name is not None and event.model_name not in terms.policies:
        return f"model_name: is none of those known here: {', '.join(sorted(terms.policies))}"
    if event.prediction_id is not None:
        return None
    if terms.pseudonym_key is None:
        return "order_id, patient_id: cannot be used until DRIFTLOOP_PSEUDONYM_KEY is set as it is for the predictor"
    if event.label is not None and event.model_name is None and len(terms.policies) > 1:
        return f"model_name: missing: say whose label this is, of {', '.join(sorted(terms.policies))}"
    withdraws = event.status in ("cancelled", "entered-in-error")
    if event.order_id is None and event.observed_at is None and not withdraws:
        return "observed_at: missing: a result that names only a patient is joined by the time of its specimen"
    return None


def _name_problem(event: OutcomeReported) -> str | None:
    """Only of a prediction's stated label is it clear without an id which result is meant."""
    if event.result_id or (event.prediction_id is not None and event.analyte is None):
        return None
    return "result_id: missing: give the laboratory's id of the result, by which it is corrected and told from others"


def _time_problem(event: OutcomeReported, now: datetime) -> str | None:
    for name in ("observed_at", "reported_at"):
        time = getattr(event, name)
        if time is None:
            continue
        if not EARLIEST <= time < LATEST:
            return f"{name}: must be between {EARLIEST.year} and {LATEST.year}"
        if time > now + CLOCK_DIFFERENCE:
            return f"{name}: is in the future: check the time, its zone and the laboratory's clock"
    return None


def _content_problem(event: OutcomeReported, terms: Terms) -> str | None:
    measured = [name for name in ("analyte", "value", "unit", "comparator") if getattr(event, name) is not None]
    if event.label is not None and measured:
        return f"label: comes with {', '.join(measured)}: send either a label or a measurement"
    if event.label is not None or event.status in ("cancelled", "entered-in-error"):
        return None
    if event.analyte is None or event.value is None or event.unit is None:
        if event.status == "preliminary" and not measured:
            return None
        missing = [name for name in ("analyte", "value", "unit") if getattr(event, name) is None]
        return f"{missing[0]}: missing: a result needs a label, or an analyte with its value and unit"
    policies = [one for name, one in terms.policies.items() if event.model_name in (None, name)]
    problem = reading_problem(policies, event.analyte, event.value, event.unit, event.comparator)
    if problem is not None:
        return problem
    confirming = any(one.decide == "confirmed" and one.test(event.analyte) is not None for one in policies)
    if confirming and event.observed_at is None:
        return "observed_at: missing: results confirm each other by the times of their specimens"
    return None
