"""Environment → frozen settings of the trainer."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from driftloop.common.access.settings import AccessSettings
from driftloop.common.kafka.settings import KafkaSettings
from driftloop.common.settings import Secret

# label-ingest gives no more at once, and refuses who asks for them.
MOST_ROWS = 1_000_000


class Settings(AccessSettings, frozen=True, kw_only=True):
    """What the trainer is told from outside. See the README for each variable."""

    kafka: KafkaSettings
    database_url: Secret
    contracts: tuple[Path, ...]
    artifacts: str
    signing_key: Path
    trusted_keys: Path
    # Where training sets are kept, by default beside the artifacts; nobody else need be able to read them.
    training_sets: str | None = None
    label_ingest_url: str = "http://127.0.0.1:8001"
    # An API key of scope `rows`; none where label-ingest asks nobody.
    label_ingest_key: Secret | None = None
    namespace: str = ""
    host: str = "127.0.0.1"
    port: int = 8003
    management_port: int = 9003
    # How often a waiting request looks for the labels that it lacks.
    check_seconds: float = 2.0
    # No more than so many of the newest labelled rows are fetched for a training set.
    max_rows: Annotated[int, Meta(ge=1, le=MOST_ROWS)] = 100_000
    # What one training may take: seconds, and MiB of memory with all processes that it starts;
    # its libraries alone take 250.
    training_seconds: Annotated[float, Meta(gt=0)] = 3600.0
    training_memory_mb: Annotated[int, Meta(ge=512)] | None = None
    # So many models are trained at once; the others wait for their turn.
    trainings_at_once: Annotated[int, Meta(ge=1, le=64)] = 1
    # So many versions of a model keep their files, besides those that somebody may need.
    keep_versions: Annotated[int, Meta(ge=1)] = 20
    # Who grows the trees and fits the folds: so many threads of the training's process (`build.backend` says how many
    # by default), or a cluster's workers.
    training_backend: Literal["local", "dask", "ray"] = "local"
    jobs: Annotated[int, Meta(ge=1, le=1024)] | None = None
    dask_scheduler: str | None = None
    ray_address: str | None = None
