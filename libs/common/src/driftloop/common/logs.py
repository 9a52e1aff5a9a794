"""Logs as JSON lines on standard error, one object a line, with nothing of a patient in them."""

import json
import logging
import socket
import sys
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib import metadata
from typing import Literal

import msgspec

from driftloop.common.tracing import current_traceparent, parse_traceparent

# The id of the request that is being answered, for the lines that are logged meanwhile.
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}
# A chain of causes can be a circle.
_LONGEST_CHAIN = 10
# The version of the Elastic Common Schema whose fields are written.
ECS_VERSION = "1.6.0"


class LogSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is logged, and by whose names of fields. A service's settings inherit these."""

    log_level: str = "INFO"
    # Our own, or those of the Elastic Common Schema.
    log_format: Literal["json", "ecs"] = "json"


class JsonFormatter(logging.Formatter):
    """One line a record: time, level, logger, message, then whatever `extra` gave."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Render the record; values that JSON does not know are written as text."""
        line = self._line(record)
        try:
            return json.dumps(line, default=str, allow_nan=False)
        except Exception:  # noqa: BLE001 - a log line must never be what breaks a service
            return json.dumps({name: _text(value) for name, value in line.items()})

    def _line(self, record: logging.LogRecord) -> dict[str, object]:
        line: dict[str, object] = {
            "time": _instant(record),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": _message(record),
        }
        if (request_id := REQUEST_ID.get()) is not None:
            line["request_id"] = request_id
        if (context := parse_traceparent(current_traceparent())) is not None:
            line |= {"trace_id": context.trace, "span_id": context.span}
        for name, value in _extras(record):
            line[name if name not in line else f"extra_{name}"] = value
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = describe(record.exc_info[1])
        if record.stack_info:
            line["stack"] = record.stack_info
        return line


class EcsFormatter(JsonFormatter):
    """The same by the names of the Elastic Common Schema; what `extra` gave is below `driftloop.`."""

    def __init__(self, service: str) -> None:
        super().__init__(service)
        self._constant: dict[str, object] = {
            "ecs.version": ECS_VERSION,
            "service.name": service,
            "service.version": metadata.version("driftloop-common"),
            "service.node.name": socket.gethostname(),
            "event.dataset": f"{service}.log",
        }

    def _line(self, record: logging.LogRecord) -> dict[str, object]:
        line: dict[str, object] = {
            "@timestamp": _instant(record).replace("+00:00", "Z"),
            "log.level": record.levelname.lower(),
            "message": _message(record),
            **self._constant,
            "log.logger": record.name,
            "log.origin.file.name": record.filename,
            "log.origin.file.line": record.lineno,
            "log.origin.function": record.funcName,
            "process.pid": record.process,
            "process.thread.name": record.threadName,
        }
        if (request_id := REQUEST_ID.get()) is not None:
            line["http.request.id"] = request_id
        if (context := parse_traceparent(current_traceparent())) is not None:
            line |= {"trace.id": context.trace, "span.id": context.span}
        line |= {f"driftloop.{name}": value for name, value in _extras(record)}
        if record.stack_info:
            line["error.stack_trace"] = record.stack_info
        if record.exc_info and (error := record.exc_info[1]) is not None:
            line |= {
                "error.type": type(error).__qualname__,
                "error.message": _reason(error),
                "error.stack_trace": describe(error),
            }
        return line


class Sparing(logging.Filter):
    """Lets messages of one kind through once in `seconds`: a broker that is away is news once, not 20 times a second.

    A kind is a level, a text before its arguments are put in, and the first two of these.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._last: dict[tuple[object, ...], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is news."""
        kind = self.kind(record)
        news = record.created - self._last.get(kind, float("-inf")) >= self._seconds
        if news:
            self._last[kind] = record.created
        return news

    def kind(self, record: logging.LogRecord) -> tuple[object, ...]:
        """What a record has in common with those that say the same."""
        return (record.levelno, record.msg, *(record.args[:2] if isinstance(record.args, tuple) else ()))


def describe(error: BaseException) -> str:
    """The stack of an error and of what caused it; of a database's error its class only, for its text quotes rows."""
    parts: list[str] = []
    link: BaseException | None = error
    while link is not None and len(parts) < _LONGEST_CHAIN:
        where = "".join(traceback.format_tb(link.__traceback__))
        parts.append(f"{where}{type(link).__qualname__}: {_reason(link)}")
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\n\nwhich came while or because of:\n\n".join(parts)


def _reason(error: BaseException) -> str:
    if hasattr(error, "sqlstate"):
        return f"SQLSTATE {error.sqlstate}"
    return _text(error)


def _instant(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _extras(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """What `extra` gave."""
    return ((name, value) for name, value in record.__dict__.items() if name not in _STANDARD)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - the caller's arguments may do anything
        return f"{_text(record.msg)} (with arguments that do not fit it)"


def _text(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - so may the caller's values
        return f"<a {type(value).__name__} that has no text>"


def configure_logging(service: str, settings: LogSettings = LogSettings()) -> None:
    """Send every logger's records to standard error, as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter((EcsFormatter if settings.log_format == "ecs" else JsonFormatter)(service))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for noisy in ("uvicorn.access", "httpx", "httpcore"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
