"""Logs are one JSON object a line, whatever they are given, and tell nothing that a database quotes."""

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import ecs_logging
import psycopg
import pytest

from driftloop.common.logs import REQUEST_ID, EcsFormatter, JsonFormatter, Sparing
from driftloop.common.tracing import span
from tests.support.collector import recording

PATIENT = "Mrs Example"


class Unspeakable:
    """A value that cannot even be written as text."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


# A logger without a parent: nobody else writes what it is given.
logger = logging.Logger("tests.logs")


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the logger of these tests has written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("a service"))
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


def lines(written: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in written.getvalue().splitlines()]


def test_a_record_is_one_line_with_its_time_level_service_and_extras(written: io.StringIO) -> None:
    logger.warning("two\nlines, %d values", 2, extra={"rows": 7, "where": {"a": [1, None]}})
    (line,) = lines(written)
    assert str(line.pop("time")).endswith("+00:00")
    assert line == {
        "level": "WARNING", "service": "a service", "logger": "tests.logs", "message": "two\nlines, 2 values",
        "rows": 7, "where": {"a": [1, None]},
    }  # fmt: skip


def test_what_is_logged_for_a_request_has_its_id(written: io.StringIO) -> None:
    token = REQUEST_ID.set("order-17")
    logger.warning("inside")
    REQUEST_ID.reset(token)
    logger.warning("outside")
    assert [line.get("request_id") for line in lines(written)] == ["order-17", None]


@pytest.mark.parametrize(
    "value", [Unspeakable(), {("a", 1): 2}, float("nan"), float("inf"), b"\xff", {1, 2}, "\ud800", [Unspeakable()]]
)
def test_an_odd_extra_is_written_somehow(written: io.StringIO, value: object) -> None:
    logger.warning("odd", extra={"value": value, "rows": 7})
    (line,) = lines(written)
    assert line["message"] == "odd"
    assert "value" in line


def test_an_extra_that_contains_itself_is_written_somehow(written: io.StringIO) -> None:
    circle: dict[str, object] = {}
    circle["circle"] = circle
    logger.warning("odd", extra={"circle": circle})
    assert len(lines(written)) == 1


def test_an_extra_cannot_pass_itself_off_as_a_standard_field(written: io.StringIO) -> None:
    logger.warning("real", extra={"level": "DEBUG", "time": "never", "service": "another"})
    (line,) = lines(written)
    assert (line["level"], line["service"], line["extra_level"]) == ("WARNING", "a service", "DEBUG")


def test_arguments_that_do_not_fit_their_message_lose_no_line(written: io.StringIO) -> None:
    logger.warning("%d of %d", 1)
    logger.warning("%s", Unspeakable())
    logger.warning(Unspeakable())
    assert len(lines(written)) == 3


def test_an_exception_is_in_the_line_with_its_stack_and_its_cause(written: io.StringIO) -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error
    except RuntimeError:
        logger.exception("it failed")
    (line,) = lines(written)
    told = str(line["exception"])
    assert "RuntimeError: second" in told
    assert "KeyError: 'first'" in told
    assert told.count("test_logs.py") == 2


def test_an_error_of_the_database_is_told_without_what_it_quotes(written: io.StringIO) -> None:
    class Unique(psycopg.errors.UniqueViolation):
        """As the server sends it: the text quotes the row."""

    quoting = f"Key (patient)=({PATIENT}) already exists"
    try:
        raise Unique(quoting)
    except psycopg.Error as error:
        wrapped = RuntimeError("a batch failed")
        wrapped.__cause__ = error
        logger.error("it failed", exc_info=wrapped)
    (line,) = lines(written)
    assert PATIENT not in json.dumps(line)
    assert "SQLSTATE 23505" in str(line["exception"])


def test_causes_that_go_in_a_circle_come_to_an_end(written: io.StringIO) -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    logger.error("it failed", exc_info=one)
    assert len(lines(written)) == 1


def test_no_exception_is_no_field(written: io.StringIO) -> None:
    logger.warning("nothing failed", exc_info=True)
    (line,) = lines(written)
    assert "exception" not in line


def record(message: str, level: int = logging.WARNING, seconds: float = 0, **values: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": message, "levelno": level} | values)
    made.created = 1_000 + seconds
    return made


def test_a_kind_of_message_passes_once_in_its_time() -> None:
    sparing = Sparing(10)
    passed = [sparing.filter(record("away", seconds=second)) for second in (0, 1, 9.9, 10, 11, 20)]
    assert passed == [True, False, False, True, False, True]


def test_other_kinds_of_message_pass_meanwhile() -> None:
    sparing = Sparing(10)
    assert sparing.filter(record("%s [%s] %s", args=("FAIL", "producer-1", "broker 1")))
    assert not sparing.filter(record("%s [%s] %s", args=("FAIL", "producer-1", "broker 2")))
    assert sparing.filter(record("%s [%s] %s", args=("FAIL", "producer-2", "broker 1")))
    assert sparing.filter(record("%s [%s] %s", args=("GETPID", "producer-1", "broker 1")))
    assert sparing.filter(record("%s [%s] %s", logging.CRITICAL, args=("FAIL", "producer-1", "broker 1")))


# --- the Elastic Common Schema


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def flat(fields: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Fields by their whole names, as Elasticsearch reads them."""
    found: dict[str, object] = {}
    for name, value in fields.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


@pytest.fixture
def common_schema() -> Iterator[io.StringIO]:
    """What the logger of these tests has written by the names of the Elastic Common Schema."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(EcsFormatter("predictor"))
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


@pytest.fixture
def both() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What our formatter and Elastic's own have written of the same records."""
    streams = io.StringIO(), io.StringIO()
    for stream, formatter in zip(streams, (EcsFormatter("predictor"), ecs_logging.StdlibFormatter()), strict=True):
        handler = logging.StreamHandler(stream)
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    yield streams
    logger.handlers.clear()


def test_the_common_schema_s_fields_are_those_of_elastic_s_own_library(both: tuple[io.StringIO, io.StringIO]) -> None:
    try:
        raise ValueError("too large")
    except ValueError:
        logger.exception("it failed: %d", 7)
    ours, theirs = (flat(json.loads(stream.getvalue())) for stream in both)
    # Their process.thread.id and process.name say what pid and thread's name say; log.original is the message again.
    left_out = {"log.original", "process.thread.id", "process.name"}
    own = {"service.name", "service.version", "service.node.name", "event.dataset"}
    assert set(ours) == set(theirs) - left_out | own
    assert "ValueError: too large" in str(ours.pop("error.stack_trace"))
    assert theirs.pop("error.stack_trace")
    assert {name: ours[name] for name in set(theirs) & set(ours)} == {
        name: value for name, value in theirs.items() if name not in left_out
    }
    first = both[0].getvalue()
    assert list(json.loads(first))[:3] == ["@timestamp", "log.level", "message"]


def test_the_common_schema_says_where_a_line_belongs(common_schema: io.StringIO) -> None:
    with recording(), span("work", "internal", TRACEPARENT, {}):
        token = REQUEST_ID.set("order-17")
        logger.warning("inside", extra={"rows": 7, "message_id": "m"})
        REQUEST_ID.reset(token)
    (line,) = lines(common_schema)
    assert line["trace.id"] == TRACEPARENT[3:35]
    assert len(str(line["span.id"])) == 16
    assert (line["http.request.id"], line["driftloop.rows"], line["driftloop.message_id"]) == ("order-17", 7, "m")
    assert (line["service.name"], line["event.dataset"]) == ("predictor", "predictor.log")


def test_the_common_schema_quotes_no_database_either(common_schema: io.StringIO) -> None:
    error = psycopg.errors.UniqueViolation(f"Key (name)=({PATIENT}) already exists.")
    logger.error("refused", exc_info=error)
    (line,) = lines(common_schema)
    assert PATIENT not in json.dumps(line)
    assert (line["error.type"], line["error.message"]) == ("UniqueViolation", "SQLSTATE 23505")
