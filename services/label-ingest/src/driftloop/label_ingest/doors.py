"""What each door takes and answers, as its description tells people."""

from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from driftloop.common.events import OutcomeReported, json_schema
from driftloop.label_ingest import arrow
from driftloop.label_ingest.store import RowVariant
from driftloop.label_ingest.submitted import MAX_ITEMS

MAX_ROWS = 1_000_000
Responses = dict[int | str, dict[str, Any]]

OUTCOMES_TEXT = (
    f"Takes one outcome, or a list of 1 to {MAX_ITEMS}. Good items are kept even if others are rejected. Sending the "
    "same again is harmless. Of several results for one prediction the highest `result_version` holds, then the latest "
    "`observed_at`, then the highest `result_id`, then the higher label."
)
OUTCOMES_RESPONSES: Responses = {
    413: {"description": "The body or the list is too long."},
    422: {"description": "The body is not JSON, or neither an outcome nor a list of them."},
    503: {"description": "The database is away; nothing was kept. Try again after `Retry-After` seconds."},
}
ROWS_TEXT = (
    "An Arrow IPC stream, newest first, ties by prediction id: the prediction, its label if it has one and a column "
    "`feature.<name>` for each feature of the contract, null where it is missing."
)
ROWS_RESPONSES: Responses = {
    200: {"content": {arrow.MEDIA_TYPE: {}}, "description": "The stream, its schema first."},
    404: {"description": "The model is not known here; the answer names those that are."},
    503: {"description": "The database is away. Try again after `Retry-After` seconds."},
}


class ItemAnswer(BaseModel):
    """What became of one outcome."""

    prediction_id: str | None = Field(description="As sent; null if it was not readable.")
    status: Literal["joined", "parked", "duplicate", "superseded", "conflict", "rejected"] = Field(
        description="joined: the label now holds for a known prediction. parked: it waits for its prediction. "
        "duplicate: it was known, or changed nothing. superseded: a newer version is known. conflict: the same version "
        "came with the other label. rejected: the item is invalid, and was not kept."
    )
    detail: str | None = Field(None, description="Which label holds, or which field is wrong and why.")


class OutcomeAnswers(BaseModel):
    """One answer an item, in the order of the request."""

    results: list[ItemAnswer]


class RowParameters(BaseModel):
    """The query of `GET /v1/rows`."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="A model's name; needed where there are several.")
    limit: int = Field(1000, ge=1, le=MAX_ROWS, description="No more than so many rows, the newest.")
    labelled: Literal["true", "any"] = Field("any", description="Only rows that have their label, or all.")
    variant: RowVariant = Field(
        "champion", description="Whose answers; shadow: what other versions said of the same, a row a version."
    )
    since: AwareDatetime | None = Field(None, description="Predicted at or after this instant, with its time zone.")
    until: AwareDatetime | None = Field(None, description="Predicted before this instant, with its time zone.")


class Summary(BaseModel):
    """Counts of one model; `parked` and `oldest_parked_at` are of all models: nobody knows yet whose they are."""

    model_name: str
    predictions: int
    outcomes: int = Field(description="Predictions of this model that have an outcome.")
    labeled: int = Field(description="Predictions of this model whose label was published.")
    parked: int = Field(description="Outcomes whose prediction is not there.")
    conflicts: int = Field(description="Predictions whose newest version was reported with both labels.")
    shadows: int = Field(description="Scores of versions that did not answer.")
    oldest_parked_at: AwareDatetime | None


def outcomes_body() -> dict[str, Any]:
    """The request body of `POST /v1/outcomes`, for the description."""
    one = json_schema(OutcomeReported)["$defs"]["OutcomeReported"] | {"additionalProperties": False}
    many = {"type": "array", "minItems": 1, "maxItems": MAX_ITEMS, "items": one}
    examples = {
        "one": {"value": {"prediction_id": "0198c5f2a7", "label": 1}},
        "many": {
            "value": [
                {"prediction_id": "0198c5f2a7", "label": 0, "result_id": "L-17", "result_version": 2},
                {"prediction_id": "0198c5f2b3", "label": 1, "observed_at": "2026-02-03T08:15:00Z"},
            ]
        },
    }
    schema = {"oneOf": [one, many]}
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}
