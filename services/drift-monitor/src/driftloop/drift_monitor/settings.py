"""Environment → frozen settings of the drift monitor."""

from pathlib import Path

from driftloop.common.kafka.settings import KafkaSettings
from driftloop.common.logs import LogSettings
from driftloop.common.settings import Secret


class Settings(LogSettings, frozen=True, kw_only=True):
    """What the drift monitor is told from outside. See the README for each variable."""

    kafka: KafkaSettings
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
    # A prediction that is further ahead of this clock becomes a dead letter.
    allowed_ahead_seconds: float = 300.0
    # No more than so many records of a version without a profile are parked; then reading waits.
    max_parked: int = 100_000
    # A record that waited so long for its version's profile becomes a dead letter.
    parked_days: float = 7.0
    # Closed windows are not waited for longer than this before they count as unlabelled.
    label_wait_days: float = 120.0
    # When panes are rolled up to hours and to days, and when they and their windows are forgotten.
    hour_panes_after_hours: float = 48.0
    day_panes_after_days: float = 30.0
    keep_days: float = 400.0
