"""Tensors as columns of plain values: read from JSON or from little-endian bytes, and written as either."""

from collections.abc import Sequence
from itertools import chain
from math import prod
from struct import Struct
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.common.rows import Value
from driftloop.predictor.body import InvalidBody

BYTES, BOOL, FP32, FP64, INT64 = "BYTES", "BOOL", "FP32", "FP64", "INT64"
# 16 bits hold no laboratory's value as it was measured.
_NUMBERS: dict[str, np.dtype[Any]] = {
    FP32: np.dtype("<f4"),
    FP64: np.dtype("<f8"),
    **{f"INT{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
NUMBERS = tuple(_NUMBERS)
_WRITTEN: dict[str, np.dtype[Any]] = {BOOL: np.dtype("?"), FP64: np.dtype("<f8"), INT64: np.dtype("<i8")}
_LENGTH = Struct("<I")
_NAME_CHARACTERS = 100


class InputTensor(msgspec.Struct, frozen=True):
    """One input as a request's JSON describes it; its values are in `data`, or among the bytes after the JSON."""

    name: str
    shape: list[int]
    datatype: str
    data: Any = None
    parameters: dict[str, Any] | None = None

    @property
    def called(self) -> str:
        """How an error names it."""
        return f"input {shortened(self.name)!r}"

    @property
    def size(self) -> int | None:
        """How many bytes after the JSON are its values, None if these are in the JSON. Raises InvalidBody."""
        size = (self.parameters or {}).get("binary_data_size")
        if size is None:
            return None
        if type(size) is not int or size < 0:
            raise wrong(f"{self.called}: binary_data_size must be a whole number of bytes")
        if self.data is not None:
            raise wrong(f"{self.called} has data and binary_data_size: send its values once")
        return size


def wrong(reason: str) -> InvalidBody:
    """A request that the protocol or the model does not allow."""
    return InvalidBody("value_error", reason)


def wrong_shape(tensor: InputTensor) -> InvalidBody:
    """A shape that no tensor of rows has."""
    return wrong(f"{tensor.called} has the shape {shortened(str(tensor.shape))}: send [n] or [n, 1] for n rows")


def shortened(name: str) -> str:
    """A name as an error may carry it."""
    return name if len(name) <= _NAME_CHARACTERS else name[:_NAME_CHARACTERS] + "…"


def read_numbers(tensor: InputTensor, content: bytes | None) -> Sequence[Value]:
    """The numbers of a tensor, row by row; None where it has NaN or null. Raises InvalidBody."""
    dtype = _NUMBERS.get(tensor.datatype)
    if dtype is None:
        raise wrong(f"{tensor.called} has datatype {shortened(tensor.datatype)}: send one of {', '.join(NUMBERS)}")
    if content is None:
        return _numbers_of_json(tensor, dtype)
    wanted = dtype.itemsize * prod(tensor.shape)
    if len(content) != wanted:
        raise wrong(f"{tensor.called} has {len(content)} bytes: {tensor.datatype} {tensor.shape} takes {wanted}")
    values = np.frombuffer(content, dtype)
    return _plain(values) if dtype.kind == "f" else values.tolist()


def _numbers_of_json(tensor: InputTensor, dtype: np.dtype[Any]) -> Sequence[Value]:
    values, kinds = _flat(tensor), (int, float, type(None)) if dtype.kind == "f" else (int,)
    # A truth value is an int to Python, and no number to anybody else.
    if not set(map(type, values)) <= set(kinds):
        taken = "numbers, or null for missing" if dtype.kind == "f" else "whole numbers"
        raise wrong(f"{tensor.called}: {tensor.datatype} takes {taken}")
    if dtype.kind == "f":
        return _plain(_narrow(tensor, values)) if tensor.datatype == FP32 else values
    bounds = np.iinfo(dtype)
    if not bounds.min <= min(values) <= max(values) <= bounds.max:
        raise wrong(f"{tensor.called}: {tensor.datatype} takes whole numbers from {bounds.min} to {bounds.max}")
    return values


def _narrow(tensor: InputTensor, values: Sequence[Any]) -> NDArray[np.float32]:
    try:
        with np.errstate(over="ignore"):
            return np.array(values, np.float64).astype(np.float32)
    except OverflowError as error:
        raise wrong(f"{tensor.called}: {tensor.datatype} takes no number of so many digits") from error


def _plain(values: NDArray[np.floating]) -> Sequence[Value]:
    """The numbers that were meant: a 33.6 that was sent in 32 bits is 33.6, and not 33.599998."""
    if values.dtype.itemsize == 4:
        # Most values come more than once.
        distinct, places = np.unique(values, return_inverse=True)
        values = np.array([float(str(value)) for value in distinct])[places]
    found = values.tolist()
    return [None if value != value else value for value in found] if np.isnan(values).any() else found


def read_texts(tensor: InputTensor, content: bytes | None) -> Sequence[str | None]:
    """The texts of a tensor; None where it has null. Raises InvalidBody."""
    if tensor.datatype != BYTES:
        raise wrong(f"{tensor.called} has datatype {shortened(tensor.datatype)}: send {BYTES}")
    if content is not None:
        return _texts_of_bytes(tensor, content)
    values = _flat(tensor)
    if not set(map(type, values)) <= {str, type(None)}:
        raise wrong(f"{tensor.called}: {BYTES} takes texts, or null for missing")
    return values


def _texts_of_bytes(tensor: InputTensor, content: bytes) -> Sequence[str]:
    texts: list[str] = []
    at, count = 0, prod(tensor.shape)
    while len(texts) < count and at + _LENGTH.size <= len(content):
        (length,) = _LENGTH.unpack_from(content, at)
        start, at = at + _LENGTH.size, at + _LENGTH.size + length
        try:
            texts.append(content[start:at].decode())
        except UnicodeDecodeError as error:
            raise wrong(f"{tensor.called}: its element {len(texts)} is not UTF-8") from error
    # The end is elsewhere where a text or a length is cut off, too.
    if len(texts) != count or at != len(content):
        raise wrong(f"{tensor.called}: its {len(content)} bytes are not {count} texts, each after its length")
    return texts


def _flat(tensor: InputTensor) -> list[Any]:
    """The values in the JSON, which may be flat or nested as the shape is. Raises InvalidBody."""
    values = tensor.data
    if not isinstance(values, list):
        raise wrong(f"{tensor.called} has no data: send a list, or bytes after the JSON with their binary_data_size")
    if values and isinstance(values[0], list):
        *_, last = tensor.shape
        if len(tensor.shape) != 2 or len(values) != tensor.shape[0] or not all(_is_row(row, last) for row in values):
            raise wrong(f"{tensor.called}: its data are not nested as the shape {tensor.shape} says")
        return list(chain.from_iterable(values))
    if len(values) != prod(tensor.shape):
        raise wrong(f"{tensor.called} has {len(values)} values: the shape {tensor.shape} takes {prod(tensor.shape)}")
    return values


def _is_row(row: object, width: int) -> bool:
    return isinstance(row, list) and len(row) == width


def written(datatype: str, values: Sequence[Any]) -> bytes:
    """Values as the bytes of a tensor."""
    if datatype != BYTES:
        return np.array(values, _WRITTEN[datatype]).tobytes()
    encoded = [value.encode() for value in values]
    return b"".join(chain.from_iterable((_LENGTH.pack(len(value)), value) for value in encoded))
