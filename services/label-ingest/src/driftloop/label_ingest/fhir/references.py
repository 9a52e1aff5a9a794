"""Where references lead, inside a resource and inside a Bundle, and by which identifier somebody knows a thing."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from driftloop.label_ingest.fhir.elements import Identifier, Named, Reference, Resource, Specimen
from driftloop.label_ingest.fhir.issues import invalid, unprocessable

PREDICTION_SYSTEM = "urn:driftloop:prediction"
RESOURCE_ID = re.compile(r"\A[A-Za-z0-9.-]{1,64}\Z")
_LITERAL = re.compile(r"(?:\A|/)([A-Z][A-Za-z]{1,63})/([A-Za-z0-9.-]{1,64})(?:/_history/[A-Za-z0-9.-]{1,64})?\Z")

_LONGEST_ADDRESS = 2000


@dataclass(frozen=True)
class Scope:
    """What a reference can lead to: `contained` by `#id`; `entries` of the Bundle by full URL and by `Type/id`."""

    contained: Mapping[str, Resource] = field(default_factory=dict)
    entries: Mapping[str, Resource] = field(default_factory=dict)

    def find(self, reference: str, place: str) -> Resource | None:
        """The resource, None where it is elsewhere. Raises Unusable where it ought to be here and is not."""
        found = self.contained.get(reference) or self.entries.get(reference)
        if found is None and reference.startswith(("#", "urn:")):
            remedy = "send what it names with it, as a contained resource or as an entry with this fullUrl"
            raise unprocessable("not-found", f"the reference leads nowhere: {remedy}", f"{place}.reference")
        if found is None and (literal := _literal(reference)):
            found = self.entries.get(f"{literal[1]}/{literal[2]}")
        return found


def known_as(reference: Reference, kind: str, preferred: str, scope: Scope, place: str) -> str | None:
    """The identifier that a reference to a resource of this `kind` gives, None if it is to another kind, or to none.

    That is the reference's own identifier; or the id in `Kind/id`, wherever that is; or an identifier of the contained
    resource or of the entry that it leads to, rather one of the type `preferred` (a code of HL7's table 0203).
    Raises Unusable where it leads nowhere, or to a resource without an identifier.
    """
    if reference.identifier is not None and reference.identifier.value:
        return None if reference.identifier.system == PREDICTION_SYSTEM else reference.identifier.value
    text = reference.reference
    if not text:
        return None
    if not text.startswith(("#", "urn:")):
        return _searched(text, kind) or _id_in(text, kind)
    found = scope.find(text, place)
    if found is None or found.resource_type != kind:
        return None
    identifiers = found.identifier if isinstance(found, Named) else ()
    if (value := chosen(identifiers, preferred)) is None:
        raise unprocessable("required", f"the {kind} that it leads to has no identifier: give it one", place)
    return value


def accession(reference: Reference, scope: Scope, place: str) -> str | None:
    """The accession number of a specimen. Raises Unusable where the reference leads nowhere."""
    if reference.identifier is not None and reference.identifier.value:
        return reference.identifier.value
    found = scope.find(reference.reference, place) if reference.reference else None
    number = found.accession_identifier if isinstance(found, Specimen) else None
    return number.value if number is not None else None


def chosen(identifiers: Sequence[Identifier], preferred: str | None = None) -> str | None:
    """The value of the identifier that a thing is known by: the first, rather one of the type `preferred`."""
    usable = usable_identifiers(identifiers)
    return next((one.value for one in usable if preferred in _types(one)), usable[0].value if usable else None)


def usable_identifiers(identifiers: Sequence[Identifier]) -> list[Identifier]:
    """Those that have a value, are not out of use, and name no prediction."""
    return [one for one in identifiers if one.value and one.use != "old" and one.system != PREDICTION_SYSTEM]


def check_search(query: str, identifiers: Sequence[Identifier], place: str) -> None:
    """Check that a condition is `identifier=system|value` and is true of the resource itself. Raises Unusable (400)."""
    pairs = parse_qsl(query.removeprefix("?"))
    if len(pairs) != 1 or pairs[0][0] != "identifier":
        raise invalid("not-supported", "the condition is not identifier=system|value: no other is taken", place)
    if pairs[0][1] not in {f"{one.system or ''}|{one.value}" for one in identifiers}:
        raise invalid("invalid", "the condition names none of the resource's own identifiers", place)


def _types(identifier: Identifier) -> set[str | None]:
    return {one.code for one in identifier.type.coding} if identifier.type is not None else set()


def _literal(reference: str) -> re.Match[str] | None:
    """The type and the id of a resource in an address, which is no longer than addresses are."""
    return _LITERAL.search(reference) if len(reference) <= _LONGEST_ADDRESS else None


def _id_in(reference: str, kind: str) -> str | None:
    literal = _literal(reference)
    return literal[2] if literal is not None and literal[1] == kind else None


def _searched(reference: str, kind: str) -> str | None:
    """The value in `Kind?identifier=system|value`, as Bundles may refer to what the receiver knows."""
    head, mark, query = reference.partition("?")
    if not mark or head.rpartition("/")[2] != kind:
        return None
    values = [value for name, value in parse_qsl(query) if name == "identifier"]
    return (values[0].rpartition("|")[2] or None) if len(values) == 1 else None
