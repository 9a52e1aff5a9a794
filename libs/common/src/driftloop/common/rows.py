"""Rows in a contract's terms: validated, canonical, and as the matrix that a model takes."""

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Code, Contract, ContractError, Feature, Grid

Value = float | int | str | None
Row = dict[str, Value]
SCORE_DECIMALS = 6
SCORE_SCALE = 10.0**SCORE_DECIMALS
SHOWN_CHARACTERS = 100
# Every reader of JSON takes a whole number up to here for the number that it is.
LARGEST_INTEGER = 2.0**53 - 1
# A hostile body may hold a million unknown fields: its answer need not name them all.
UNKNOWN_LISTED = 20

_ABSENT = object()
_INFINITE = (math.inf, -math.inf)


class FieldError(msgspec.Struct, frozen=True):
    """One field of a row that the contract refuses: its name, the value as it came, and why."""

    field: str
    value: str | int | float | bool | None
    reason: str


class InvalidRow(ValueError):
    """A row breaks its contract. `errors` carry the values for the sender; the text carries none, for it is logged."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        self.errors = tuple(errors)
        super().__init__("; ".join(f"{error.field} {error.reason}" for error in errors))


class _Refused(Exception):
    """A value is refused for the reason given."""


class RowValidator:
    """A contract compiled for speed: made once, used for every row."""

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._rules = tuple((f.name, f.required, _rule(f)) for f in contract.features)
        self._names = frozenset(contract.feature_names)
        self._codes = tuple((f.name, _codes(f)) for f in contract.features)

    def canonicalise(self, row: Mapping[str, object]) -> Row:
        """The row as it is logged, compared and predicted: rounded to each resolution, None where a value is missing.

        Raises InvalidRow with every field that is wrong, not just the first.
        """
        canonical: Row = {}
        errors: list[FieldError] = []
        for name, required, rule in self._rules:
            value = row.get(name, _ABSENT)
            if value is _ABSENT:
                if required:
                    errors.append(FieldError(name, None, "is missing: the field is required"))
                else:
                    canonical[name] = None
                continue
            try:
                canonical[name] = rule(value)
            except _Refused as refused:
                errors.append(FieldError(name, _shown(value), str(refused)))
        if not row.keys() <= self._names:
            known = f"is not a feature of this model, which has {list(self.contract.feature_names)}"
            unknown = [key for key in row if key not in self._names]
            errors.extend(FieldError(_name(key), _shown(row[key]), known) for key in unknown[:UNKNOWN_LISTED])
        if errors:
            raise InvalidRow(errors)
        return canonical

    def values(self, rows: Sequence[Mapping[str, Value]]) -> NDArray[np.float64]:
        """Canonical rows as exact numbers, float64 [n, d] in the contract's order.

        A missing number is NaN; a category is its ordinal code, −1 where it is missing or unseen.
        """
        if len(rows) == 1:
            (row,) = rows
            numbers = [row.get(name) if codes is None else codes.get(row.get(name), -1) for name, codes in self._codes]
            return np.array([numbers], dtype=np.float64)
        matrix = np.empty((len(rows), len(self._codes)), dtype=np.float64)
        for index, (name, codes) in enumerate(self._codes):
            column = [row.get(name) for row in rows]
            matrix[:, index] = column if codes is None else [codes.get(value, -1) for value in column]
        return matrix

    def encode(self, rows: Sequence[Mapping[str, Value]]) -> NDArray[np.float32]:
        """Canonical rows as the model's input: `values` in float32."""
        return self.values(rows).astype(np.float32)


@lru_cache(maxsize=256)
def validator(contract: Contract) -> RowValidator:
    """The compiled form of a contract, made once."""
    return RowValidator(contract)


def canonicalise(contract: Contract, row: Mapping[str, object]) -> Row:
    """See `RowValidator.canonicalise`."""
    return validator(contract).canonicalise(row)


def encode(contract: Contract, rows: Sequence[Mapping[str, Value]]) -> NDArray[np.float32]:
    """See `RowValidator.encode`."""
    return validator(contract).encode(rows)


def canonical_scores(probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities as they are answered, logged and compared with the decision threshold: six decimals, float64.

    A runtime sums a forest's trees in float32 and in an order of its own; without rounding, an even vote is .5 here and
    .49999997 there, which would be another decision and another value.
    """
    # Zero has no sign.
    return np.asarray(probabilities, dtype=np.float64).round(SCORE_DECIMALS) + 0.0


def canonical_score(probability: float) -> float:
    """`canonical_scores` of one probability, to the bit, and sooner. What is no number stays none."""
    return round(probability * SCORE_SCALE) / SCORE_SCALE if math.isfinite(probability) else probability


def read_baseline(contract: Contract, path: Path) -> tuple[list[Row], NDArray[np.int8]]:
    """A contract's baseline: its canonical rows in the file's order, and their labels, int8 [n] of 0 and 1.

    The CSV file has a header; columns that are neither a feature nor the target are ignored; an empty cell is missing.
    Raises ContractError naming the file, the line and the column.
    """
    records = _records(path, (*contract.feature_names, contract.target.name))
    rows = [_canonical(contract, path, line, record) for line, record in enumerate(records, start=2)]
    labels = [_label(contract, path, line, one[contract.target.name]) for line, one in enumerate(records, start=2)]
    return rows, np.array(labels, dtype=np.int8)


def read_rows(contract: Contract, path: Path) -> list[Row]:
    """The canonical rows of a CSV file with the contract's features, as `read_baseline` reads them, without labels."""
    records = _records(path, contract.feature_names)
    return [_canonical(contract, path, line, record) for line, record in enumerate(records, start=2)]


def _records(path: Path, wanted: Sequence[str]) -> list[dict[str, str]]:
    """The cells of a CSV file by their columns' names; `wanted` ones must be there."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            records = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ContractError(path, "$", None, f"cannot be read ({error}): give a readable UTF-8 CSV file") from error
    absent = [name for name in wanted if not records or records[0].get(name) is None]
    if absent:
        raise ContractError(path, "header", None, f"needs rows with the columns {list(wanted)}; no values for {absent}")
    return records


def _canonical(contract: Contract, path: Path, line: int, record: Mapping[str, str]) -> Row:
    try:
        return canonicalise(contract, {f.name: read_cell(f, record[f.name]) for f in contract.features})
    except InvalidRow as invalid:
        worst = invalid.errors[0]
        raise ContractError(path, f"line {line}, {worst.field}", worst.value, worst.reason) from invalid


def read_cell(feature: Feature, text: str | None) -> object:
    """What a cell of a CSV file says of a feature, for `canonicalise` to judge: an empty one is missing."""
    if text is None or text.strip() == "":
        return None
    if feature.type == "category":
        return text
    return _number(text)


def _number(text: str) -> object:
    """The number that a text says, the text itself (which the contract will refuse) if it says none."""
    for parse in (int, float):
        try:
            return parse(text)
        except ValueError:
            continue
    return text


def _label(contract: Contract, path: Path, line: int, text: str | None) -> int:
    target = contract.target
    for label, code in ((1, target.positive), (0, target.negative)):
        if text is not None and (text == code or _number(text) == code):
            return label
    known = f"must be {target.positive!r} or {target.negative!r}"
    raise ContractError(path, f"line {line}, {target.name}", text, known)


def _shown(value: object) -> str | int | float | bool | None:
    """The value as an error can carry it in JSON: finite and short."""
    if value is None or isinstance(value, bool) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, int) and abs(value) < 2**53:
        return value
    if isinstance(value, int):
        return "a very large integer"
    text = value[: SHOWN_CHARACTERS + 1] if isinstance(value, str) else type(value).__name__
    if isinstance(value, float):
        text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _name(key: object) -> str:
    text = str(key)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"


def _codes(feature: Feature) -> dict[Value, int] | None:
    """The ordinal code of each category, None for a number."""
    if feature.type != "category":
        return None
    return {category: code for code, category in enumerate(feature.categories)}


def _rule(feature: Feature) -> Callable[[object], Value]:
    """What makes a canonical value of one feature, or raises _Refused."""
    check = _category_rule(feature) if feature.type == "category" else _number_rule(feature)
    missing: tuple[Code, ...] = feature.missing
    nullable = feature.nullable

    def rule(value: object) -> Value:
        if value is None:
            if nullable:
                return None
            raise _Refused("must not be null")
        # True == 1: a truth value is never a missing code.
        if isinstance(value, bool):
            return check(value)
        return None if value in missing else check(value)

    return rule if feature.type == "category" else _usual_number(feature, rule)


def _usual_number(feature: Feature, rule: Callable[[object], Value]) -> Callable[[object], Value]:
    """A number's rule, with a short way for the values that nearly all are; they are the same by either way."""
    missing, low, high = feature.missing, feature.minimum, feature.maximum
    grid = Grid(1 if feature.step is None else feature.step)
    if low is None or high is None or max(abs(low), abs(high)) >= min(grid.limit, LARGEST_INTEGER):
        return rule
    scale, numerator, rounded = grid.scale, grid.numerator, feature.step is not None

    def whole(value: object) -> Value:
        if type(value) is int and value not in missing and low <= value <= high:
            return value
        return rule(value)

    def number(value: object) -> Value:
        if (type(value) is float or type(value) is int) and value not in missing and low <= value <= high:
            return round(float(value) * scale / numerator) * numerator / scale if rounded else float(value)
        return rule(value)

    if feature.type == "integer":
        return rule if rounded and feature.step != 1 else whole
    return number


def _category_rule(feature: Feature) -> Callable[[object], Value]:
    categories = frozenset(feature.categories)
    listed = f"must be one of {list(feature.categories)}"

    def check(value: object) -> Value:
        if not isinstance(value, str) or value not in categories:
            raise _Refused(listed)
        return value

    return check


def _number_rule(feature: Feature) -> Callable[[object], Value]:
    integer = feature.type == "integer"
    widest = LARGEST_INTEGER if integer else math.inf
    low = -widest if feature.minimum is None else feature.minimum
    high = widest if feature.maximum is None else feature.maximum
    grid = None if feature.step is None else Grid(feature.step)
    if grid is not None and integer and grid.numerator == grid.scale == 1:
        # A whole number is a multiple of 1.
        grid = None
    kind = "must be a whole number" if integer else "must be a number"
    outside = f"must be {_range(feature)}"

    def check(value: object) -> Value:
        if not isinstance(value, float | int) or value is True or value is False:
            raise _Refused(kind)
        try:
            number = float(value)
        except OverflowError:
            raise _Refused(outside) from None
        # Infinity may be within a range that is open.
        if not low <= number <= high or number in _INFINITE:
            raise _Refused(_why(number))
        if integer:
            if not number.is_integer():
                raise _Refused(kind)
            return int(number if grid is None else grid.round(number))
        return number if grid is None else grid.round(number)

    def _why(number: float) -> str:
        if not math.isfinite(number):
            return "must be a finite number"
        return "must be a whole number of at most 15 digits" if abs(number) > widest else outside

    return check


def _range(feature: Feature) -> str:
    low, high = feature.minimum, feature.maximum
    unit = f" {feature.unit}" if feature.unit else ""
    codes = f", or {' or '.join(f'{code:.15g}' for code in feature.missing)} for missing" if feature.missing else ""
    if low is not None and high is not None:
        return f"between {low:.15g} and {high:.15g}{unit}{codes}"
    if low is not None:
        return f"at least {low:.15g}{unit}{codes}"
    if high is not None:
        return f"at most {high:.15g}{unit}{codes}"
    return "a finite number"
