"""Object stores: which URIs name one, what drivers' errors mean, and what holds where a server has no conditions."""

import errno
import os
import uuid
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest

from driftloop.common import registry
from driftloop.common.registry import objects

FILES = {"model.onnx": b"model", "card.json": b"{}", "manifest.json": b'{"digest": 1}'}


@pytest.fixture
def root() -> Iterator[str]:
    """An empty store in memory."""
    found = f"memory://{uuid.uuid4().hex}/artifacts"
    objects._filesystem.cache_clear()
    with patch.dict(registry.STORES, {"memory": registry.OBJECTS}):
        yield found
    driver().store.clear()
    objects._filesystem.cache_clear()


def driver() -> Any:
    """What the store in memory is reached by."""
    return objects._filesystem("memory", os.getpid())


# --- URIs


@pytest.mark.parametrize(
    "uri",
    [
        "s3://user:password@bucket/prefix",
        "s3://bucket/prefix?key=password",
        "s3://bucket/prefix#password",
        "s3://bucket/password%20",
        "s3://",
        "s3:///prefix",
        "s3://bucket//prefix",
        "s3://bucket/../prefix",
        "s3://bucket/./prefix",
        "s3://bucket/pre*fix",
        "s3://bucket/prefix\n",
    ],
)
def test_a_uri_that_is_no_place_is_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(registry.ArtifactMalformed, match="credentials come from the environment") as refused:
        registry.check_uri(uri)
    assert "password" not in str(refused.value)


@pytest.mark.parametrize("uri", ["s3://bucket", "s3://bucket/", "S3://my.bucket/a/.training-sets/b_c"])
def test_a_bucket_and_a_prefix_are_a_place(uri: str) -> None:
    registry.check_uri(uri)


@pytest.mark.parametrize(
    "uri", ["http://169.254.169.254/x", "simplecache::s3://bucket", "github://a:b@c", "memory://x"]
)
def test_what_only_fsspec_knows_is_no_store(uri: str) -> None:
    with pytest.raises(registry.ArtifactMalformed, match="supported are abfs://, file://, gs://, s3://"):
        registry.check_uri(uri)


def test_a_driver_that_is_not_installed_is_named_with_the_remedy() -> None:
    with (
        patch("fsspec.filesystem", side_effect=ImportError),
        pytest.raises(registry.ArtifactMalformed, match=r"install driftloop-common\[s3\]"),
    ):
        objects._filesystem.__wrapped__("s3", 0)


# --- writers


def test_the_manifest_is_written_last_and_only_if_there_is_none(root: str) -> None:
    with patch.object(driver(), "pipe_file", wraps=driver().pipe_file) as put:
        objects.write_objects(root, "loan", 1, FILES)
    names = [call.args[0].rpartition("/")[2] for call in put.call_args_list]
    assert names == ["model.onnx", "card.json", "manifest.json"]
    assert [call.kwargs.get("mode") for call in put.call_args_list] == [None, None, "create"]


def test_where_a_server_has_no_conditions_the_manifest_is_written_all_the_same(root: str) -> None:
    calm = driver().pipe_file

    def put(key: str, data: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise OSError(errno.ENOSYS, "NotImplemented")
        calm(key, data)

    with patch.object(driver(), "pipe_file", put):
        uri = objects.write_objects(root, "loan", 1, FILES)
        assert objects.write_objects(root, "loan", 1, FILES) == uri
        with pytest.raises(registry.ArtifactConflict):
            objects.write_objects(root, "loan", 1, FILES | {"manifest.json": b"other"})


def test_whoever_is_overtaken_after_the_write_is_told(root: str) -> None:
    """Another writer's manifest lands on ours, where the server has no conditions."""
    calm = driver().pipe_file

    def put(key: str, data: bytes, **_how: object) -> None:
        calm(key, b"another's" if key.endswith("manifest.json") else data)

    with patch.object(driver(), "pipe_file", put), pytest.raises(registry.ArtifactConflict):
        objects.write_objects(root, "loan", 1, FILES)


# --- errors


class NoCredentialsError(Exception):
    """As botocore calls it."""


class EndpointConnectionError(Exception):
    """As botocore calls it; its text has the address."""


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (FileNotFoundError("k"), registry.ArtifactMissing, "check that the bucket is"),
        (PermissionError("You shall not pass"), registry.StoreForbidden, "PermissionError You shall not pass"),
        (NoCredentialsError("x"), registry.StoreForbidden, "check the credentials"),
        (OSError(errno.EBUSY, "Slow  down\nplease"), registry.StoreUnavailable, "OSError Slow down please"),
        (EndpointConnectionError("https://user:password@host"), registry.StoreUnavailable, "EndpointConnectionError"),
        (TimeoutError(), registry.StoreUnavailable, "TimeoutError"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_driver_raises_is_told_by_its_kind(
    root: str, error: Exception, kind: type[registry.ArtifactError], said: str
) -> None:
    with patch.object(driver(), "cat_file", side_effect=error), pytest.raises(registry.ArtifactError) as refused:
        registry.read_object(root, "loan", "a.arrow")
    assert type(refused.value) is kind
    assert refused.value.transient
    assert said in str(refused.value)
    assert "password" not in str(refused.value)


def test_one_driver_serves_all_threads_of_a_process() -> None:
    assert objects._opened("s3://a/b")[0] is objects._opened("s3://c")[0]
