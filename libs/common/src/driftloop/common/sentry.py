"""Errors told to Sentry, where `SENTRY_DSN` or `SENTRY_DSN_FILE` names a project; without it the SDK is not imported.

What is told is a list of fields, and not what is left after scrubbing: the types of errors, where they were raised, and
the constant texts of our own log lines. No error's text, argument, local variable, request or SQL parameter is on it,
for these may hold a patient's values; nor is a request's id, which is the client's to choose.
"""

import logging
import os
import traceback
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from driftloop.common.logs import Sparing
from driftloop.common.settings import SettingsError, read_secret
from driftloop.common.tracing import current_traceparent, parse_traceparent

if TYPE_CHECKING:
    from sentry_sdk.client import BaseClient
    from sentry_sdk.types import Event, Hint

VARIABLE = "SENTRY_DSN"
# How long a process that ends waits for Sentry.
FLUSH_SECONDS = 2
# An error that comes with each request, or with each try, is news once in so many seconds.
NEWS_SECONDS = 60.0
# What the SDK says of an event and of a frame that may be told.
TOLD = ("event_id", "timestamp", "level", "logger", "platform", "release", "environment", "server_name", "sdk")
TOLD_OF_FRAME = ("filename", "function", "module", "lineno", "in_app", "pre_context", "context_line", "post_context")
TOLD_OF_MECHANISM = ("type", "handled", "exception_id", "parent_id", "is_exception_group")
# What our own log lines say beside their text that names parts of Driftloop only.
TOLD_OF_LINE = ("worker", "status", "model", "model_name", "model_version", "version", "revision", "topic", "partition")
OURS = "driftloop."

_client: "BaseClient | None" = None


def start_sentry(service: str, environ: Mapping[str, str] | None = None) -> None:
    """Tell Sentry of log lines of level ERROR and above and of what ends the process; without a DSN tell nobody.

    To be called after the logs are configured. Raises SettingsError where the DSN is none, or the SDK is not there.
    """
    global _client
    environ = os.environ if environ is None else environ
    dsn = read_secret(VARIABLE, environ)
    if dsn is None:
        return
    try:
        # Only here: who does not use Sentry need not have its SDK.
        import sentry_sdk  # noqa: PLC0415
        from sentry_sdk.integrations.atexit import AtexitIntegration  # noqa: PLC0415
        from sentry_sdk.integrations.excepthook import ExcepthookIntegration  # noqa: PLC0415
        from sentry_sdk.integrations.logging import EventHandler  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"{VARIABLE} is set, but {error.name} is not installed: install driftloop-common[sentry], or unset it"
        ) from error
    try:
        sentry_sdk.init(
            dsn=dsn.value,
            release=environ.get("SENTRY_RELEASE") or _release(environ),
            environment=environ.get("SENTRY_ENVIRONMENT") or "production",
            # None of those that look into requests, queries and other libraries' calls. That the SDK adds nothing
            # personal of its own is its default.
            default_integrations=False,
            auto_enabling_integrations=False,
            integrations=[ExcepthookIntegration(), AtexitIntegration(callback=lambda _pending, _seconds: None)],
            before_send=lambda event, hint: _told(service, event, hint),
            include_local_variables=False,
            max_request_body_size="never",
            max_breadcrumbs=0,
            auto_session_tracking=False,
            enable_metrics=False,
            shutdown_timeout=FLUSH_SECONDS,
            spotlight=False,
        )
    except ValueError as error:
        # It holds a key: what is wrong is said, and not what was given.
        raise SettingsError(f"{VARIABLE}: {error}: use the project's, in the form https://KEY@HOST/NUMBER") from error
    _client = sentry_sdk.get_client()
    handler = EventHandler(level=logging.ERROR)
    handler.addFilter(_News(NEWS_SECONDS))
    logging.getLogger().addHandler(handler)


def stop_sentry() -> None:
    """Send what has gathered, within limits: the last thing that a process does."""
    global _client
    client, _client = _client, None
    if client is not None:
        client.close(FLUSH_SECONDS)


class _News(Sparing):
    """Errors are of one kind where they are raised, or logged, at one place."""

    def kind(self, record: logging.LogRecord) -> tuple[object, ...]:
        """Where the line was logged, and the error's type and where that was raised."""
        error = record.exc_info[1] if record.exc_info else None
        raised = traceback.extract_tb(error.__traceback__)[-1:] if error is not None else ()
        return (record.name, record.lineno, type(error), *((one.filename, one.lineno) for one in raised))


def _release(environ: Mapping[str, str]) -> str:
    revision = environ.get("DRIFTLOOP_REVISION")
    return f"driftloop@{metadata.version('driftloop-common')}" + (f"+{revision}" if revision else "")


def _told(service: str, event: "Event", hint: "Hint") -> "Event":
    """What of an event is told."""
    given: Mapping[str, Any] = event
    found: dict[str, Any] = {name: given[name] for name in TOLD if name in given}
    found["tags"] = {"service": service}
    if (context := parse_traceparent(current_traceparent())) is not None:
        found["contexts"] = {"trace": {"trace_id": context.trace, "span_id": context.span}}
    if (errors := given.get("exception")) is not None:
        found["exception"] = {"values": [_told_of_error(one) for one in errors["values"]]}
    if (record := hint.get("log_record")) is not None:
        ours = record.name.startswith(OURS)
        # Other libraries put values into their texts.
        found["logentry"] = {"message": str(record.msg) if ours else f"an error of {record.name}: see the log"}
        found["extra"] = {name: getattr(record, name) for name in TOLD_OF_LINE if ours and hasattr(record, name)}
    return found  # type: ignore[return-value]


def _told_of_error(error: Mapping[str, Any]) -> dict[str, Any]:
    frames = (error.get("stacktrace") or {}).get("frames", ())
    told = [{name: frame[name] for name in TOLD_OF_FRAME if name in frame} for frame in frames]
    found = {name: error[name] for name in ("type", "module") if name in error}
    # How errors that caused each other hang together.
    mechanism = {name: value for name, value in error.get("mechanism", {}).items() if name in TOLD_OF_MECHANISM}
    return found | {"mechanism": mechanism, "stacktrace": {"frames": told}}
