"""A request's body: one flat JSON object, each field given once, or a reason that its sender can read."""

import json
from collections import Counter
from typing import Any

import msgspec

from driftloop.common.rows import FieldError, InvalidRow

PATIENT_ID = "patient_id"
ORDER_ID = "order_id"
# What a row may carry beside its features, and whom or what it names there.
IDENTIFIERS = {PATIENT_ID: "patient", ORDER_ID: "order"}
IDENTIFIER_CHARACTERS = 200

_decoder = msgspec.json.Decoder(dict[str, Any])
ROWS = "rows"


class InvalidBody(ValueError):
    """A body is no JSON object in UTF-8. `kind` is a code for the sender; the text holds no value of the body."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def read_body(body: bytes) -> dict[str, Any]:
    """The fields of a body. Raises InvalidBody, or InvalidRow where a field is given twice."""
    fields = read_object(body)
    check_given_once(body, len(fields))
    return fields


def read_rows(body: bytes, max_rows: int) -> list[Any]:
    """The rows of a batch's body, `{"rows": [{…}, …]}`; each may be anything. Raises InvalidBody, InvalidRow."""
    fields = read_object(body)
    rows = fields.get(ROWS)
    if len(fields) != 1 or not isinstance(rows, list):
        raise InvalidBody("value_error", 'send {"rows": [{…}, …]}, and nothing beside')
    if not 1 <= len(rows) <= max_rows:
        raise InvalidBody("value_error", f"{len(rows)} rows: send 1 to {max_rows} of them, and more in several batches")
    check_given_once(body, 1 + sum(len(row) for row in rows if isinstance(row, dict)))
    return rows


def read_object(body: bytes) -> dict[str, Any]:
    """The members of one JSON object, whatever they are; a name's last one counts. Raises InvalidBody."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidBody("value_error", f"{error}: send one JSON object") from error
    except msgspec.DecodeError as error:
        if not body.strip():
            raise InvalidBody("missing", "the body is empty: send one JSON object") from error
        raise InvalidBody("json_invalid", f"{error}: send one JSON object in UTF-8, without NaN or Infinity") from error
    except UnicodeDecodeError as error:
        raise InvalidBody("json_invalid", "the body is not UTF-8: send one JSON object in UTF-8") from error
    except RecursionError as error:
        raise InvalidBody("json_invalid", "the body is nested too deeply: send one flat JSON object") from error


def take_identifier(fields: dict[str, Any], name: str) -> str | None:
    """Take one of IDENTIFIERS out of the fields; None where it is absent. Raises InvalidRow, which does not hold it."""
    identifier = fields.pop(name, None)
    if identifier is None:
        return None
    if not isinstance(identifier, str) or not 1 <= len(identifier) <= IDENTIFIER_CHARACTERS:
        reason = f"must be a text of 1 to {IDENTIFIER_CHARACTERS} characters"
        raise InvalidRow([FieldError(name, None, reason)])
    return identifier


def check_given_once(body: bytes, names: int) -> None:
    """Raises InvalidRow where an object has a name twice: which value is meant, nobody can tell.

    `names` is how many names its objects had when each counted once.
    """
    # As many colons as names: none was given twice. More may be in texts, and need a closer look.
    if body.count(b":") == names:
        return
    twice: set[str] = set()

    def look(pairs: list[tuple[str, object]]) -> None:
        names = [name for name, _value in pairs]
        if len(set(names)) != len(names):
            twice.update(name for name, count in Counter(names).items() if count > 1)

    try:
        json.loads(body, object_pairs_hook=look)
    except (ValueError, RecursionError) as error:
        raise InvalidBody("json_invalid", "the body cannot be read: send one flat JSON object") from error
    if twice:
        raise InvalidRow([FieldError(name[:100], None, "is given more than once") for name in sorted(twice)[:20]])
