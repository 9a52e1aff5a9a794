"""Two CSV files compared as the monitor compares a window with its reference: the same counts, the same figures."""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from driftloop.common.contract import Baseline, Contract, Feature, Target
from driftloop.common.profile import CategoricalReference, FeatureReference, NumericReference, ReferenceProfile
from driftloop.common.rows import InvalidRow, Value, read_cell, validator
from driftloop.drift_monitor.domain.evaluation import Alarms, FeatureResult, Watch, evaluate
from driftloop.drift_monitor.domain.fold.rows import Column, PredictionRows
from driftloop.drift_monitor.domain.panes import EPOCH, Window
from driftloop.drift_monitor.domain.quality import Fault

NAMED_REFUSALS = 10
# Of two files without scores every row has this one: all figures of scores are left out.
SCORE = 0.0


class Unusable(ValueError):
    """A file cannot be compared. Names the file and the remedy, and no value of a row."""


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it was read: `rows` that count, and those left out, of which the first ten are named by line."""

    path: str
    rows: int
    refused: int
    refusals: tuple[str, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Two files compared. `incomparable` says of each column that was not compared why; `guessed`, that types were.

    Fewer than `min_samples` rows are not judged, as in the monitor.
    """

    reference: File
    window: File
    guessed: bool
    min_samples: int
    raw_severity: str
    features: tuple[FeatureResult, ...]
    faults: tuple[Fault, ...]
    incomparable: dict[str, str]


@dataclass(eq=False)
class _Table:
    """A file's columns, each as how often a value occurs; every figure here is of one column."""

    path: Path
    columns: dict[str, Counter[Value]]
    rows: int = 0
    refused: int = 0
    refusals: list[str] = field(default_factory=list)

    def add(self, row: Mapping[str, Value]) -> None:
        self.rows += 1
        for name, value in row.items():
            self.columns[name][value] += 1

    def refuse(self, line: int, reason: str) -> None:
        self.refused += 1
        if len(self.refusals) < NAMED_REFUSALS:
            self.refusals.append(f"line {line}: {reason}")

    @property
    def summary(self) -> File:
        return File(path=str(self.path), rows=self.rows, refused=self.refused, refusals=tuple(self.refusals))


def compare_files(reference: Path, window: Path, contract: Contract | None) -> Report:
    """Compare the rows of two CSV files that have a header.

    With a contract its features are compared, in canonical form; rows that it refuses are left out. Without one every
    column that both have: a number where all values of the reference are numbers, else a category. Raises Unusable.
    """
    if contract is None:
        was, now = _read_columns(reference), _read_columns(window)
        features, incomparable = _guess(was, now)
        basis = Contract(name="none", features=features, target=Target(name=""), baseline=Baseline(path=""))
    else:
        was, now = _read_canonical(reference, contract), _read_canonical(window, contract)
        basis, incomparable = contract, {}
    without = [one.name for one in basis.features if not _present(was.columns[one.name])]
    incomparable |= dict.fromkeys(without, "the reference has no value: there is nothing to compare with")
    comparable = tuple(one for one in basis.features if one.name not in without)
    watch = _watch(msgspec.structs.replace(basis, features=comparable), was)
    state = watch.predictions.add(_rows(comparable, now))
    result, _ = evaluate(watch, Alarms(), Window(EPOCH, EPOCH, now.rows, state, {}))
    return Report(
        reference=was.summary,
        window=now.summary,
        guessed=contract is None,
        min_samples=basis.drift.min_samples,
        raw_severity=result.raw_severity,
        features=result.features,
        faults=result.faults,
        incomparable=incomparable,
    )


# --- reading


def _read_canonical(path: Path, contract: Contract) -> _Table:
    """The contract's features of each row that it accepts, as they are logged and compared."""
    canonicalise = validator(contract).canonicalise
    table = _Table(path, {name: Counter() for name in contract.feature_names})
    header, lines = _open(path, table)
    lacking = [one.name for one in contract.features if one.required and one.name not in header]
    if lacking:
        raise Unusable(f"{path}: has no column {lacking}, which model {contract.name!r} requires: it has {header}")
    for line, cells in lines:
        record = dict(zip(header, cells, strict=True))
        try:
            table.add(
                canonicalise(
                    {one.name: read_cell(one, record[one.name]) for one in contract.features if one.name in record}
                )
            )
        except InvalidRow as invalid:
            table.refuse(line, str(invalid))
    return table


def _read_columns(path: Path) -> _Table:
    """Every column's texts, None for an empty cell."""
    table = _Table(path, {})
    header, lines = _open(path, table)
    table.columns = {name: Counter() for name in header}
    for _line, cells in lines:
        table.add({name: cell if cell.strip() else None for name, cell in zip(header, cells, strict=True)})
    return table


def _open(path: Path, table: _Table) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """A file's header, and its rows with their lines; rows of another length are refused."""
    lines = _lines(path)
    header = next(lines, (0, []))[1]
    if not header or "\0" in "".join(header):
        raise Unusable(f"{path}: has no header: give a CSV file whose first line names the columns")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise Unusable(f"{path}: columns {twice} are named twice: give each its own name")
    if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
        raise Unusable(f"{path}: its header is one column {header[0]!r}: separate the cells by commas")

    def rows() -> Iterator[tuple[int, list[str]]]:
        for line, cells in lines:
            if len(cells) == len(header):
                yield line, cells
            elif cells:
                table.refuse(line, f"has {len(cells)} cells, the header {len(header)}")

    return header, rows()


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        # Spreadsheets begin a file with a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                for cells in reader:
                    yield reader.line_num, cells
            except csv.Error as error:
                raise Unusable(f"{path}: line {reader.line_num} is not CSV: {error}") from error
    except UnicodeDecodeError as error:
        raise Unusable(f"{path}: is not UTF-8 text: save it as UTF-8 CSV") from error
    except OSError as error:
        raise Unusable(f"{path}: cannot be read ({error.strerror}): give a readable CSV file") from error


# --- types


def _guess(was: _Table, now: _Table) -> tuple[tuple[Feature, ...], dict[str, str]]:
    """The columns that both files have as features, their values converted; and of every other one why it is none."""
    features = []
    for name, column in was.columns.items():
        if name not in now.columns:
            continue
        texts = [text for text in column if isinstance(text, str)]
        if all(_number(text) is not None for text in texts):
            features.append(Feature(name=name, type="number"))
            for table in (was, now):
                table.columns[name] = _as_numbers(table.columns[name])
        else:
            features.append(Feature(name=name, type="category", categories=tuple(sorted(texts))))
    if not features:
        raise Unusable(f"{now.path}: has no column of {was.path}: its columns are {list(now.columns)}")
    alone = {name: f"only {was.path} has it" for name in was.columns if name not in now.columns}
    return tuple(features), alone | {name: f"only {now.path} has it" for name in now.columns if name not in was.columns}


def _number(text: str) -> float | None:
    """The number that a text says, NaN too; None if it says none."""
    try:
        # Python's own way to group digits is not the files'.
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _as_numbers(texts: Counter[Value]) -> Counter[Value]:
    """Texts as numbers, NaN as missing; what says no number stays a text."""
    found: Counter[Value] = Counter()
    for text, count in texts.items():
        number = _number(text) if isinstance(text, str) else None
        found[text if number is None else None if math.isnan(number) else number] += count
    return found


# --- counts


def _present(column: Counter[Value]) -> bool:
    return any(_valid(value) for value in column)


def _valid(value: Value) -> bool:
    return value is not None and (isinstance(value, str) or math.isfinite(value))


def _watch(contract: Contract, was: _Table) -> Watch:
    references = tuple(_reference(one, was.columns[one.name]) for one in contract.features)
    scores = NumericReference("score", (SCORE,), (was.rows,))
    return Watch(contract, ReferenceProfile(contract.name, 1, "training", was.rows, references, scores))


def _reference(feature: Feature, column: Counter[Value]) -> FeatureReference:
    missing = sum(count for value, count in column.items() if not _valid(value))
    if feature.type == "category":
        counts = tuple(column[category] for category in feature.categories)
        return CategoricalReference(feature.name, feature.categories, counts, missing)
    present = Counter({float(value): count for value, count in column.items() if _valid(value) and value is not None})
    values = tuple(sorted(present))
    return NumericReference(feature.name, values, tuple(present[value] for value in values), missing)


def _rows(features: Sequence[Feature], now: _Table) -> PredictionRows:
    columns = {one.name: _column(one, now.columns[one.name]) for one in features}
    return PredictionRows(columns, np.full(now.rows, SCORE), np.zeros(now.rows, dtype=np.bool_))


def _column(feature: Feature, counts: Counter[Value]) -> Column:
    """A column's rows in any order: no count depends on it."""
    repeats = list(counts.values())
    if feature.type == "category":
        texts = np.empty(len(counts), dtype=np.object_)
        texts[:] = list(counts)
        return Column(np.repeat(texts, repeats))
    valid = [isinstance(value, int | float) and math.isfinite(value) for value in counts]
    numbers = [value if well else math.nan for value, well in zip(counts, valid, strict=True)]
    invalid = [value is not None and not well for value, well in zip(counts, valid, strict=True)]
    return Column(
        np.repeat(np.array(numbers, dtype=np.float64), repeats), np.repeat(np.array(invalid, dtype=np.bool_), repeats)
    )
