"""Environment → frozen settings of the predictor."""

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from driftloop.common.access.settings import AccessSettings
from driftloop.common.kafka.settings import KafkaSettings
from driftloop.common.logs import LogSettings
from driftloop.common.settings import Secret


class Settings(AccessSettings, frozen=True, kw_only=True):
    """What the predictor is told from outside. See the README for each variable."""

    kafka: KafkaSettings
    contract: Path
    trusted_keys: Path
    pseudonym_key: Secret
    # A folder on a durable volume, this replica's alone.
    spool: Path
    # The most that each worker's spool takes.
    spool_max_bytes: Annotated[int, Meta(ge=1_048_576)] = 256 * 1024 * 1024
    # How many processes answer on the port, each with clients, models and a spool of its own; one for each processor.
    workers: Annotated[int, Meta(ge=1, le=64)] = 1
    # Whether `GET /` and `POST /predict` are answered without a key, as by the replaced service.
    compat_anonymous: bool = False
    # What this replica is called on `model-status`; empty means host and port.
    replica: str = ""
    namespace: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    management_port: int = 9000
    max_body_bytes: Annotated[int, Meta(ge=1)] = 64 * 1024
    # The same for a batch, and how many rows it may have.
    max_batch_bytes: Annotated[int, Meta(ge=1)] = 4 * 1024 * 1024
    max_batch_rows: Annotated[int, Meta(ge=1, le=10_000)] = 1_000
    # No more than so many inferences of a worker wait for the log at once; those above are told to come again.
    max_in_flight: Annotated[int, Meta(ge=1)] = 5_000
    # So long a replica that is told to stop is not ready, and answers nonetheless: its clients hear of it late.
    drain_seconds: Annotated[float, Meta(ge=0, le=300)] = 0.0
    # How often the replica says what it serves, when nothing has changed.
    status_seconds: Annotated[float, Meta(gt=0)] = 30.0


class ReplaySettings(LogSettings, frozen=True, kw_only=True):
    """What the command is told that empties the spool of a predictor that is gone."""

    kafka: KafkaSettings
    spool: Path
    spool_max_bytes: Annotated[int, Meta(ge=1_048_576)] = 256 * 1024 * 1024
