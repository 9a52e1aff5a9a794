"""Bodies of requests. That of `POST /v1/outcomes` is read item by item: one bad outcome does not cost the good ones."""

import msgspec

from driftloop.common.envelope import without_value
from driftloop.common.events import Identifier, OutcomeReported, PredictionId
from driftloop.label_ingest.reports import MAX_ITEMS, Rejected

_SHOWN_CHARACTERS = 200


class Submitted(OutcomeReported, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An outcome as this door takes it: here a field that is not known is a typing error, which must not be lost."""


class Erasure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose rows are to be erased: a patient, as the predictor and the laboratories know it."""

    patient_id: Identifier


class _Named(msgspec.Struct):
    prediction_id: PredictionId


class UnreadableBody(ValueError):
    """Nothing of the body can be taken; `status` is the answer's. The text is for the sender."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


_items = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder(msgspec.Raw)
_submitted = msgspec.json.Decoder(Submitted)
_named = msgspec.json.Decoder(_Named)
_erasure = msgspec.json.Decoder(Erasure)


def read_outcomes(body: bytes) -> list[OutcomeReported | Rejected]:
    """The items of a body, in order. Raises UnreadableBody; so does a single object that is no outcome."""
    text = body.strip()
    if not text:
        raise UnreadableBody(422, f"the body is empty: send one outcome, or a list of 1 to {MAX_ITEMS}")
    try:
        if text.startswith(b"["):
            return _read_list(text)
        _any.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UnreadableBody(422, f"the body is not JSON: {_short(error)}") from error
    if not text.startswith(b"{"):
        raise UnreadableBody(422, f"the body is neither an object nor a list: send one outcome, or 1 to {MAX_ITEMS}")
    item = _read(text, "$")
    if isinstance(item, Rejected):
        raise UnreadableBody(422, item.detail)
    return [item]


def read_erasure(body: bytes) -> Erasure:
    """Whose rows are to be erased. Raises UnreadableBody; its text repeats nothing of the body, not a field's name."""
    try:
        erasure = _erasure.decode(body)
    except msgspec.ValidationError as error:
        reason = "send an object with `patient_id`, a text of 1 to 200 characters, and nothing else"
        raise UnreadableBody(422, f"the body does not say whose rows: {reason}") from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise UnreadableBody(422, 'the body is not JSON: send {"patient_id": "…"}') from error
    if "\0" in erasure.patient_id:
        raise UnreadableBody(422, "patient_id: must not contain the character U+0000")
    return erasure


def _read_list(text: bytes) -> list[OutcomeReported | Rejected]:
    raw = _items.decode(text)
    if not raw:
        raise UnreadableBody(422, f"the list is empty: send 1 to {MAX_ITEMS} outcomes")
    if len(raw) > MAX_ITEMS:
        raise UnreadableBody(413, f"the list has {len(raw)} outcomes: send at most {MAX_ITEMS} a request")
    return [_read(item, f"$[{place}]") for place, item in enumerate(raw)]


def _read(item: bytes | msgspec.Raw, place: str) -> OutcomeReported | Rejected:
    """One item, or why it is none: `place.field: reason`."""
    try:
        outcome = _submitted.decode(item)
    except msgspec.ValidationError as error:
        reason, _, where = without_value(str(error)).partition(" - at `$")
        return Rejected(_name(item), _short(f"{place}{where.removesuffix('`')}: {reason}"))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return Rejected(None, f"{place}: not JSON: {_short(error)}")
    return outcome


def _name(item: bytes | msgspec.Raw) -> str | None:
    try:
        return _named.decode(item).prediction_id
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def _short(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "…"
