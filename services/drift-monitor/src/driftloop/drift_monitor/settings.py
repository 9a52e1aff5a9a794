"""Environment → frozen settings of the drift monitor."""

from pathlib import Path

import msgspec

from driftloop.common.settings import Secret


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the drift monitor is told from outside. See the README for each variable."""

    kafka_bootstrap_servers: str
    database_url: Secret
    contracts: tuple[Path, ...]
    trusted_keys: Path
    namespace: str = ""
    host: str = "127.0.0.1"
    port: int = 8002
    management_port: int = 9002
    # How often windows are tiled and judged.
    evaluate_seconds: float = 1.0
    # Events may be this much out of order before they count as late.
    allowed_lateness_seconds: float = 2.0
    # No more than so many predictions of a version without a profile are parked; then reading waits.
    max_parked: int = 100_000
    log_level: str = "INFO"
