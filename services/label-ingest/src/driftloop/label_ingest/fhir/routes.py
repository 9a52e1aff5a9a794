"""The FHIR R4 door's routes: bytes in, outcomes to the core, OperationOutcomes out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import psycopg
from fastapi import APIRouter, Depends, Header, Path, Request
from fastapi.responses import Response

from driftloop.common import metrics
from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.failures import failed_whole, retry_after
from driftloop.label_ingest.fhir import MAX_ENTRIES, MEDIA_TYPE, ROOT
from driftloop.label_ingest.fhir.answers import Settled, bundle_response, check, etag, refuse_whole, settle
from driftloop.label_ingest.fhir.body import check_media_type, read_body
from driftloop.label_ingest.fhir.capability import capability_statement
from driftloop.label_ingest.fhir.elements import Bundle
from driftloop.label_ingest.fhir.issues import Issue, Unusable, operation_outcome
from driftloop.label_ingest.fhir.requests import TAKEN, read_bundle, read_single
from driftloop.label_ingest.reports import MAX_ITEMS, Reports

_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
_RESULT_TEXT = (
    "One result, or a DiagnosticReport with the results that it contains. Sending the same again is harmless. "
    "`If-None-Exist: identifier=system|value` must name the resource's own identifier."
)
_BUNDLE_TEXT = (
    f"A Bundle of type batch or transaction with at most {MAX_ENTRIES} entries and {MAX_ITEMS} results. In a batch "
    "each entry has its own answer, and the good ones are kept; a transaction with one bad entry is refused as a whole."
)


class FhirResponse(Response):
    """A resource in JSON."""

    media_type = MEDIA_TYPE


@dataclass(frozen=True)
class _Asked:
    body: bytes
    content_type: str | None
    traceparent: str | None


async def _asked(
    request: Request,
    content_type: Annotated[str | None, Header()] = None,
    traceparent: Annotated[str | None, Header()] = None,
) -> _Asked:
    return _Asked(await request.body(), content_type, traceparent)


Asked = Annotated[_Asked, Depends(_asked)]
Condition = Annotated[str | None, Header(alias="If-None-Exist")]
ResourceId = Annotated[str, Path(description="The resource's id, as in its body.")]


def router(reports: Reports, problem_of: Callable[[OutcomeReported], str | None]) -> APIRouter:
    """The routes under `/fhir`. `problem_of` says what the core would reject an outcome for, without keeping it."""
    found = APIRouter(prefix=ROOT, default_response_class=FhirResponse)

    def single(asked: _Asked, kind: str, url_id: str | None, condition: str | None) -> Response:
        check_media_type(asked.content_type)
        reading = check(read_single(read_body(asked.body), kind, url_id, condition), problem_of)
        return _single_answer(settle([reading], reports, asked.traceparent)[0])

    def bundle(asked: _Asked) -> Response:
        check_media_type(asked.content_type)
        resource = read_body(asked.body)
        readings = [check(one, problem_of) for one in read_bundle(resource)]
        assert isinstance(resource, Bundle)
        if resource.type == "transaction":
            refuse_whole(readings)
        return _answer(200, bundle_response(resource.type, settle(readings, reports, asked.traceparent)))

    for kind in TAKEN:
        _add_single(found, kind, single)

    @found.post("", summary="Report several results", description=_BUNDLE_TEXT, **_described("Bundle", 200))
    def post_bundle(asked: Asked) -> Response:
        return _answered(lambda: bundle(asked))

    @found.get("/metadata", summary="Say what this door can do")
    def metadata() -> Response:
        return _answer(200, capability_statement())

    _add_others(found)
    return found


def _add_single(found: APIRouter, kind: str, single: Callable[[_Asked, str, str | None, str | None], Response]) -> None:
    """The routes of one type of resource."""

    @found.post(
        f"/{kind}",
        summary=f"Report a result by {kind}",
        description=_RESULT_TEXT,
        name=f"create_{kind}",
        **_described(kind, 201),
    )
    def create(asked: Asked, if_none_exist: Condition = None) -> Response:
        return _answered(lambda: single(asked, kind, None, if_none_exist))

    @found.put(
        f"/{kind}/{{resource_id}}",
        summary=f"Report a newer version of a result by {kind}",
        description=_RESULT_TEXT,
        name=f"update_{kind}",
        **_described(kind, 200),
    )
    def update(asked: Asked, resource_id: ResourceId) -> Response:
        return _answered(lambda: single(asked, kind, resource_id, None))


def _add_others(found: APIRouter) -> None:
    """Whatever else is asked for under this root is refused in FHIR's own form."""

    def refuse(rest: str = "") -> Response:
        kind, _, resource_id = rest.partition("/")
        if kind in ("", "metadata", *TAKEN):
            reason = "results are taken by POST and PUT, and not served; one is withdrawn by its status"
            allowed = "GET" if kind == "metadata" else "PUT" if resource_id else "POST"
            return _refusal(Issue(405, "not-supported", reason), {"Allow": allowed})
        return _refusal(Issue(404, "not-supported", f"this is not taken here: send {', '.join(TAKEN)} or a Bundle"))

    for path in ("", "/", "/{rest:path}"):
        found.add_api_route(path, refuse, methods=_METHODS, include_in_schema=False)


def _answered(work: Callable[[], Response]) -> Response:
    """The work's answer, or an OperationOutcome that says why there is none."""
    try:
        return work()
    except Unusable as error:
        # How many results it would have had, nobody knows.
        metrics.OUTCOMES.labels("rejected").inc()
        return _answer(error.status, operation_outcome(error.issues))
    except psycopg.Error as error:
        status, reason = failed_whole(error)
        return _refusal(Issue(status, "transient" if status == 503 else "exception", reason), retry_after(status))


def _single_answer(settled: Settled) -> Response:
    headers = {}
    if settled.location is not None:
        headers = {"Location": f"{ROOT}/{settled.location}", "ETag": etag(settled.version)}
    return _answer(settled.status, operation_outcome(settled.issues), headers)


def _refusal(issue: Issue, headers: Mapping[str, str] | None = None) -> Response:
    return _answer(issue.status, operation_outcome([issue]), headers)


def _answer(status: int, resource: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return FhirResponse(msgspec.json.encode(resource), status, headers=dict(headers or {}))


def _described(kind: str, status: int) -> dict[str, Any]:
    """What the description of the API says of a route that takes resources of this type."""
    content = {MEDIA_TYPE: {"schema": {"type": "object", "description": "An OperationOutcome."}}}
    texts = {
        200: "An answer for each entry." if kind == "Bundle" else "It was known already, or it was put.",
        400: "It is no FHIR R4 in JSON, or a transaction with a bad entry; nothing was kept.",
        413: "It is too long.",
        415: "It is not JSON in UTF-8, but for instance XML.",
        422: "It is FHIR, but no outcome: which element, and why.",
        500: "The database refused it; nothing was kept.",
        503: "The database is away. Send the same again after `Retry-After` seconds.",
    }
    if kind != "Bundle":
        texts[201] = "It was taken. `Location` names it."
    return {
        "status_code": status,
        "responses": {code: {"description": text, "content": content} for code, text in texts.items()},
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "content": {MEDIA_TYPE: {"schema": {"type": "object", "description": f"A FHIR R4 {kind}."}}},
            }
        },
    }
