"""Experiment trackers: where people look versions up who do not ask the trainer itself.

A tracker is told of a version after the decision, by a worker of its own (`tracking.py`); nothing waits for it. A
tracker's library is loaded only where its own variables ask for it, and there is something to tell.
"""

import logging
import os
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Literal, Protocol

from driftloop.common.settings import read_secret

logger = logging.getLogger(__name__)

Outcome = Literal["canary", "promoted", "rejected", "rolled-back"]
Param = str | int | float | bool

# Read when the libraries are loaded, and later: they report to nobody, print nothing, and wait seconds, not minutes.
DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "mlflow": {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_CONFIGURE_LOGGING": "false",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "60",
    },
    "wandb": {"WANDB_ERROR_REPORTING": "false"},
}


@dataclass(frozen=True)
class TrackedRun:
    """One version, and how it last ended. Aggregates and digests only: no row of a patient.

    `artifact_sha256` is the digest of the signed manifest: it names the version, also among several installations.
    `champion` and `challenger` are the digests of the artifacts that serve now, None for none. `metrics` are finite.
    """

    model_name: str
    model_version: int
    request: int | None
    outcome: Outcome
    created_at: datetime
    decided_at: datetime
    params: Mapping[str, Param]
    metrics: Mapping[str, float]
    # Both are JSON.
    card: str
    training_set: str
    artifact_uri: str
    artifact_sha256: str
    champion: str | None
    challenger: str | None
    # Fetches and verifies the ONNX bytes. Raises registry.ArtifactError.
    read_model: Callable[[], bytes] = field(repr=False, compare=False)

    @property
    def title(self) -> str:
        """What people call it."""
        return f"{self.model_name} v{self.model_version}"


class Tracker(Protocol):
    """Keeps runs somewhere. For one thread at a time."""

    name: str

    def record(self, run: TrackedRun) -> None:
        """Make the run of this version as `run` says, whatever was recorded of it before: never a second one.

        Raises whatever the tracker's library raises; then the same is recorded again later.
        """
        ...


class Deferred:
    """A tracker whose library, which takes seconds to load, is loaded when there is first something to tell."""

    def __init__(self, name: str, environ: Mapping[str, str]) -> None:
        self.name = name
        self._environ = environ
        self._opened: Tracker | None = None

    def record(self, run: TrackedRun) -> None:
        """See Tracker. Raises ImportError, too, where the library is broken."""
        if self._opened is None:
            self._opened = import_module(f"{__name__}.{self.name}").open_tracker(self._environ)
        self._opened.record(run)


def open_trackers(environ: MutableMapping[str, str] | None = None) -> tuple[Tracker, ...]:
    """The trackers that the standard variables ask for; one whose package is missing is left out, with a warning.

    Sets what of `DEFAULTS` is not set. Raises SettingsError where a file that a variable names cannot be read.
    """
    environ = os.environ if environ is None else environ
    asked = {}
    if read_secret("MLFLOW_TRACKING_URI", environ) is not None:
        asked["mlflow"] = "MLFLOW_TRACKING_URI"
    mode, key = environ.get("WANDB_MODE"), read_secret("WANDB_API_KEY", environ)
    if (mode or key) and mode != "disabled":
        asked["wandb"] = "WANDB_MODE" if mode else "WANDB_API_KEY"
    return tuple(Deferred(name, environ) for name, variable in asked.items() if _prepared(name, variable, environ))


def _prepared(name: str, variable: str, environ: MutableMapping[str, str]) -> bool:
    """Whether the package is there. Sets its defaults now: later, other threads may read the environment."""
    if find_spec(name) is None:
        logger.warning(
            "%s is set, but %s is not installed: install driftloop-trainer[%s], or unset it",
            variable,
            name,
            name,
            extra={"tracker": name},
        )
        return False
    for default, value in DEFAULTS[name].items():
        environ.setdefault(default, value)
    return True
