"""W3C trace context: a request's `traceparent` travels with every event that it causes."""

import random
import re

_TRACEPARENT = re.compile(r"\A00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})\Z")


def is_traceparent(text: str | None) -> bool:
    """Whether this is a trace context in the W3C's form."""
    return _TRACEPARENT.match(text or "") is not None


def child_traceparent(parent: str | None = None) -> str:
    """A new span in the trace of `parent`, or in a new trace if `parent` is absent or malformed."""
    match = _TRACEPARENT.match(parent or "")
    trace, flags = match.groups() if match else (_name(128), "00")
    return f"00-{trace}-{_name(64)}-{flags}"


def _name(bits: int) -> str:
    """A random name in hexadecimal digits, which is unique and no secret. All zeros stand for none."""
    return f"{random.getrandbits(bits) or 1:0{bits // 4}x}"
