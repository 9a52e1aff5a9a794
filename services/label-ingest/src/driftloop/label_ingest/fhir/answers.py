"""What became of each resource, as FHIR's answers say it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from driftloop.common import metrics
from driftloop.common.events import OutcomeReported
from driftloop.label_ingest.fhir.issues import Issue, Unusable, operation_outcome
from driftloop.label_ingest.fhir.report import Result
from driftloop.label_ingest.fhir.requests import Reading
from driftloop.label_ingest.reports import Answer, Rejected, Reports

Check = Callable[[OutcomeReported], str | None]
_TEXTS = {
    "joined": "the label holds for a known prediction",
    "parked": "kept until its prediction comes",
    "waiting": "kept; it makes no label yet",
    "retracted": "the label that it made was taken back",
    "duplicate": "known already, or changed nothing",
    "superseded": "a newer version is known",
    "conflict": "this version was reported with two contents, or results disagree",
    "rejected": "the result was not kept",
}
# What was there already, in this version or in a newer one.
_KNOWN = ("duplicate", "superseded")


@dataclass(frozen=True)
class Settled:
    """One resource's answer: the HTTP status, what is to be said, and where the resource is known to be, if kept."""

    status: int
    issues: tuple[Issue, ...]
    location: str | None = None
    version: int = 1


def check(reading: Reading, problem_of: Check) -> Reading:
    """The reading, or one with issues if any of its results has a problem: a report is taken whole or not at all."""
    problems = [(one, problem_of(one.outcome)) for one in reading.results]
    issues = tuple(
        Issue(422, "business-rule", problem, one.place, answer="rejected") for one, problem in problems if problem
    )
    return replace(reading, results=(), issues=reading.issues + issues) if issues else reading


def settle(readings: Sequence[Reading], reports: Reports, traceparent: str | None) -> list[Settled]:
    """Take all that is good, in one transaction, and answer each in order. Raises psycopg.Error.

    What is rejected goes with it, to be counted; where nothing is good, it is counted here and nobody is troubled.
    """
    items: list[OutcomeReported | Rejected] = []
    for reading in readings:
        items += [one.outcome for one in reading.results]
        items += [Rejected(None, issue.diagnostics) for issue in reading.issues[:1]]
    if any(reading.results for reading in readings):
        answers = reports.take(items, traceparent)
    else:
        metrics.OUTCOMES.labels("rejected").inc(len(items))
        answers = [Answer("rejected")] * len(items)
    rest = iter(answers)
    return [_settled(reading, rest) for reading in readings]


def refuse_whole(readings: Iterable[Reading]) -> None:
    """A transaction is taken whole or not at all. Raises Unusable (400), naming each entry that is wrong."""
    issues = [replace(issue, status=400) for reading in readings for issue in reading.issues]
    if issues:
        raise Unusable(*issues)


def bundle_response(kind: str, settled: Iterable[Settled]) -> dict[str, Any]:
    """The answer to a Bundle of type `kind`: an entry for each of its entries, in order."""
    entries = [{"response": _response(one)} for one in settled]
    return {"resourceType": "Bundle", "type": f"{kind}-response"} | ({"entry": entries} if entries else {})


def etag(version: int) -> str:
    """A version as HTTP names it."""
    return f'W/"{version}"'


def _settled(reading: Reading, answers: Iterator[Answer]) -> Settled:
    """Takes as many answers as the reading had items."""
    if reading.issues:
        next(answers)
        return Settled(reading.issues[0].status, reading.issues)
    if reading.note is not None:
        return Settled(200, (Issue(200, "informational", reading.note, severity="information"),))
    said = [next(answers) for _ in reading.results]
    issues = tuple(_issue(answer, one) for answer, one in zip(said, reading.results, strict=True))
    if any(answer.status == "rejected" for answer in said):
        return Settled(422, issues)
    known = reading.update or all(answer.status in _KNOWN for answer in said)
    return Settled(200 if known else 201, issues, reading.location, reading.version)


def _issue(answer: Answer, result: Result) -> Issue:
    text = answer.detail or _TEXTS[answer.status]
    if answer.status == "rejected":
        return Issue(422, "business-rule", text, result.place, answer="rejected")
    if answer.status == "conflict":
        return Issue(200, "conflict", text, result.place, "warning", "conflict")
    return Issue(200, "informational", text, result.place, "information", answer.status)


def _response(settled: Settled) -> dict[str, Any]:
    said: dict[str, Any] = {"status": f"{settled.status} {HTTPStatus(settled.status).phrase}"}
    if settled.location is not None:
        said |= {"location": settled.location, "etag": etag(settled.version)}
    return said | {"outcome": operation_outcome(settled.issues)}
