"""Columns of an Arrow batch or table as arrays, with no loop over rows in Python; a column that is wrong is refused."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

# Ids and pseudonyms have at most 200 characters. An array gives every text the room of the longest.
TEXT_LIMIT = 200
# Before a feature's name, so that it can be that of no other column.
FEATURE = "feature."

Columns = Any  # a pyarrow.RecordBatch or Table: pyarrow has no types


class ColumnError(ValueError):
    """A column is not what it must be. The text names the column and how many rows, never a value."""


def file_of(table: pa.Table) -> bytes:
    """A table as an Arrow IPC file, compressed."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def texts(data: Columns, name: str, *, nullable: bool = False) -> NDArray[np.str_]:
    """A column of texts [n], "" where one is missing. Raises ColumnError."""
    column = _column(data, name)
    if not nullable:
        _require_all(column, name)
    if pa.types.is_null(column.type):
        return np.full(len(column), "")
    _require(pa.types.is_string(column.type) or pa.types.is_large_string(column.type), column, name, "texts")
    longest = pc.max(pc.utf8_length(column)).as_py() or 0
    if longest > TEXT_LIMIT:
        raise ColumnError(f"column {name!r} has a text of {longest} characters, at most {TEXT_LIMIT} are read")
    found: NDArray[np.str_] = column.fill_null("").to_numpy(zero_copy_only=False).astype(np.str_)
    return found


def instants(data: Columns, name: str, *, nullable: bool = False) -> NDArray[np.datetime64]:
    """A column of instants [n], by UTC and to the microsecond, NaT where one is missing. Raises ColumnError."""
    column = _column(data, name)
    if not nullable:
        _require_all(column, name)
    if pa.types.is_null(column.type):
        return np.full(len(column), "NaT", dtype="M8[us]")
    _require(pa.types.is_timestamp(column.type), column, name, "instants")
    found: NDArray[np.datetime64] = column.cast(pa.timestamp("us")).to_numpy(zero_copy_only=False)
    return found.astype("M8[us]")


def labels(data: Columns, name: str) -> NDArray[np.int8]:
    """A column of labels [n]: 0, 1, or −1 where there is none (yet). Raises ColumnError."""
    column = _column(data, name)
    if pa.types.is_null(column.type):
        return np.full(len(column), -1, dtype=np.int8)
    _require(pa.types.is_integer(column.type), column, name, "whole numbers")
    found: NDArray[np.int64] = column.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
    others = int(np.sum((found != 0) & (found != 1))) - column.null_count
    if others:
        raise ColumnError(f"column {name!r} has {others} labels that are neither 0 nor 1")
    return found.astype(np.int8)


def floats(data: Columns, name: str) -> NDArray[np.float64]:
    """A column of numbers [n] as they are, NaN where one is missing. Raises ColumnError."""
    column = _column(data, name)
    if pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    _require(number, column, name, "numbers")
    found: NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def numbers(data: Columns, name: str) -> NDArray[np.float64]:
    """A column of finite numbers [n], NaN where one is missing. Raises ColumnError."""
    found = floats(data, name)
    others = int(np.sum(~np.isfinite(found))) - _column(data, name).null_count
    if others:
        raise ColumnError(f"column {name!r} has {others} values that are not finite; what is missing must be null")
    return found


def codes(data: Columns, name: str, categories: Sequence[str]) -> NDArray[np.float64]:
    """A column of categories by their number in `categories` [n], −1 where one is missing or not listed.

    Raises ColumnError.
    """
    column = _column(data, name)
    if pa.types.is_null(column.type):
        return np.full(len(column), -1.0)
    _require(pa.types.is_string(column.type) or pa.types.is_large_string(column.type), column, name, "texts")
    places = pc.index_in(column, value_set=pa.array(categories, column.type))
    found: NDArray[np.float64] = places.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.float64)
    return found


def _column(data: Columns, name: str) -> Any:
    if data.schema.get_field_index(name) < 0:
        raise ColumnError(f"column {name!r} is missing, or there twice")
    return data.column(name)


def _require(right: bool, column: Any, name: str, what: str) -> None:
    if not right:
        raise ColumnError(f"column {name!r} has the type {column.type}: it must hold {what}")


def _require_all(column: Any, name: str) -> None:
    if column.null_count:
        raise ColumnError(f"column {name!r} has {column.null_count} rows without a value")
