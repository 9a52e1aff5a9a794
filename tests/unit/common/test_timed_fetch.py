"""A version that does not come in time is given up for now, and is there once it has come."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from driftloop.common.events import ArtifactRef
from driftloop.common.registry import ArtifactMissing, Bundle, StoreUnavailable
from driftloop.common.registry.timed import MAX_HANGING, TimedFetch
from tests.support.artifacts import small_bundle
from tests.support.predictors import DIABETES
from tests.support.waiting import wait_until

REF = ArtifactRef(uri="file:///artifacts/1", sha256="0" * 64, signature="", key_id="")


@dataclass
class Hanging:
    """A store that hangs until it is told to go on."""

    go: threading.Event = field(default_factory=threading.Event)
    asked: list[int] = field(default_factory=list)

    def fetch(self, _ref: ArtifactRef, _model: str, version: int) -> Bundle:
        """A bundle, in the end."""
        self.asked.append(version)
        self.go.wait(120)
        if version == 13:
            raise ArtifactMissing("version 13 is not there")
        return small_bundle(DIABETES, version)


@pytest.fixture
def store() -> Iterator[Hanging]:
    """A store that hangs, and goes on after the test."""
    found = Hanging()
    yield found
    found.go.set()


def test_what_comes_in_time_is_given(store: Hanging) -> None:
    store.go.set()
    assert TimedFetch(store.fetch)(REF, "diabetes", 2).model_version == 2


def test_what_fails_fails_as_it_does_without_a_limit(store: Hanging) -> None:
    store.go.set()
    with pytest.raises(ArtifactMissing, match="version 13 is not there"):
        TimedFetch(store.fetch)(REF, "diabetes", 13)


def test_what_hangs_is_given_up_in_time_asked_for_once_and_given_when_it_has_come(store: Hanging) -> None:
    fetch, begun = TimedFetch(store.fetch, 0.1), time.monotonic()
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=r"version 2 of model 'diabetes' has not come within 0\.1 s"):
            fetch(REF, "diabetes", 2)
    assert time.monotonic() - begun < 30
    assert store.asked == [2]
    store.go.set()
    assert fetch(REF, "diabetes", 2).model_version == 2
    # And anew, once it was given.
    assert fetch(REF, "diabetes", 2).model_version == 2
    assert store.asked == [2, 2]


def test_no_more_than_a_few_threads_are_left_hanging(store: Hanging) -> None:
    fetch = TimedFetch(store.fetch, 0.01)
    for version in range(MAX_HANGING):
        with pytest.raises(StoreUnavailable, match="has not come"):
            fetch(REF, "diabetes", version)
    with pytest.raises(StoreUnavailable, match=f"{MAX_HANGING} other versions are still waited for"):
        fetch(REF, "diabetes", 99)
    assert 99 not in store.asked
    store.go.set()
    wait_until(_none_fetches, "the end of all")
    assert fetch(REF, "diabetes", 99).model_version == 99


def _none_fetches() -> bool:
    return not any(thread.name == "artifact-fetch" for thread in threading.enumerate())
