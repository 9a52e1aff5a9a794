"""Where an installation lets others in: what its clients, its laboratories and its operators know of it."""

from collections.abc import Mapping
from dataclasses import dataclass

from driftloop.common.settings import Secret
from driftloop.common.topics import Namespace


@dataclass(frozen=True)
class Doors:
    """Addresses and keys of one installation; `predictors` are base URLs by replica, the others base URLs.

    `client_key` opens predictors and label-ingest, `operator_key` trainer and drift-monitor.
    """

    predictors: Mapping[str, str]
    label_ingest: str
    drift_monitor: str
    trainer: str
    bootstrap_servers: str
    namespace: Namespace
    client_key: Secret
    operator_key: Secret
