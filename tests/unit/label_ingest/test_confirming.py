"""A label that asks for two abnormal results is a matter of what was measured and when, never of who looks first."""

import itertools

from driftloop.common.contract import Labels, LabelTest, Limit
from driftloop.label_ingest.domain.labels import decide
from driftloop.label_ingest.domain.results import Result, Version
from tests.support.predictions import START

POLICY = Labels(
    decide="confirmed",
    tests=(LabelTest(name="HbA1c", loinc=("4548-4",), limits=(Limit(unit="%", threshold=6.5),)),),
)


def measured(key: str, value: float) -> Result:
    """A result that its laboratory gave no id, so that only what it names tells it from others."""
    version = Version(key, "\x1f", None, None, 1, None, "final", START, None, "4548-4", value, "%")
    return Result(version, matched=True)


def test_of_results_of_one_instant_no_order_of_rows_decides() -> None:
    results = [measured("o1", 7.0), measured("p1", 5.0)]
    assert len({decide(POLICY, rows) for rows in itertools.permutations(results)}) == 1
