"""One Observation is one reported outcome, or a reason why it is none."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.fhir.elements import CodeableConcept, Component, Observation, Quantity, Report
from driftloop.label_ingest.fhir.instants import instant
from driftloop.label_ingest.fhir.issues import invalid, unprocessable
from driftloop.label_ingest.fhir.references import PREDICTION_SYSTEM, Scope, accession, known_as, usable_identifiers

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
STATUSES = {
    "registered": "preliminary",
    "preliminary": "preliminary",
    "final": "final",
    "amended": "corrected",
    "corrected": "corrected",
    "cancelled": "cancelled",
    "entered-in-error": "entered-in-error",
}
WITHDRAWN = ("cancelled", "entered-in-error")
_COMPARATORS = ("<", "<=", ">=", ">")
_LATEST_VERSION = 2**31 - 1
_MEDICAL_RECORD, _PLACER = "MR", "PLAC"
_OTHER_VALUES = tuple(
    name for name in Component.__struct_fields__
    if name.startswith("value_") and name not in ("value_quantity", "value_boolean")
)  # fmt: skip
# Where an outcome's fields come from, for what its type refuses.
_ELEMENTS = {
    "prediction_id": "identifier",
    "result_id": "identifier",
    "order_id": "basedOn",
    "patient_id": "subject",
    "analyte": "code",
    "value": "valueQuantity.value",
    "unit": "valueQuantity.code",
    "source": "identifier",
}


def read_observation(observation: Observation, scope: Scope, place: str, name: str | None = None) -> OutcomeReported:
    """The outcome that an Observation reports.

    `name` is the result's id where the Observation has no identifier, by default `Observation/<id>`. Raises Unusable.
    """
    status = _status(observation.status, place)
    fields: dict[str, Any] = {
        "prediction_id": _prediction_id(observation),
        "order_id": _order_id(observation, scope, place),
        "patient_id": _patient_id(observation, scope, place),
        "result_id": result_name(observation, name, place),
        "result_version": version_of(observation),
        "observed_at": _observed_at(observation, place),
        "reported_at": _reported_at(observation, place),
        "source": _source(observation),
        "status": status,
    }
    if status not in WITHDRAWN and all(fields[one] is None for one in ("observed_at", "prediction_id", "order_id")):
        remedy = "give effectiveDateTime with its time and zone, or name the order"
        raise unprocessable(
            "required", f"a patient's prediction is found by the specimen's exact time: {remedy}", f"{place}.effective"
        )
    return _checked(fields | _said(observation, status, place), place)


def result_name(resource: Report, name: str | None, place: str) -> str:
    """`system|value` of the resource's identifier, else the name given, else `Type/id`. Raises Unusable."""
    usable = usable_identifiers(resource.identifier)
    if usable:
        return f"{usable[0].system or ''}|{usable[0].value}"
    if name is not None:
        return name
    if resource.id is not None:
        return f"{resource.resource_type}/{resource.id}"
    reason = "a result without an identifier could be neither repeated nor corrected: give it one"
    raise unprocessable("required", reason, f"{place}.identifier")


def version_of(resource: Report) -> int:
    """`meta.versionId` where it is a whole number from 1 to 2^31 - 1, else 1: other servers' versions have no order."""
    text = (resource.meta.version_id if resource.meta is not None else None) or ""
    if len(text) <= len(str(_LATEST_VERSION)) and text.isascii() and text.isdigit():
        return version if 1 <= (version := int(text)) <= _LATEST_VERSION else 1
    return 1


def _status(status: str | None, place: str) -> str:
    if status is None:
        raise invalid("required", "an Observation has a status: give it", f"{place}.status")
    if status == "unknown":
        raise unprocessable("business-rule", "a result of unknown status proves nothing", f"{place}.status")
    if status not in STATUSES:
        raise invalid("code-invalid", f"is none of {', '.join(STATUSES)}", f"{place}.status")
    return STATUSES[status]


def _prediction_id(observation: Observation) -> str | None:
    ordered = [one.identifier for one in observation.based_on if one.identifier is not None]
    named = (one.value for one in (*observation.identifier, *ordered) if one.system == PREDICTION_SYSTEM)
    return next((value for value in named if value), None)


def _order_id(observation: Observation, scope: Scope, place: str) -> str | None:
    """The first order that is named, else the specimen's accession number."""
    for nth, reference in enumerate(observation.based_on):
        order = known_as(reference, "ServiceRequest", _PLACER, scope, f"{place}.basedOn[{nth}]")
        if order is not None:
            return order
    if observation.specimen is None:
        return None
    return accession(observation.specimen, scope, f"{place}.specimen")


def _patient_id(observation: Observation, scope: Scope, place: str) -> str | None:
    if observation.subject is None:
        return None
    return known_as(observation.subject, "Patient", _MEDICAL_RECORD, scope, f"{place}.subject")


def _observed_at(observation: Observation, place: str) -> datetime | None:
    if observation.effective_date_time is not None:
        return instant(observation.effective_date_time, f"{place}.effectiveDateTime")
    if observation.effective_instant is not None:
        return instant(observation.effective_instant, f"{place}.effectiveInstant")
    period = observation.effective_period
    return instant(period.end, f"{place}.effectivePeriod.end") if period is not None and period.end else None


def _reported_at(observation: Observation, place: str) -> datetime | None:
    return instant(observation.issued, f"{place}.issued") if observation.issued is not None else None


def _source(observation: Observation) -> str | None:
    """Who names its results: the identifier's system, else `meta.source`.

    It is part of the result's name, so it must not change from one version to the next: who performed a test may, and
    some servers put the request's id behind a `#` in `meta.source`.
    """
    usable = usable_identifiers(observation.identifier)
    if usable and usable[0].system:
        return usable[0].system
    stated = (observation.meta.source if observation.meta is not None else None) or ""
    return stated.partition("#")[0] or None


def _said(observation: Observation, status: str, place: str) -> dict[str, Any]:
    """The label, or what was measured; of a result that is withdrawn, only which test it was of."""
    if status in WITHDRAWN:
        return {"analyte": _loinc(observation.code)}
    measured, where = _measured(observation, status, place)
    others = list(_other_values(measured))
    values = others + [one for one in ("value_quantity", "value_boolean") if getattr(measured, one) is not None]
    if len(values) > 1:
        raise invalid("structure", f"has {len(values)} values, and may have one", f"{where}.value")
    if others:
        reason = "only valueQuantity (a measurement) and valueBoolean (the diagnosis itself) are taken"
        raise unprocessable("not-supported", reason, f"{where}.value")
    if measured.value_boolean is not None:
        return {"label": int(measured.value_boolean)}
    analyte = _loinc(measured.code or observation.code)
    if measured.value_quantity is not None:
        if analyte is None:
            raise unprocessable("required", f"no coding of {LOINC} says what was measured: give one", f"{where}.code")
        return {"analyte": analyte} | _quantity(measured.value_quantity, f"{where}.valueQuantity")
    if status != "preliminary":
        reason = "says why it has no value" if measured.data_absent_reason is not None else "has no value"
        raise unprocessable("required", f"a result that {reason} proves nothing: send its valueQuantity", where)
    return {"analyte": analyte}


def _measured(observation: Observation, status: str, place: str) -> tuple[Observation | Component, str]:
    """What the value stands in: the Observation, or its only component that is a measurement."""
    own = observation.value_quantity is not None or observation.value_boolean is not None
    if own or not observation.component or any(_other_values(observation)):
        return observation, place
    usable = [nth for nth, one in enumerate(observation.component) if one.value_quantity and _loinc(one.code)]
    if len(usable) == 1:
        return observation.component[usable[0]], f"{place}.component[{usable[0]}]"
    if not usable and status == "preliminary":
        return observation, place
    reason = f"has {len(usable)} components that are measurements by LOINC: send each as an Observation of its own"
    raise unprocessable("not-supported", reason, f"{place}.component")


def _other_values(measured: Observation | Component) -> Iterator[str]:
    return (name for name in _OTHER_VALUES if getattr(measured, name) is not None)


def _loinc(code: CodeableConcept | None) -> str | None:
    codings = code.coding if code is not None else ()
    return next((one.code for one in codings if one.system == LOINC and one.code), None)


def _quantity(quantity: Quantity, place: str) -> dict[str, Any]:
    if quantity.value is None:
        raise unprocessable("required", "a quantity without a number proves nothing", f"{place}.value")
    if quantity.comparator is not None and quantity.comparator not in _COMPARATORS:
        raise invalid("code-invalid", f"is none of {' '.join(_COMPARATORS)}", f"{place}.comparator")
    coded = quantity.code if quantity.system in (None, UCUM) else None
    return {"value": quantity.value, "comparator": quantity.comparator, "unit": coded or quantity.unit}


def _checked(fields: dict[str, Any], place: str) -> OutcomeReported:
    """The outcome within the bounds of its type. Raises Unusable (422)."""
    for name, value in fields.items():
        if isinstance(value, str) and "\0" in value:
            raise invalid("value", "must not contain the character U+0000", f"{place}.{_ELEMENTS[name]}")
    try:
        return msgspec.convert(fields, OutcomeReported)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$.")
        element = _ELEMENTS.get(where.removesuffix("`"))
        raise unprocessable("value", reason, f"{place}.{element}" if element else place) from error
