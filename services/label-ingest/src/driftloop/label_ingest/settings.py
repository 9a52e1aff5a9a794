"""Environment → frozen settings of label-ingest."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from driftloop.common.kafka.settings import KafkaSettings
from driftloop.common.settings import Secret
from driftloop.label_ingest.hl7.settings import MllpSettings


class Settings(MllpSettings, frozen=True, kw_only=True):
    """What label-ingest is told from outside. See the README for each variable."""

    kafka: KafkaSettings
    database_url: Secret
    contracts: tuple[Path, ...]
    # The predictors' own. Without it no outcome can name an order or a patient.
    pseudonym_key: Secret | None = None
    namespace: str = ""
    host: str = "127.0.0.1"
    port: int = 8001
    management_port: int = 9001
    # A request's body may be this large: 1 MiB.
    max_body_bytes: int = 1_048_576
    # So long it is not ready, and answers nonetheless, once it is told to stop.
    drain_seconds: Annotated[float, Meta(ge=0, le=300)] = 0.0
    # Predictions, and what was joined to them, are kept at least so long; the log itself keeps them for 30.
    retention_days: Annotated[float, Meta(ge=60)] = 730.0
    # So long an outcome waits for its prediction.
    parked_days: Annotated[float, Meta(ge=1)] = 90.0
    # A CSV file is streamed, and may be this large: 256 MiB.
    max_upload_bytes: int = 268_435_456
    # And have so many lines below the columns' names, empty ones among them: they are the work that it makes.
    max_upload_lines: Annotated[int, Meta(ge=1)] = 1_000_000
