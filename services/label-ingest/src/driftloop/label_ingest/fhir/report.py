"""A DiagnosticReport is the outcomes of its results; what a result does not say of itself, the report says of it."""

from dataclasses import dataclass
from typing import Any

import msgspec

from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.fhir.body import read_resource
from driftloop.label_ingest.fhir.elements import DiagnosticReport, Observation, Reference, Resource
from driftloop.label_ingest.fhir.issues import Issue, Unusable, invalid, unprocessable
from driftloop.label_ingest.fhir.observation import WITHDRAWN, read_observation, result_name
from driftloop.label_ingest.fhir.references import PREDICTION_SYSTEM, Scope, usable_identifiers
from driftloop.label_ingest.reports import MAX_ITEMS

# The report's status as that of a result which has none.
_STATUSES = {
    "registered": "registered",
    "partial": "preliminary",
    "preliminary": "preliminary",
    "final": "final",
    "amended": "amended",
    "corrected": "corrected",
    "appended": "final",
    "cancelled": "cancelled",
    "entered-in-error": "entered-in-error",
    "unknown": "unknown",
}
_INHERITED = ("status", "subject", "based_on", "effective_date_time", "effective_instant", "effective_period",
              "issued", "specimen")  # fmt: skip
_EFFECTIVE = ("effective_date_time", "effective_instant", "effective_period")


@dataclass(frozen=True)
class Result:
    """One outcome, and the FHIRPath of what it was read from."""

    outcome: OutcomeReported
    place: str


def contained_in(resource: Resource, place: str) -> dict[str, Resource]:
    """The contained resources by `#id`. Raises Unusable where one is no resource, or two have one id."""
    found: dict[str, Resource] = {}
    for nth, raw in enumerate(resource.contained):
        where = f"{place}.contained[{nth}]"
        one = read_resource(raw, where)
        if one.id is None:
            raise invalid("required", "a contained resource has an id: give it", f"{where}.id")
        if f"#{one.id}" in found:
            raise invalid("invalid", "two contained resources have this id: give each its own", f"{where}.id")
        found[f"#{one.id}"] = one
    return found


def count_contained(report: DiagnosticReport) -> int:
    """How many results a report names that it contains, before any of them is read: each counts once."""
    return len({one.reference for one in report.result if (one.reference or "").startswith("#")})


def read_report(report: DiagnosticReport, scope: Scope, place: str, name: str | None = None) -> list[Result]:
    """The outcomes of the results that the report contains; `scope` knows them. One that is named twice is read once.

    Those that are entries of the same Bundle are read there. Raises Unusable where a result is in neither.
    """
    check_status(report, place)
    if not report.result:
        reason = "has no result: send each as a contained Observation, or as an entry of the same Bundle"
        raise unprocessable("required", reason, f"{place}.result")
    if len(report.result) > MAX_ITEMS:
        reason = f"has {len(report.result)} results: send at most {MAX_ITEMS} in a request"
        raise Unusable(Issue(413, "too-long", reason, f"{place}.result"))
    places = {local: f"{place}.contained[{nth}]" for nth, local in enumerate(scope.contained)}
    found, named = [], set[str | None]()
    for nth, reference in enumerate(report.result):
        where, local = f"{place}.result[{nth}]", reference.reference
        if local in named:
            continue
        named.add(local)
        one = _observation(reference, scope, where)
        if local not in places:
            continue
        # Its id means something in this report only.
        own = None if usable_identifiers(one.identifier) else f"{result_name(report, name, place)}{local}"
        whole = completed(one, report, contained=True)
        found.append(Result(read_observation(whole, scope, places[local], own), where))
    return found


def check_status(report: DiagnosticReport, place: str) -> None:
    """Raises Unusable where the report's status is none of FHIR's."""
    if report.status is None:
        raise invalid("required", "a DiagnosticReport has a status: give it", f"{place}.status")
    if report.status not in _STATUSES:
        raise invalid("code-invalid", f"is none of {', '.join(_STATUSES)}", f"{place}.status")


def completed(observation: Observation, report: DiagnosticReport, *, contained: bool) -> Observation:
    """The Observation with what its report says of all its results, where it does not say so itself.

    A contained result lives and dies with its report: it has its version, and is withdrawn with it.
    """
    changes: dict[str, Any] = {}
    said = _said(report)
    for name in _INHERITED:
        if getattr(observation, name) or (name in _EFFECTIVE and _has_time(observation)):
            continue
        # What the report contains, another entry cannot refer to; its own `#patient` is somebody else.
        if contained or not _is_local(said[name]):
            changes[name] = said[name]
    if contained:
        changes["meta"] = report.meta
        if said["status"] in WITHDRAWN:
            changes["status"] = said["status"]
    predictions = tuple(one for one in report.identifier if one.system == PREDICTION_SYSTEM)
    return msgspec.structs.replace(observation, identifier=observation.identifier + predictions, **changes)


def _said(report: DiagnosticReport) -> dict[str, Any]:
    said = {name: getattr(report, name) for name in _INHERITED}
    # Of several specimens nobody can tell whose the result is.
    specimen = report.specimen[0] if len(report.specimen) == 1 else None
    return said | {"status": _STATUSES.get(report.status or ""), "specimen": specimen}


def _is_local(value: object) -> bool:
    references = value if isinstance(value, tuple) else (value,)
    return any(isinstance(one, Reference) and (one.reference or "").startswith("#") for one in references)


def _has_time(observation: Observation) -> bool:
    return any(getattr(observation, name) for name in _EFFECTIVE)


def _observation(reference: Reference, scope: Scope, place: str) -> Observation:
    found = scope.find(reference.reference, place) if reference.reference else None
    if found is None:
        reason = "the result is not here: send it as a contained Observation, or as an entry of the same Bundle"
        raise unprocessable("not-found", reason, place)
    if not isinstance(found, Observation):
        raise invalid("invalid", "the result is no Observation", place)
    return found
