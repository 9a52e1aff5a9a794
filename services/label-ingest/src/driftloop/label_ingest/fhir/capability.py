"""What this door can do, as a CapabilityStatement."""

from typing import Any

from driftloop.label_ingest.fhir import FHIR_VERSION, MEDIA_TYPE

# When what is said here changed last.
_DATE = "2026-11-29"
_TEXT = (
    "Takes laboratory results and keeps the outcome that each one proves. Resources are not served again: they stay in "
    "the laboratory's own system."
)
_UPDATES = (
    "POST of a result that is known answers 200; a newer version of it is taken. PUT answers 200 whether or not the "
    "result was known."
)


def capability_statement() -> dict[str, Any]:
    """The CapabilityStatement resource."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": _DATE,
        "kind": "instance",
        "software": {"name": "Driftloop label-ingest"},
        "implementation": {"description": _TEXT},
        "fhirVersion": FHIR_VERSION,
        "format": [MEDIA_TYPE],
        "rest": [
            {
                "mode": "server",
                "documentation": _UPDATES,
                "resource": [_resource("Observation"), _resource("DiagnosticReport")],
                "interaction": [{"code": "transaction"}, {"code": "batch"}],
            }
        ],
    }


def _resource(kind: str) -> dict[str, Any]:
    return {
        "type": kind,
        "interaction": [{"code": "create"}, {"code": "update"}],
        "versioning": "no-version",
        "updateCreate": True,
        "conditionalCreate": True,
    }
