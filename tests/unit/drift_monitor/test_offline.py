"""Two files compared offline: the figures are SciPy's on the raw columns, and every odd file has a clear answer."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from typer.testing import CliRunner

from driftloop.common.contract import load_contract
from driftloop.drift_monitor.cli import app
from driftloop.drift_monitor.offline import Report, Unusable, compare_files
from tests.support.paths import MODELS
from tests.support.predictions import rows_like

LOAN = load_contract(MODELS / "loan" / "contract.yaml")
Columns = Mapping[str, Iterable[object]]
RNG = np.random.default_rng(3)


def write(path: Path, columns: Columns) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def compared(folder: Path, was: Columns, now: Columns) -> Report:
    return compare_files(write(folder / "was.csv", was), write(folder / "now.csv", now), None)


def lines(path: Path, *texts: str) -> Path:
    path.write_bytes("\n".join(texts).encode("latin-1"))
    return path


def loan_file(path: Path, count: int, shift: float = 0.0) -> Path:
    rows = rows_like(LOAN, RNG, count, shift)
    return write(path, {name: [row[name] for row in rows] for name in LOAN.feature_names})


def test_a_numeric_column_has_the_d_and_p_of_scipy(tmp_path: Path) -> None:
    was, now = RNG.normal(0, 1, 700).round(2), RNG.normal(0.2, 1, 600).round(2)
    one = compared(tmp_path, {"x": was.tolist()}, {"x": now.tolist()}).features[0]
    expected = stats.ks_2samp(was, now)
    assert (one.kind, one.n, one.m, one.statistic) == ("numeric", 600, 700, expected.statistic)
    assert one.p == pytest.approx(expected.pvalue, rel=1e-9)


def test_a_categorical_column_has_the_p_of_scipy(tmp_path: Path) -> None:
    was, now = RNG.choice(list("abc"), 700).tolist(), RNG.choice(list("abc"), 600, p=(0.5, 0.3, 0.2)).tolist()
    one = compared(tmp_path, {"x": was}, {"x": now}).features[0]
    table = [[column.count(category) for category in "abc"] for column in (was, now)]
    assert one.kind == "categorical"
    assert one.p == pytest.approx(stats.chi2_contingency(table, correction=False).pvalue, rel=1e-12)


def test_the_worked_example_of_the_two_small_samples(tmp_path: Path) -> None:
    was, now = [80, 90, 100, 110, 120, 130, 140, 150], [100, 110, 130, 140, 150, 160, 170, 180]
    one = compared(tmp_path, {"x": was}, {"x": now}).features[0]
    assert (one.statistic, round(one.p, 3)) == (0.375, 0.66)


def test_with_a_contract_values_are_canonical_and_codes_are_missing(tmp_path: Path) -> None:
    was = loan_file(tmp_path / "was.csv", 400)
    now = write(
        tmp_path / "now.csv",
        {"income": [50_004.9, 50_000, ""], "employment": ["unknown", "", "retired"], "term": [5, "5.0", 6]},
    )
    report = compare_files(was, now, LOAN)
    income, employment, term = report.features
    assert (report.guessed, report.window.refused) == (False, 0)
    assert (income.n, income.missing, employment.n, employment.missing, term.n) == (2, 1, 1, 2, 3)


def test_rows_that_the_contract_refuses_are_left_out_and_ten_are_named_by_line(tmp_path: Path) -> None:
    now = write(
        tmp_path / "now.csv",
        {"income": [-5] * 12 + [20], "employment": ["retired"] * 13, "term": [*["x"] * 12, 6], "more": ["y"] * 13},
    )
    window = compare_files(loan_file(tmp_path / "was.csv", 200), now, LOAN).window
    assert (window.rows, window.refused, len(window.refusals)) == (1, 12, 10)
    assert window.refusals[0] == "line 2: income must be between 0 and 1000000 EUR/year; term must be a whole number"


def test_a_shift_is_critical_and_a_unit_error_is_a_fault(tmp_path: Path) -> None:
    was = RNG.normal(100, 10, 800)
    drifted = compared(tmp_path, {"x": was.tolist()}, {"x": RNG.normal(108, 10, 600).tolist()})
    assert (drifted.raw_severity, drifted.faults) == ("CRITICAL", ())
    broken = compared(tmp_path, {"x": was.tolist()}, {"x": RNG.normal(5.5, 0.5, 600).tolist()})
    assert [(one.fault, one.count, one.severity) for one in broken.faults] == [("outlying", 600, "CRITICAL")]


def test_texts_among_numbers_are_invalid_and_unknown_categories_unseen(tmp_path: Path) -> None:
    was: Columns = {"x": list(range(600)), "kind": ["a", "b"] * 300}
    now: Columns = {"x": ["oops", "inf", "nan", *range(597)], "kind": ["c"] * 100 + ["a"] * 500}
    report = compared(tmp_path, was, now)
    assert {(one.feature, one.fault): one.count for one in report.faults} == {
        ("x", "invalid"): 2, ("x", "missing"): 1, ("kind", "unseen"): 100,
    }  # fmt: skip


def test_few_rows_are_compared_and_not_judged(tmp_path: Path) -> None:
    report = compared(tmp_path, {"x": list(range(600))}, {"x": [1000]})
    one = report.features[0]
    assert (one.n, one.statistic, one.raw_severity, report.raw_severity) == (1, 1.0, *["INSUFFICIENT_DATA"] * 2)


def test_a_window_without_rows_differs_in_nothing(tmp_path: Path) -> None:
    one = compared(tmp_path, {"x": list(range(600))}, {"x": []}).features[0]
    assert (one.n, one.statistic, one.p, one.psi, one.raw_severity) == (0, 0.0, 1.0, 0.0, "INSUFFICIENT_DATA")


def test_a_reference_without_rows_has_nothing_to_compare_with(tmp_path: Path) -> None:
    report = compared(tmp_path, {"x": []}, {"x": list(range(600))})
    assert report.features == ()
    assert report.incomparable == {"x": "the reference has no value: there is nothing to compare with"}


def test_an_empty_column_does_not_stop_the_others(tmp_path: Path) -> None:
    was: Columns = {"x": [""] * 600, "y": range(600)}
    report = compared(tmp_path, was, {"x": range(600), "y": [""] * 600})
    assert list(report.incomparable) == ["x"]
    assert [(one.name, one.n, one.missing, one.p) for one in report.features] == [("y", 0, 600, 1.0)]
    assert [(one.fault, one.severity) for one in report.faults] == [("missing", "CRITICAL")]


def test_a_constant_column_is_good(tmp_path: Path) -> None:
    one = compared(tmp_path, {"x": [7] * 600}, {"x": [7] * 500}).features[0]
    assert (one.statistic, one.p, one.psi, one.raw_severity) == (0.0, 1.0, 0.0, "GOOD")


def test_a_constant_column_that_became_another_is_found(tmp_path: Path) -> None:
    one = compared(tmp_path, {"x": [7] * 600}, {"x": [8] * 500}).features[0]
    assert (one.statistic, one.raw_severity) == (1.0, "CRITICAL")


def test_disjoint_ranges_have_the_largest_distance(tmp_path: Path) -> None:
    one = compared(tmp_path, {"x": list(range(600))}, {"x": list(range(1000, 1600))}).features[0]
    assert (one.statistic, one.foreign, one.raw_severity) == (1.0, 600, "CRITICAL")


def test_a_column_that_one_file_lacks_is_named_and_the_others_are_compared(tmp_path: Path) -> None:
    report = compared(tmp_path, {"x": [1, 2], "old": [1, 2]}, {"x": [1, 2], "new": [1, 2]})
    assert [one.name for one in report.features] == ["x"]
    assert {name: reason.split()[-3].split("/")[-1] for name, reason in report.incomparable.items()} == {
        "old": "was.csv", "new": "now.csv",
    }  # fmt: skip


def test_a_column_that_the_contract_requires_and_a_file_lacks_is_an_error(tmp_path: Path) -> None:
    now = write(tmp_path / "now.csv", {"income": [1], "employment": ["retired"]})
    with pytest.raises(Unusable, match=r"now\.csv: has no column \['term'\], which model 'loan' requires"):
        compare_files(loan_file(tmp_path / "was.csv", 200), now, LOAN)


@pytest.mark.parametrize(
    ("texts", "answer"),
    [
        ((), "has no header"),
        (("", "x", "1"), "has no header"),
        (("x,x", "1,2"), r"columns \['x'\] are named twice"),
        (("x;y", "1;2"), "separate the cells by commas"),
        (("x", "caf\xe9"), "is not UTF-8 text"),
        (("\x00\x01\x02", "\x03"), "has no header"),
        (("x", '"1'), "line 2 is not CSV"),
        (("z", "1"), r"has no column of .*was\.csv"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path, texts: Sequence[str], answer: str) -> None:
    was = write(tmp_path / "was.csv", {"x": [1, 2]})
    with pytest.raises(Unusable, match=rf"now\.csv: .*{answer}"):
        compare_files(was, lines(tmp_path / "now.csv", *texts), None)


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match=r"none\.csv: cannot be read \(No such file"):
        compare_files(tmp_path / "none.csv", tmp_path / "none.csv", None)


def test_rows_of_another_length_are_left_out_and_a_byte_order_mark_is_none_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "was.csv"
    path.write_text("\ufeffx,y\r\n1,2\r\n\r\n1,2,3\r\n4\r\n5,6\r\n", encoding="utf-8")
    window = compare_files(path, path, None).window
    assert (window.rows, window.refusals) == (
        2,
        ("line 4: has 3 cells, the header 2", "line 5: has 1 cells, the header 2"),
    )


def command(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["compare", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_prints_one_document(tmp_path: Path) -> None:
    was, now = loan_file(tmp_path / "was.csv", 400), loan_file(tmp_path / "now.csv", 120, shift=2)
    status, out, _ = command(was, now, "--contract", MODELS / "loan" / "contract.yaml", "--json")
    document: dict[str, Any] = json.loads(out)
    assert (status, document["raw_severity"], document["min_samples"]) == (0, "CRITICAL", 100)
    assert "severity" not in document["features"][0]


def test_the_command_prints_a_line_a_feature_and_says_that_types_were_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "was.csv", {"x": range(600), "kind": ["a", "b"] * 300})
    status, out, _ = command(path, path)
    assert (status, [line.split()[:2] for line in out.splitlines()[1:3]]) == (
        0,
        [["x", "numeric"], ["kind", "categorical"]],
    )
    assert "types were told from the values" in out


def test_the_command_fails_by_status_2_and_names_the_file(tmp_path: Path) -> None:
    status, out, err = command(tmp_path / "none.csv", tmp_path / "none.csv")
    assert (status, out) == (2, "")
    assert "none.csv: cannot be read" in err
