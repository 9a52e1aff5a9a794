"""What a record of `model-updates` means to a replica."""

import msgspec
import pytest

from driftloop.common.envelope import Outgoing, encode_event
from driftloop.common.events import ModelUpdated
from driftloop.common.kafka.records import Record
from driftloop.predictor.following import RefusedRecord, read_state
from tests.unit.predictor.builders import NOW, state


def record(
    event: ModelUpdated | None = None, key: bytes | None = b"diabetes/3", value: bytes | None = None, **changes: bool
) -> Record:
    event = event or state(3)
    headers = Outgoing("model-updates", "", event, "1", NOW).headers("tests", 0)
    return Record("model-updates", 0, 0, key, value or encode_event(event), dict(headers), **changes)


def reason_of(found: Record) -> str:
    with pytest.raises(RefusedRecord) as refused:
        read_state(found, "diabetes")
    return refused.value.reason


def test_a_state_of_our_model_is_read() -> None:
    assert read_state(record(), "diabetes") == state(3)


def test_a_bare_record_is_read_too() -> None:
    found = record()
    assert read_state(Record("", 0, 0, found.key, found.value, {}), "diabetes") == state(3)


@pytest.mark.parametrize("key", [b"loan/3", b"diabetes", b"/3", b"", None, b"diabetes/x/3", b"\xff/3"])
def test_what_is_not_keyed_as_ours_is_none_of_ours(key: bytes | None) -> None:
    assert read_state(record(key=key), "diabetes") is None


def test_a_tombstone_says_nothing() -> None:
    tombstone = Record("model-updates", 0, 0, b"diabetes/3", None, {})
    assert read_state(tombstone, "diabetes") is None


@pytest.mark.parametrize("key", [b"diabetes/4", b"diabetes/03", b"diabetes/+3", b"diabetes/x", b"diabetes/"])
def test_a_key_that_is_not_the_events_is_refused(key: bytes) -> None:
    assert reason_of(record(key=key)) == "key"


def test_an_event_of_another_model_under_our_key_is_refused() -> None:
    assert reason_of(record(msgspec.structs.replace(state(3), model_name="loan"))) == "key"


@pytest.mark.parametrize("value", [b"garbage", b"\xff\xfe", b'{"a":' * 10_000])
def test_garbage_under_our_key_is_refused(value: bytes) -> None:
    assert reason_of(record(value=value)) == "value"


@pytest.mark.parametrize("value", [b"{}", b'{"model_name": "diabetes", "revision": 0}', b"[]"])
def test_what_is_no_state_under_our_key_is_refused(value: bytes) -> None:
    assert reason_of(record(value=value)) == "schema"


def test_headers_of_another_event_are_refused() -> None:
    found = record()
    assert reason_of(Record("", 0, 0, found.key, found.value, {"ce_type": b"driftloop.Nothing"})) == "headers"


def test_headers_that_cannot_be_read_are_refused() -> None:
    assert reason_of(record(unreadable_headers=True)) == "headers"
