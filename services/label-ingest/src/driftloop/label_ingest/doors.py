"""What each door takes and answers, as its description tells people."""

from datetime import date
from typing import Any, Literal

import msgspec
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from driftloop.common.events import OutcomeReported, json_schema
from driftloop.label_ingest import arrow
from driftloop.label_ingest.reading import Labelled, RowVariant
from driftloop.label_ingest.reports import MAX_ITEMS, Status
from driftloop.label_ingest.submitted import Erasure

MAX_ROWS = 1_000_000
Responses = dict[int | str, dict[str, Any]]

OUTCOMES_TEXT = (
    f"Takes one outcome, or a list of 1 to {MAX_ITEMS}. Good items are kept even if others are rejected. Sending the "
    "same again is harmless. An outcome names a prediction, an order or a patient, and states the label or what was "
    "measured. Of the versions of one result (`source`, `result_id`) the highest `result_version` counts, then the one "
    "`reported_at` latest; of several results that state labels that of the latest specimen holds."
)
OUTCOMES_RESPONSES: Responses = {
    413: {"description": "The body or the list is too long."},
    422: {"description": "The body is not JSON, or neither an outcome nor a list of them."},
    503: {"description": "The database is away. Send the same again after `Retry-After` seconds."},
}
ERASURE_RESPONSES: Responses = {
    409: {"description": "No patient is known here: there is no key for pseudonyms."},
    422: {"description": "The body does not say whose rows. The answer repeats nothing of it."},
    503: {"description": "The database is away; nothing is erased. Try again after `Retry-After` seconds."},
}
ROWS_TEXT = (
    "Newest first, of one instant the higher id: the prediction, its label if it has one and a column "
    "`feature.<name>` for each feature of the contract, null where it is missing."
)
ROWS_RESPONSES: Responses = {
    200: {"content": {name: {} for name in arrow.MEDIA_TYPES.values()}, "description": "The rows."},
    404: {"description": "The model is not known here; the answer names those that are."},
    503: {"description": "The database is away. Try again after `Retry-After` seconds."},
}


class ItemAnswer(BaseModel):
    """What became of one outcome."""

    prediction_id: str | None = Field(description="As sent; null if it was not there or not readable.")
    status: Status = Field(
        description="joined: its prediction has a label. parked: it waits for its prediction. waiting: its prediction "
        "is there, and has no label yet. retracted: the result was taken back. duplicate: it was known, or changed "
        "nothing. superseded: a newer version is known. conflict: one version was reported with two contents, or "
        "results that count disagree. rejected: the item is invalid, and was not kept."
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
    labelled: Labelled = Field("any", description="Only rows that have their label, only those that have none, or all.")
    variant: RowVariant = Field(
        "champion", description="Whose answers; shadow: what other versions said of the same, a row a version."
    )
    since: AwareDatetime | None = Field(None, description="Predicted at or after this instant, with its time zone.")
    until: AwareDatetime | None = Field(None, description="Predicted before this instant, with its time zone.")
    format: arrow.Format = Field("arrow", description="An Arrow IPC stream, or a Parquet file.")


class CoverageParameters(BaseModel):
    """The query of `GET /v1/labels/coverage`."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="A model's name; needed where there are several.")
    days: int = Field(30, ge=1, le=366, description="So many days back from `until`.")
    until: AwareDatetime | None = Field(None, description="Predicted before this instant; now, if it is left out.")


class DayCoverage(BaseModel):
    """The labels of what one version predicted on one day, by UTC."""

    day: date
    model_version: int
    predictions: int
    labeled: int
    share: float = Field(description="Of the predictions, those that have a label.")
    positive: int = Field(description="Those whose label is 1.")
    contested: int = Field(description="Those whose results disagree.")
    delay_seconds_p50: float | None = Field(description="Half of the labels came within so many seconds.")
    delay_seconds_p90: float | None = Field(description="Nine of ten labels came within so many seconds.")


class LabelCoverage(BaseModel):
    """How labels cover predictions; the newest day first."""

    model_name: str
    since: AwareDatetime
    until: AwareDatetime
    days: list[DayCoverage]


class WaitingOutcome(BaseModel):
    """An outcome that has no prediction. Orders and patients go by their pseudonyms; the result is not named."""

    names: Literal["prediction", "order", "patient"]
    prediction_id: str | None
    pseudonym: str | None = Field(description="Of the order or the patient.")
    result_version: int
    status: str
    model_name: str | None
    analyte: str | None
    observed_at: AwareDatetime | None
    reported_at: AwareDatetime | None
    arrived_at: AwareDatetime
    expired_at: AwareDatetime | None


class WaitingOutcomes(BaseModel):
    """Outcomes without a prediction, no more than were asked for."""

    outcomes: list[WaitingOutcome]


class ErasureAnswer(BaseModel):
    """What was erased, and under which pseudonym it was known."""

    subject: str
    erased_at: AwareDatetime
    predictions: int
    results: int


class Summary(BaseModel):
    """Counts of one model; what is parked or expired is of all models: nobody knows whose it is."""

    model_name: str
    predictions: int
    outcomes: int = Field(
        description="Predictions of this model that have had any result, whether it made a label or not."
    )
    labeled: int = Field(description="Predictions of this model that have a label now.")
    parked: int = Field(description="Outcomes whose prediction is not there.")
    expired: int = Field(description="Outcomes whose prediction did not come in time.")
    conflicts: int = Field(description="Predictions whose results disagree.")
    shadows: int = Field(description="Scores of versions that did not answer.")
    oldest_parked_at: AwareDatetime | None


def erasure_body() -> dict[str, Any]:
    """The request body of `POST /v1/erasures`, for the description."""
    schema = msgspec.json.schema(Erasure)["$defs"]["Erasure"]
    return {"required": True, "content": {"application/json": {"schema": schema}}}


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
        "measured": {
            "value": {
                "order_id": "A-2026-0117",
                "patient_id": "4711",
                "analyte": "4548-4",
                "value": 7.2,
                "unit": "%",
                "result_id": "L-18",
                "observed_at": "2026-02-03T08:15:00Z",
            }
        },
    }
    schema = {"oneOf": [one, many]}
    return {"required": True, "content": {"application/json": {"schema": schema, "examples": examples}}}
