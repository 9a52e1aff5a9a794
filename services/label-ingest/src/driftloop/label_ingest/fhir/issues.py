"""What is said of a request, good or bad, in the form of FHIR's OperationOutcome."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["fatal", "error", "warning", "information"]
# Those codes of http://hl7.org/fhir/issue-type that are said here.
Code = Literal[
    "business-rule", "code-invalid", "conflict", "exception", "informational", "invalid", "not-found", "not-supported",
    "required", "structure", "too-long", "transient", "value",
]  # fmt: skip
ANSWER_SYSTEM = "urn:driftloop:answer"


@dataclass(frozen=True)
class Issue:
    """One thing to say: what of (`expression`), what, and the HTTP status of an answer that says it.

    An expression is a FHIRPath with JSON's names of elements (`valueQuantity`), which is what the sender wrote.
    `answer` is what became of a result (`joined`, …). `diagnostics` never hold a patient's value.
    """

    status: int
    code: Code
    diagnostics: str
    expression: str | None = None
    severity: Severity = "error"
    answer: str | None = None


class Unusable(ValueError):
    """A request, or an entry of one, cannot be taken. Its text is for the sender and holds no patient's value."""

    def __init__(self, *issues: Issue) -> None:
        super().__init__("; ".join(issue.diagnostics for issue in issues))
        self.issues = issues

    @property
    def status(self) -> int:
        """The HTTP status of the answer."""
        return self.issues[0].status


def invalid(code: Code, diagnostics: str, expression: str | None = None) -> Unusable:
    """What is no FHIR R4 in JSON: 400."""
    return Unusable(Issue(400, code, diagnostics, expression))


def unprocessable(code: Code, diagnostics: str, expression: str | None = None) -> Unusable:
    """What is FHIR, and yet no outcome: 422."""
    return Unusable(Issue(422, code, diagnostics, expression))


def operation_outcome(issues: Iterable[Issue]) -> dict[str, Any]:
    """The OperationOutcome resource that says these."""
    return {"resourceType": "OperationOutcome", "issue": [_element(issue) for issue in issues]}


def _element(issue: Issue) -> dict[str, Any]:
    said: dict[str, Any] = {"severity": issue.severity, "code": issue.code}
    if issue.answer is not None:
        said["details"] = {"coding": [{"system": ANSWER_SYSTEM, "code": issue.answer}]}
    said["diagnostics"] = issue.diagnostics
    if issue.expression is not None:
        said["expression"] = [issue.expression]
    return said
