"""What a request asks for: resources to take, each with its results or with the reason why it has none."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec

from driftloop.label_ingest.fhir import MAX_ENTRIES
from driftloop.label_ingest.fhir.body import decode, read_resource
from driftloop.label_ingest.fhir.elements import Bundle, DiagnosticReport, Entry, EntryRequest, Observation, Resource
from driftloop.label_ingest.fhir.issues import Issue, Unusable, invalid
from driftloop.label_ingest.fhir.observation import read_observation, version_of
from driftloop.label_ingest.fhir.references import RESOURCE_ID, Scope, check_search
from driftloop.label_ingest.fhir.report import Result, completed, contained_in, count_contained, read_report
from driftloop.label_ingest.reports import MAX_ITEMS

TAKEN = ("Observation", "DiagnosticReport")
# What a laboratory sends along, so that its results can refer to it. It is read where they do, and not kept.
COMPANIONS = (
    "Device", "Encounter", "Location", "Organization", "Patient", "Practitioner", "PractitionerRole", "ServiceRequest",
    "Specimen",
)  # fmt: skip
_ID_CHARACTERS = 32
_entry = msgspec.json.Decoder(Entry)


@dataclass(frozen=True)
class Reading:
    """One resource as it was read: its `results`, or `issues` that say why it cannot be taken.

    `location` is its address below the base, with its version. `note` says why there is nothing to keep.
    `update`: it was put, so it may be there already.
    """

    location: str | None = None
    version: int = 1
    update: bool = False
    note: str | None = None
    results: tuple[Result, ...] = ()
    issues: tuple[Issue, ...] = ()


@dataclass(frozen=True)
class _Place:
    """Where a resource stands: its FHIRPath, what its references lead to, and its name if it has none of its own."""

    path: str
    scope: Scope
    name: str | None = None


def read_single(resource: Resource, kind: str, url_id: str | None, condition: str | None) -> Reading:
    """The only resource of a request to `kind`, put to `url_id`, or posted on a `condition`. Raises Unusable."""
    _check_kind(resource, kind, kind)
    if url_id is not None:
        _check_id(resource, url_id, kind)
    taken = _as_taken(resource)
    if condition is not None:
        check_search(condition, taken.identifier, kind)
    return replace(_read(taken, _Place(kind, Scope()), None), update=url_id is not None)


def read_bundle(bundle: Resource) -> list[Reading]:
    """The entries of a Bundle of type batch or transaction, in order; a bad one has issues.

    Raises Unusable where it is no such Bundle, or where its entries' addresses are not clear.
    """
    if not isinstance(bundle, Bundle):
        raise invalid("invalid", "is no Bundle: send a single resource to its own address", "Resource.resourceType")
    if bundle.type not in ("batch", "transaction"):
        raise invalid("not-supported", "send a Bundle of type batch or transaction", "Bundle.type")
    if len(bundle.entry) > MAX_ENTRIES:
        raise _too_long(f"has {len(bundle.entry)} entries: send at most {MAX_ENTRIES} in a Bundle")
    entries = [_decoded(raw, _path(nth)) for nth, raw in enumerate(bundle.entry)]
    # Before they are read: a body of one megabyte can name tens of thousands.
    if (results := sum(map(_count_results, entries))) > MAX_ITEMS:
        raise _too_long(f"has {results} results: send at most {MAX_ITEMS} in a Bundle")
    addresses = _addresses(entries)
    reports = _reports(entries, addresses)
    return [_read_entry(one, addresses, reports, _path(nth)) for nth, one in enumerate(entries)]


# --- entries


@dataclass(frozen=True)
class _Decoded:
    entry: Entry
    resource: Resource


def _too_long(reason: str) -> Unusable:
    return Unusable(Issue(413, "too-long", reason, "Bundle.entry"))


def _path(nth: int) -> str:
    return f"Bundle.entry[{nth}]"


def _decoded(raw: msgspec.Raw, path: str) -> _Decoded | Unusable:
    try:
        entry = decode(raw, _entry, path)
        return _Decoded(entry, read_resource(entry.resource, f"{path}.resource"))
    except Unusable as error:
        return error


def _count_results(one: _Decoded | Unusable) -> int:
    """How many outcomes an entry is at most, good or bad. Results that are entries themselves are counted there."""
    if isinstance(one, Unusable):
        return 0
    if isinstance(one.resource, DiagnosticReport):
        return count_contained(one.resource)
    return int(isinstance(one.resource, Observation))


def _addresses(entries: list[_Decoded | Unusable]) -> dict[str, Resource]:
    """What references can lead to: each resource by its full URL, and by `Type/id`. Raises Unusable."""
    found: dict[str, Resource] = {}
    for nth, one in enumerate(entries):
        if isinstance(one, Unusable):
            continue
        url = one.entry.full_url
        if url is not None:
            if url in found:
                raise invalid("invalid", "two entries have this fullUrl: give each its own", f"{_path(nth)}.fullUrl")
            found[url] = one.resource
        if one.resource.id is not None:
            found.setdefault(f"{one.resource.resource_type}/{one.resource.id}", one.resource)
    return found


def _reports(entries: list[_Decoded | Unusable], addresses: Mapping[str, Resource]) -> dict[int, DiagnosticReport]:
    """The first report that names an Observation's entry, by the Observation's identity."""
    found: dict[int, DiagnosticReport] = {}
    scope = Scope(entries=addresses)
    for one in entries:
        if isinstance(one, Unusable) or not isinstance(one.resource, DiagnosticReport):
            continue
        for reference in one.resource.result:
            try:
                target = scope.find(reference.reference or "", "")
            except Unusable:
                continue
            if isinstance(target, Observation):
                found.setdefault(id(target), one.resource)
    return found


def _read_entry(
    one: _Decoded | Unusable, addresses: Mapping[str, Resource], reports: Mapping[int, DiagnosticReport], path: str
) -> Reading:
    if isinstance(one, Unusable):
        return Reading(issues=one.issues)
    try:
        request = _request(one, path)
        update = request.method == "PUT"
        if one.resource.resource_type in COMPANIONS:
            return Reading(note="read for the results that refer to it, and not kept")
        taken = _as_taken(one.resource)
        _check_request(request, taken, path)
        url = one.entry.full_url
        name = url if url is not None and url.startswith("urn:") and taken.id is None else None
        place = _Place(f"{path}.resource", Scope(entries=addresses), name)
        return replace(_read(taken, place, reports.get(id(taken))), update=update)
    except Unusable as error:
        return Reading(issues=error.issues)


def _request(one: _Decoded, path: str) -> EntryRequest:
    request = one.entry.request
    if request is None:
        raise invalid("required", "an entry of a batch or a transaction has a request: give it", f"{path}.request")
    if request.method not in ("POST", "PUT"):
        reason = "only POST and PUT are taken; a result is withdrawn by its status, entered-in-error"
        raise Unusable(Issue(405, "not-supported", reason, f"{path}.request.method"))
    if request.url.partition("?")[0].partition("/")[0] != one.resource.resource_type:
        raise invalid("invalid", "is not the address of the entry's resource", f"{path}.request.url")
    return request


def _check_request(request: EntryRequest, resource: Observation | DiagnosticReport, path: str) -> None:
    """Raises Unusable where an entry's address and its resource do not agree."""
    address, _, query = request.url.partition("?")
    _kind, _, url_id = address.partition("/")
    where = f"{path}.request.url"
    if request.method == "PUT" and query:
        check_search(query, resource.identifier, where)
    elif request.method == "PUT":
        _check_id(resource, url_id, f"{path}.resource")
    elif url_id or query:
        raise invalid("invalid", f"POST goes to {resource.resource_type}, without id and condition", where)
    if request.if_none_exist is not None:
        check_search(request.if_none_exist, resource.identifier, f"{path}.request.ifNoneExist")


# --- resources


def _check_kind(resource: Resource, kind: str, path: str) -> None:
    if resource.resource_type != kind:
        raise invalid("invalid", f"is no {kind}, which this address takes", f"{path}.resourceType")


def _check_id(resource: Resource, url_id: str, path: str) -> None:
    if RESOURCE_ID.match(url_id) is None:
        raise invalid("value", "the address has no id of 1 to 64 letters, digits, dashes and dots", f"{path}.id")
    if resource.id != url_id:
        raise invalid("invalid", "is not the id in the address: give the resource that id", f"{path}.id")


def _as_taken(resource: Resource) -> Observation | DiagnosticReport:
    if isinstance(resource, Observation | DiagnosticReport):
        return resource
    reason = f"resources of this type are not taken: send {' or '.join(TAKEN)}"
    raise Unusable(Issue(404, "not-supported", reason))


def _read(resource: Observation | DiagnosticReport, place: _Place, report: DiagnosticReport | None) -> Reading:
    scope = replace(place.scope, contained=contained_in(resource, place.path))
    if isinstance(resource, DiagnosticReport):
        results = read_report(resource, scope, place.path, place.name)
    else:
        whole = completed(resource, report, contained=False) if report is not None else resource
        results = [Result(read_observation(whole, scope, place.path, place.name), place.path)]
    if not results:
        return Reading(note="its results are entries, and are answered there")
    version = version_of(resource)
    location = f"{resource.resource_type}/{_resource_id(resource, results)}/_history/{version}"
    return Reading(location=location, version=version, results=tuple(results))


def _resource_id(resource: Observation | DiagnosticReport, results: list[Result]) -> str:
    """The resource's own id, else one made of its results' names, so that the same is always called the same."""
    if resource.id is not None and RESOURCE_ID.match(resource.id):
        return resource.id
    names = "\n".join(one.outcome.result_id or "" for one in results)
    return hashlib.sha256(names.encode()).hexdigest()[:_ID_CHARACTERS]
