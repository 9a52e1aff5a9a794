"""Environment → frozen settings of label-ingest."""

from pathlib import Path

import msgspec

from driftloop.common.settings import Secret


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What label-ingest is told from outside. See the README for each variable."""

    kafka_bootstrap_servers: str
    database_url: Secret
    contracts: tuple[Path, ...]
    namespace: str = ""
    host: str = "127.0.0.1"
    port: int = 8001
    management_port: int = 9001
    # A request's body may be this large: 1 MiB.
    max_body_bytes: int = 1_048_576
    log_level: str = "INFO"
