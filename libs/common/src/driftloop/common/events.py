"""The vocabulary of the loop: every event that crosses a topic, as a frozen type.

A consumer accepts unknown fields, so a field may be added but is never renamed or retyped. Times are aware, in UTC.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

# Whole numbers that arrays and databases can hold: JSON alone would let them have thousands of digits.
WholeNumber = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
FeatureValue = float | WholeNumber | str | None
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"\A[A-Za-z0-9._:/-]+\Z")]
PredictionId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"\A[A-Za-z0-9._:-]+\Z")]
# A name from a clinic's or a laboratory's own books.
Identifier = Annotated[str, Meta(min_length=1, max_length=200)]
LoincCode = Annotated[str, Meta(pattern=r"\A[0-9]{1,7}-[0-9]\Z")]
Unit = Annotated[str, Meta(min_length=1, max_length=40)]
Comparator = Literal["<", "<=", ">=", ">"]
ResultStatus = Literal["preliminary", "final", "corrected", "cancelled", "entered-in-error"]
Version = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Instant = Annotated[datetime, Meta(tz=True)]
Label = Annotated[int, Meta(ge=0, le=1)]
Probability = Annotated[float, Meta(ge=0, le=1)]
Severity = Literal["GOOD", "WARNING", "CRITICAL"]
Variant = Literal["champion", "canary"]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What every event is: a value."""


class ShadowScore(msgspec.Struct, frozen=True, kw_only=True):
    """What a version that did not answer said of the same features."""

    model_version: Version
    score: Probability
    prediction: bool


Shadows = Annotated[tuple[ShadowScore, ...], Meta(max_length=8)]


class PredictionMade(Event, frozen=True, kw_only=True):
    """A predictor answered a request. `features` are canonical values, None where missing; `score` is P(label = 1).

    `shadows` are what other versions said of it: during a canary the one that did not answer is among them.
    `repeatable_until` is set where the client may retry under the same id: until then another predictor may publish the
    prediction again, with a later time and perhaps by another version, and it counts once.
    `subject` is the pseudonym of the patient, `order` that of the order or accession number whose results are awaited.
    """

    prediction_id: PredictionId
    model_name: Name
    model_version: Version
    revision: Version
    predicted_at: Instant
    features: dict[str, FeatureValue]
    score: Probability
    prediction: bool
    variant: Variant = "champion"
    subject: str | None = None
    shadows: Shadows = ()
    repeatable_until: Instant | None = None
    order: str | None = None


class OutcomeReported(Event, frozen=True, kw_only=True):
    """A laboratory tells the truth: one version of one result.

    It names the prediction, the order that the prediction was made for, or the patient (who is known by `observed_at`,
    too); of several the first that finds one counts, in this order. It says the label itself, or what was measured:
    `analyte` is a LOINC code, `unit` a UCUM one, and `comparator` stands before a value that is only a bound. The label
    policy of the model then makes the label.

    `source` and `result_id` say which result it is. Of its versions the highest `result_version` counts; of one number
    a final result goes before a preliminary one, what corrects or withdraws it before both, and then what was issued
    latest (`reported_at`), whatever the order of arrival. `observed_at` is when the specimen was taken.
    """

    prediction_id: PredictionId | None = None
    label: Label | None = None
    result_id: Annotated[str, Meta(max_length=200)] | None = None
    result_version: Version = 1
    observed_at: Instant | None = None
    order_id: Identifier | None = None
    patient_id: Identifier | None = None
    model_name: Name | None = None
    analyte: LoincCode | None = None
    value: float | None = None
    unit: Unit | None = None
    comparator: Comparator | None = None
    status: ResultStatus = "final"
    reported_at: Instant | None = None
    source: Annotated[str, Meta(max_length=200)] | None = None


class PredictionLabeled(Event, frozen=True, kw_only=True):
    """A prediction and its outcome have met, or the outcome was amended (then `previous_label` is the label before).

    `label_revision` counts the labels that this prediction has had, from 1. `policy_version` is that of the label
    policy which made the label of measurements, None where the laboratory said it. `delay_seconds` passed since the
    prediction.
    """

    prediction_id: PredictionId
    model_name: Name
    model_version: Version
    predicted_at: Instant
    features: dict[str, FeatureValue]
    score: Probability
    prediction: bool
    variant: Variant
    label: Label
    previous_label: Label | None = None
    label_revision: Version = 1
    labeled_at: Instant
    subject: str | None = None
    shadows: Shadows = ()
    policy_version: Version | None = None
    delay_seconds: float | None = None


class LabelRetracted(Event, frozen=True, kw_only=True):
    """A laboratory took a label back: `previous_label` does not hold any more, and no other took its place.

    `label_revision` goes on counting, so that the label that may come later is a newer one.
    """

    prediction_id: PredictionId
    model_name: Name
    model_version: Version
    predicted_at: Instant
    score: Probability
    prediction: bool
    variant: Variant
    previous_label: Label
    label_revision: Version
    retracted_at: Instant
    subject: str | None = None


class SubjectErased(Event, frozen=True, kw_only=True):
    """A patient's rows were erased: whoever keeps some of them erases them, too. `subject` is the pseudonym.

    What was made before `erased_at` is meant; aggregates may stay.
    """

    subject: Annotated[str, Meta(min_length=1, max_length=200)]
    erased_at: Instant
    predictions: Annotated[int, Meta(ge=0)]


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """One bin of a PSI: where it ends (or which category it is), and how many rows of either side it holds."""

    bound: float | str
    reference: int
    window: int


class DriftedFeature(msgspec.Struct, frozen=True, kw_only=True):
    """One feature's statistics in the window that changed the verdict, and what they were computed from.

    For a number D = |window_at_most / n − reference_at_most / m|, rows with a value of at most `at`; PSI is Σ over
    `bins` of (q − p)·ln(q/p), the last bin being the missing where any are. `cuts_digest` names the reference's cuts.
    """

    name: str
    severity: Severity
    raw_severity: Severity
    statistic: float
    p: float
    psi: float
    n: int
    m: int = 0
    kind: str = "numeric"
    psi_critical: float | None = None
    missing: int = 0
    error_bound: float = 0.0
    at: float | None = None
    window_at_most: int | None = None
    reference_at_most: int | None = None
    bins: tuple[Bin, ...] = ()
    cuts_digest: str = ""


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One signal beside the features': what was tested, with every number behind it."""

    name: str
    severity: Severity
    numbers: dict[str, FeatureValue]


class DriftDetected(Event, frozen=True, kw_only=True):
    """A model version's verdict rose (`opened`) or fell (`cleared`).

    `severity` is the one that opened or was cleared; `verdict` is what holds now. `window_start` and `window_end` bound
    the window that decided. `changed_since` is the start of the second window of the run that opened a CRITICAL alarm:
    rows from there on belong to the new population only. `attribution` says which drift it is (quality, concept,
    covariate, …) and `explanation` says so in a sentence. While `retraining_blocked` is true nothing must learn from
    these rows. `closes` is the id of the event that opened the alarm which this one clears.
    """

    model_name: Name
    model_version: Version
    change: Literal["opened", "cleared"]
    severity: Severity
    verdict: Severity
    window_start: Instant
    window_end: Instant
    detected_at: Instant
    features: tuple[DriftedFeature, ...]
    changed_since: Instant | None = None
    reason: str = ""
    window: int | None = None
    m: int | None = None
    n: int | None = None
    signals: tuple[Evidence, ...] = ()
    attribution: str = ""
    explanation: str = ""
    proven: bool = False
    retraining_blocked: bool = False
    closes: str | None = None


class ArtifactRef(msgspec.Struct, frozen=True, kw_only=True):
    """Where a version's bundle is, the SHA-256 of its manifest, and the signature over both name and digest."""

    uri: str
    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    signature: str
    key_id: str


class ServedVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A version that some part of the traffic, or its shadow, meets."""

    version: Version
    artifact: ArtifactRef


class Canary(msgspec.Struct, frozen=True, kw_only=True):
    """A challenger that answers `weight` (0 to 1) of the traffic."""

    version: Version
    weight: Probability


class ModelUpdated(Event, frozen=True, kw_only=True):
    """The whole desired serving state of one model; the highest valid revision holds."""

    model_name: Name
    revision: Version
    decided_at: Instant
    champion: Version
    canary: Canary | None = None
    shadow: Version | None = None
    versions: tuple[ServedVersion, ...]
    reason: str = ""

    def served(self, version: int) -> ServedVersion:
        """The entry of one version. Raises KeyError if the state does not carry it."""
        for entry in self.versions:
            if entry.version == version:
                return entry
        raise KeyError(f"revision {self.revision} of model {self.model_name!r} carries no version {version}")


class ModelStatus(Event, frozen=True, kw_only=True):
    """What one replica of a predictor serves: the revision applied, since when, and why a newer one was refused.

    `failing` are the versions that gave no probability for some request since the revision serves.
    """

    model_name: Name
    replica: Name
    revision: Annotated[int, Meta(ge=0)]
    model_version: Annotated[int, Meta(ge=0)]
    since: Instant
    reported_at: Instant
    error: str | None = None
    refused_revision: Annotated[int, Meta(ge=0)] | None = None
    failing: tuple[Version, ...] = ()


EVENT_TYPES: Mapping[str, type[Event]] = {
    f"driftloop.{event.__name__}": event
    for event in (
        PredictionMade,
        OutcomeReported,
        PredictionLabeled,
        LabelRetracted,
        SubjectErased,
        DriftDetected,
        ModelUpdated,
        ModelStatus,
    )
}


def type_name(event: type[Event]) -> str:
    """The CloudEvents type of an event class."""
    return f"driftloop.{event.__name__}"


def json_schema(event: type[Event]) -> dict[str, Any]:
    """The published JSON Schema of an event class."""
    return msgspec.json.schema(event)
