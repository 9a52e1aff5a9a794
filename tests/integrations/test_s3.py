"""Artifacts in S3: a real server keeps the registry's promises, and what goes wrong with one is told and survived."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from driftloop.common import registry
from driftloop.common.registry import objects
from driftloop.devstack.processes import ServiceProcess
from tests.support.artifacts import small_bundle
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.predictors import PSEUDONYM_KEY
from tests.support.s3 import BUCKET, ENVIRONMENT, LOST, S3, error, s3_server
from tests.support.stores import BUNDLE, CONTENTS, CONTRACT, FILES, ObjectFiles, Place, StoreContract
from tests.support.waiting import wait_until

SECRET = ENVIRONMENT["AWS_SECRET_ACCESS_KEY"]
OTHER = small_bundle(CONTRACT, weight=0.2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The server of all tests in this file, and an environment that leads to it."""
    with s3_server(tmp_path_factory.mktemp("s3")) as found, pytest.MonkeyPatch.context() as patch:
        for name, value in found.environment.items():
            patch.setenv(name, value)
        yield found
        objects._filesystem.cache_clear()


@pytest.fixture
def s3(server: S3) -> Iterator[S3]:
    """The server, well."""
    yield server
    server.proxy.heal()


@pytest.fixture
def place(s3: S3, tmp_path: Path) -> Place:
    """A prefix of the bucket with nothing below it."""
    assert s3.url
    path = f"{BUCKET}/{tmp_path.name}"
    driver, _ = objects._opened(f"s3://{path}")
    return Place.of(f"s3://{path}", ObjectFiles(driver, path), tmp_path / "keys")


class TestStore(StoreContract):
    """Every promise, of a server that speaks S3."""


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A driver that gives up soon."""
    retries = {"mode": "standard", "total_max_attempts": 2}
    config = {"connect_timeout": 0.5, "read_timeout": 0.5, "retries": retries}
    monkeypatch.setattr(objects, "_OPTIONS", {"s3": {"config_kwargs": config}})
    objects._filesystem.cache_clear()
    yield
    objects._filesystem.cache_clear()


def failing(place: Place, use: Callable[[], Any], kind: type[registry.ArtifactError]) -> str:
    """What is said where something fails; never a secret, and the same may succeed later."""
    with pytest.raises(kind) as refused:
        use()
    assert refused.value.transient
    assert SECRET not in str(refused.value)
    assert place.key.key_id not in str(refused.value)
    return str(refused.value)


# --- writers that die, and writers at once


@pytest.mark.parametrize("puts", range(len(CONTENTS) + 1))
def test_a_write_that_breaks_off_leaves_no_version_and_is_in_nobodys_way(s3: S3, place: Place, puts: int) -> None:
    """The server is gone after so many files; later another bundle is written under the same number."""
    ref = place.write()
    registry.delete_version(ref.uri, "diabetes", 1)
    s3.proxy.heal()

    def gone(_method: str, _path: str) -> None:
        if sum(method == "PUT" for method, _ in s3.proxy.seen) > puts:
            raise ConnectionResetError

    s3.proxy.fault = gone
    failing(place, place.write, registry.StoreUnavailable)
    s3.proxy.heal()
    assert place.reason(ref) == "missing"
    assert place.fetch(place.write(OTHER)) == OTHER


@pytest.mark.parametrize("name", FILES)
def test_of_two_writers_at_once_the_first_manifest_counts_and_the_other_is_told(
    s3: S3, place: Place, name: str
) -> None:
    """The other one writes all its version while the first is about to write one of its files."""
    written = []

    def overtake(method: str, path: str) -> None:
        if method == "PUT" and path.endswith(name):
            s3.proxy.heal()
            written.append(place.write(OTHER))

    s3.proxy.fault = overtake
    with pytest.raises(registry.ArtifactConflict, match="other or incomplete content"):
        place.write()
    assert place.fetch(written[0]) == OTHER


def test_of_two_writers_of_the_same_both_are_first(s3: S3, place: Place) -> None:
    written = []

    def overtake(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("manifest.json"):
            s3.proxy.heal()
            written.append(place.write())

    s3.proxy.fault = overtake
    assert place.write() == written[0]
    assert place.fetch(written[0]) == BUNDLE


def test_an_answer_that_is_lost_is_no_conflict_with_oneself(s3: S3, place: Place) -> None:
    def lose(method: str, path: str) -> tuple[int, bytes] | None:
        puts = sum(one == "PUT" and where == path for one, where in s3.proxy.seen)
        return (LOST, b"") if method == "PUT" and puts == 1 else None

    s3.proxy.fault = lose
    assert place.fetch(place.write()) == BUNDLE


# --- servers that do not answer, or say no


@pytest.mark.usefixtures("impatient")
def test_a_server_that_was_killed_is_away_for_now(s3: S3, place: Place) -> None:
    ref = place.write()
    s3.kill()
    for use in (lambda: place.fetch(ref), place.write, lambda: registry.delete_version(ref.uri, "diabetes", 1)):
        failing(place, use, registry.StoreUnavailable)
    s3.start()
    assert place.fetch(place.write()) == BUNDLE


@pytest.mark.usefixtures("impatient")
def test_a_server_that_hangs_is_given_up(s3: S3, place: Place) -> None:
    ref, go = place.write(), threading.Event()

    def hang(_method: str, _path: str) -> None:
        go.wait(30)

    s3.proxy.fault = hang
    begun = time.monotonic()
    assert "ReadTimeout" in failing(place, lambda: place.fetch(ref), registry.StoreUnavailable)
    assert time.monotonic() - begun < 10
    go.set()


def test_a_call_ends_however_often_the_driver_would_try(s3: S3, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ref, go = place.write(), threading.Event()

    def hang(_method: str, _path: str) -> None:
        go.wait(30)

    s3.proxy.fault = hang
    monkeypatch.setattr(objects, "CALL_SECONDS", 0.5)
    failing(place, lambda: place.fetch(ref), registry.StoreUnavailable)
    go.set()


def test_what_fails_once_is_tried_again(s3: S3, place: Place) -> None:
    ref = place.write()
    s3.proxy.heal()
    s3.proxy.fault = lambda _method, _path: error(503, "SlowDown") if len(s3.proxy.seen) == 1 else None
    assert place.fetch(ref) == BUNDLE


def test_what_always_fails_is_tried_a_few_times(s3: S3, place: Place) -> None:
    ref = place.write()
    s3.proxy.heal()
    s3.proxy.fault = lambda _method, _path: error(500, "InternalError")
    said = failing(place, lambda: place.fetch(ref), registry.StoreUnavailable)
    assert "the words of InternalError" in said
    assert len(s3.proxy.seen) == objects.ATTEMPTS


def test_a_store_that_is_full_keeps_what_it_has(s3: S3, place: Place) -> None:
    ref = place.write()
    second = small_bundle(CONTRACT, version=2)
    s3.proxy.fault = lambda method, _path: error(507, "XMinioStorageFull") if method == "PUT" else None
    assert "the space that is left" in failing(place, lambda: place.write(second), registry.StoreUnavailable)
    assert place.fetch(ref) == BUNDLE
    s3.proxy.heal()
    assert place.fetch(place.write(second), version=2) == second


@pytest.mark.parametrize(
    ("status", "code"),
    [(403, "AccessDenied"), (403, "SignatureDoesNotMatch"), (403, "InvalidAccessKeyId"), (400, "ExpiredToken")],
)
def test_who_may_not_is_told_what_to_check(s3: S3, place: Place, status: int, code: str) -> None:
    ref = place.write()
    s3.proxy.fault = lambda _method, _path: error(status, code)
    uses: tuple[Callable[[], Any], ...] = (
        lambda: place.fetch(ref),
        lambda: place.write(OTHER),
        lambda: registry.delete_version(ref.uri, "diabetes", 1),
        lambda: registry.write_object(place.root, "loan", "a", b""),
    )
    for use in uses:
        said = failing(place, use, registry.StoreForbidden)
        assert f"the words of {code}" in said
        assert "check the credentials" in said


@pytest.mark.usefixtures("impatient")
def test_without_credentials_one_is_told_to_give_some(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    objects._filesystem.cache_clear()
    assert "check the credentials" in failing(place, place.write, registry.StoreForbidden)


def test_a_bucket_that_is_not_there_is_missing(s3: S3, place: Place) -> None:
    ref = place.write()
    uses: tuple[Callable[[], Any], ...] = (
        lambda: registry.write_bundle("s3://nowhere/artifacts", BUNDLE, place.key),
        lambda: registry.delete_version("s3://nowhere/artifacts/diabetes/1", "diabetes", 1),
        lambda: registry.write_object("s3://nowhere", "loan", "a", b"1"),
        lambda: registry.read_object("s3://nowhere", "loan", "a"),
        lambda: registry.delete_object("s3://nowhere", "loan", "a"),
    )
    for use in uses:
        assert "check that the bucket is" in failing(place, use, registry.ArtifactMissing)
    assert place.fetch(ref) == BUNDLE


def test_no_secret_is_logged(s3: S3, place: Place, caplog: pytest.LogCaptureFixture) -> None:
    objects._filesystem.cache_clear()
    with caplog.at_level(logging.DEBUG):
        place.fetch(place.write())
        s3.proxy.fault = lambda _method, _path: error(403, "SignatureDoesNotMatch")
        failing(place, lambda: place.write(OTHER), registry.StoreForbidden)
    assert SECRET not in caplog.text


# --- the services


@pytest.mark.timeout(150)
@pytest.mark.slow("three services are started, and one of them trains")
def test_what_the_trainer_keeps_in_s3_the_others_serve_and_watch(s3: S3, house: House, tmp_path: Path) -> None:
    assert house.signing_key.key_id
    contract = str(MODELS / "loan" / "contract.yaml")

    def service(name: str, module: str, own: dict[str, str]) -> tuple[ServiceProcess, str]:
        found, url = house.process(name, module, s3.environment | own)
        if name == "trainer":
            found.argv.append("train")
        found.start()
        return found, url

    trainer, _ = service(
        "trainer",
        "driftloop.trainer.cli",
        {
            "DATABASE_URL": house.database_url("trainer"),
            "DRIFTLOOP_CONTRACTS": contract,
            "DRIFTLOOP_SIGNING_KEY": str(house.folder / "keys" / "signing.pem"),
            "DRIFTLOOP_ARTIFACTS": f"s3://{BUCKET}/{tmp_path.name}",
        },
    )
    wait_until(lambda: trainer.returncode is not None, "the end of the training", 60)
    assert trainer.returncode == 0, trainer.tail()
    predictor, url = service(
        "predictor",
        "driftloop.predictor.main",
        {
            "DRIFTLOOP_CONTRACT": contract,
            "DRIFTLOOP_PSEUDONYM_KEY": PSEUDONYM_KEY,
            "DRIFTLOOP_SPOOL": str(tmp_path / "spool"),
        },
    )
    monitor, report = service(
        "drift-monitor",
        "driftloop.drift_monitor.main",
        {"DATABASE_URL": house.database_url("drift_monitor"), "DRIFTLOOP_CONTRACTS": contract},
    )
    predictor.wait_ready()
    assert httpx.get(f"{url}/v1/model", timeout=10).json()["champion"] == 1
    monitor.wait_ready()
    wait_until(lambda: httpx.get(f"{report}/v1/report", timeout=10).json()["versions"], "version 1's profile")
    for process in (predictor, monitor):
        assert process.terminate() == 0
    for process in (trainer, predictor, monitor):
        assert SECRET not in process.log_path.read_text()
