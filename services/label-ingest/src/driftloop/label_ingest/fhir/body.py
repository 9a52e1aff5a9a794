"""From bytes to resources: JSON in UTF-8, each member given once, each resource of the type that it says."""

import json
import re
from collections import Counter
from email.message import Message
from typing import Any, TypeVar

import msgspec

from driftloop.label_ingest.fhir.elements import Bundle, DiagnosticReport, Named, Observation, Resource, Specimen
from driftloop.label_ingest.fhir.issues import Issue, Unusable, invalid

T = TypeVar("T")
_MEDIA_TYPES = ("application/fhir+json", "application/json+fhir", "application/json", "text/json")
_R4 = ("4.0", "4.3")
_SHOWN_NAMES = 5
_NAME = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]{0,63}\Z")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_json = msgspec.json.Decoder()
_resource = msgspec.json.Decoder(Resource)
_decoders: dict[str, msgspec.json.Decoder[Any]] = {
    "Observation": msgspec.json.Decoder(Observation),
    "DiagnosticReport": msgspec.json.Decoder(DiagnosticReport),
    "Specimen": msgspec.json.Decoder(Specimen),
    "Patient": msgspec.json.Decoder(Named),
    "ServiceRequest": msgspec.json.Decoder(Named),
    "Bundle": msgspec.json.Decoder(Bundle),
}


def check_media_type(content_type: str | None) -> None:
    """Raises Unusable (415) where the body is said to be no FHIR R4 in JSON; nothing said is taken for JSON."""
    if content_type is None:
        return
    header = Message()
    header["content-type"] = content_type
    kind = header.get_content_type()
    if "xml" in kind:
        raise _unsupported("XML is not taken: send JSON, as application/fhir+json")
    if kind not in _MEDIA_TYPES:
        raise _unsupported("the body's media type is not FHIR's: send JSON, as application/fhir+json")
    if _parameter(header, "charset", "utf-8").lower() not in ("utf-8", "utf8"):
        raise _unsupported("the body's character set is not UTF-8: send JSON in UTF-8")
    if _parameter(header, "fhirversion", _R4[0]) not in _R4:
        raise _unsupported("the body is of another version of FHIR: send R4, fhirVersion=4.0")


def _parameter(header: Message, name: str, otherwise: str) -> str:
    return str(header.get_param(name, otherwise))


def _unsupported(diagnostics: str) -> Unusable:
    return Unusable(Issue(415, "not-supported", diagnostics))


def read_body(body: bytes) -> Resource:
    """The resource that a body is. Raises Unusable (400)."""
    if not body.strip():
        raise invalid("structure", "the body is empty: send one resource in JSON")
    try:
        # All of it, also the elements that are passed over: what is not JSON is not taken in part.
        document = _json.decode(body)
        twice = _given_twice(body)
    except RecursionError as error:
        raise invalid("structure", "the body is nested too deeply: send plain FHIR R4 resources") from error
    except (*_UNREADABLE, ValueError) as error:
        reason = "no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        remedy = "send JSON in UTF-8, without a byte-order mark, NaN or Infinity"
        raise invalid("structure", f"the body is not JSON ({reason}): {remedy}") from error
    if not isinstance(document, dict):
        raise invalid("structure", "the body is no JSON object: send one resource")
    if twice:
        raise invalid("structure", f"{', '.join(twice)}: given more than once in one object: give each member once")
    return read_resource(body)


def read_resource(raw: bytes | msgspec.Raw, place: str | None = None) -> Resource:
    """One resource as its own type, or as a bare Resource where nothing else of it is read.

    `place` is its FHIRPath, by default its type. Raises Unusable (400).
    """
    kind = decode(raw, _resource, place or "Resource").resource_type
    decoder = _decoders.get(kind, _resource)
    found: Resource = decode(raw, decoder, place or (kind if kind in _decoders else "Resource"))
    return found


def decode(raw: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[T], place: str) -> T:
    """A part of a body that is known to be JSON. Raises Unusable (400), which names the element."""
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).partition(" - at `$")
        raise invalid("structure", reason, place + where.removesuffix("`")) from error
    except _UNREADABLE as error:
        raise invalid("structure", "there is no resource: send one in JSON", place) from error


def _given_twice(body: bytes) -> list[str]:
    """Names that an object of the body gives twice, those that could be FHIR's; others are not repeated to the sender.

    Which of both is meant, nobody can tell, and a decoder takes the last in silence.
    """
    twice: set[str] = set()

    def look(pairs: list[tuple[str, object]]) -> None:
        counted = Counter(name for name, _value in pairs)
        if len(counted) != len(pairs):
            twice.update(name if _NAME.match(name) else "a member" for name, count in counted.items() if count > 1)

    json.loads(body, object_pairs_hook=look, parse_int=len, parse_float=len)
    return sorted(twice)[:_SHOWN_NAMES]
