"""A model contract as an ExpectationSuite of Great Expectations 1.x, for data in the form of its baseline."""

from collections.abc import Iterator, Sequence
from typing import Any

from driftloop.common.contract import Code, Contract, Feature, digest
from driftloop.common.rows import Row

# The names that pandas, Spark and databases have for them.
INTEGERS = ("int", "int64", "int32", "Int64", "IntegerType", "LongType", "INTEGER", "BIGINT", "SMALLINT")
NUMBERS = (
    *INTEGERS, "float", "float64", "float32", "Float64", "DoubleType", "FloatType",
    "DOUBLE_PRECISION", "DOUBLE", "FLOAT", "REAL", "NUMERIC", "DECIMAL",
)  # fmt: skip

Expectation = dict[str, Any]


def expectation_suite(contract: Contract, rows: Sequence[Row]) -> dict[str, Any]:
    """What the contract asks of a table, as JSON-ready values; `rows` is its baseline.

    What a prediction would be refused for is critical. A value may be missing in the baseline's share of rows, plus the
    change that the contract's `quality` calls a warning; more, or columns in another order or number, is a warning.
    """
    columns = [*contract.feature_names, contract.target.name]
    expectations = [_expect("table_columns_to_match_ordered_list", "warning", column_list=columns)]
    for feature in contract.features:
        share = sum(row[feature.name] is None for row in rows) / len(rows)
        expectations += _of_feature(feature, min(1.0, share + contract.quality.warning_change))
    target = contract.target
    expectations += [
        _expect("column_to_exist", column=target.name),
        _expect("column_values_to_not_be_null", column=target.name),
        _expect("column_values_to_be_in_set", column=target.name, value_set=[target.negative, target.positive]),
    ]
    return {
        "name": contract.name,
        "expectations": expectations,
        "meta": {"driftloop": {"contract": digest(contract), "baseline_rows": len(rows)}},
    }


def _of_feature(feature: Feature, missing: float) -> Iterator[Expectation]:
    """What is asked of a feature's column, in which a share of the values may be missing."""
    name, codes = feature.name, [code for code in feature.missing if code != ""]
    if feature.required:
        yield _expect("column_to_exist", column=name)
    if feature.type != "category":
        # A column of whole numbers with gaps is read as one of floats.
        types = NUMBERS if feature.type == "number" or feature.nullable else INTEGERS
        yield _expect("column_values_to_be_in_type_list", column=name, type_list=list(types))
    # As exact as shares of a thousand rows are.
    least = round(1 - missing, 4)
    if not feature.nullable:
        yield _expect("column_values_to_not_be_null", column=name)
    else:
        yield _expect("column_values_to_not_be_null", "warning", column=name, mostly=least)
    if codes:
        yield _expect("column_values_to_not_be_in_set", "warning", column=name, value_set=codes, mostly=least)
    if feature.type == "category":
        yield _expect("column_values_to_be_in_set", column=name, value_set=[*feature.categories, *codes])
    elif feature.minimum is not None or feature.maximum is not None:
        bounds = {"min_value": feature.minimum, "max_value": feature.maximum}
        given: dict[str, Any] = {bound: value for bound, value in bounds.items() if value is not None}
        yield _expect("column_values_to_be_between", column=name, **given, **_other_than(name, codes))


def _other_than(column: str, codes: Sequence[Code]) -> dict[str, Any]:
    """The condition that a value is none of the codes for a missing one, which lie where no value may."""
    if not codes:
        return {}
    where = {"type": "comparison", "column": {"name": column}, "operator": "NOT_IN", "parameter": list(codes)}
    return {"row_condition": where}


def _expect(what: str, severity: str = "critical", **arguments: Any) -> Expectation:
    return {"type": f"expect_{what}", "kwargs": arguments, "severity": severity, "meta": {}}
