"""Looks into the services through the APIs that everyone else has."""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import httpx

from driftloop.common.settings import Secret
from driftloop.demo.doors import Doors

T = TypeVar("T")
PATIENCE_SECONDS = 60.0
LOOK_SECONDS = 0.25


class DemoFailed(RuntimeError):
    """The loop did not do what it should; the text says what was waited for and what was there."""


class Observer:
    """One model's state, as monitor, trainer and label-ingest tell it. A service that is away is waited for."""

    def __init__(self, doors: Doors, model: str) -> None:
        self._doors = doors
        self._model = model
        self._client = httpx.Client(timeout=20)

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def report(self) -> dict[str, Any]:
        """The drift monitor's report."""
        url = f"{self._doors.drift_monitor}/v1/report"
        return self._get(url, self._doors.operator_key, model=self._model, windows="1000")

    def version(self, number: int) -> dict[str, Any] | None:
        """What the monitor says of one version, None before it has met it."""
        return next((one for one in self.report()["versions"] if one["model_version"] == number), None)

    def training(self) -> dict[str, Any]:
        """The trainer's versions, requests and replicas."""
        return self._get(f"{self._doors.trainer}/v1/models/{self._model}", self._doors.operator_key)

    def labels(self) -> dict[str, Any]:
        """label-ingest's counts."""
        return self._get(f"{self._doors.label_ingest}/v1/summary", self._doors.client_key, model=self._model)

    def counted(self) -> tuple[int, int]:
        """How many predictions and how many labels the monitor has counted, over all versions."""
        versions = self.report()["versions"]
        return sum(one["counted"] for one in versions), sum(one["performance"]["n"] for one in versions)

    def swapped(self, version: int) -> dict[str, datetime]:
        """Since when each replica serves `version`, by replica; those that do not are left out."""
        return {
            one["replica"]: datetime.fromisoformat(one["since"])
            for one in self.training()["replicas"]
            if one["model_version"] == version
        }

    def _get(self, url: str, key: Secret, **query: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            try:
                response = self._client.get(url, params=query, headers={"x-api-key": key.value})
            except httpx.TransportError:
                return None
            if response.status_code >= 500:
                return None
            found: dict[str, Any] = response.raise_for_status().json()
            return found

        return wait_for(f"an answer at {url}", look)


def wait_for(what: str, look: Callable[[], T | None], seconds: float = PATIENCE_SECONDS) -> T:
    """What `look` returns as soon as it is neither None nor False. Raises DemoFailed after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        if time.monotonic() > deadline:
            raise DemoFailed(f"waited {seconds:g} s for {what}, in vain")
        time.sleep(LOOK_SECONDS)
