"""Are D and p those of `scipy.stats.ks_2samp`, on random samples with ties of every size?"""

import warnings
from collections import Counter

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.harness import Figure, conditions, record, say
from driftloop.common.profile import numeric_reference
from driftloop.common.statistics.cells import Counts, NumericCells, cells_of
from driftloop.common.statistics.comparison import compare_all
from driftloop.common.statistics.smirnov import MOST_EXACT

CASES, TOGETHER, LARGEST = 10_000, 8, 3_000
D_WITHIN, P_WITHIN = 1e-12, 1e-9
Sample = NDArray[np.float64]


def main() -> None:
    """Compare them case by case; ours are computed several features at a time, as a verdict does it."""
    rng = np.random.default_rng(1)
    worst_d = worst_p = 0.0
    kinds: Counter[str] = Counter()
    for done in range(0, CASES, TOGETHER):
        cases = [_case(rng, kinds) for _ in range(TOGETHER)]
        cells = [_cells(reference) for reference, _ in cases]
        windows = [_counted(one, window) for one, (_, window) in zip(cells, cases, strict=True)]
        for found, (reference, window) in zip(compare_all(cells, windows), cases, strict=True):
            d, p = _scipys(reference, window)
            worst_d, worst_p = max(worst_d, abs(found.statistic - d)), max(worst_p, abs(found.p - p))
        if done % 1000 == 0:
            say(f"{done} of {CASES} cases: D within {worst_d:.1e}, p within {worst_p:.1e}")
    for name, worst, limit in (("D", worst_d, D_WITHIN), ("p", worst_p, P_WITHIN)):
        record(
            Figure(
                figure=f"largest difference of {name} from scipy.stats.ks_2samp",
                ours=worst,
                target=f"<= {limit:g} in {CASES:,} random cases with ties",
                met=worst <= limit,
                conditions=conditions("numpy", "scipy", cases=CASES, **kinds),
            )
        )


def _case(rng: np.random.Generator, kinds: Counter[str]) -> tuple[Sample, Sample]:
    """A reference and a window; counts in `kinds` which cases there were."""
    m, n = (int(size) for size in np.exp(rng.uniform(0, np.log(LARGEST), size=2)))
    chance = rng.random()
    if chance < 0.02:
        kinds[f"over_{MOST_EXACT}_rows"] += 1
        n = int(rng.integers(MOST_EXACT, 2 * MOST_EXACT)) + 1
    elif chance < 0.12:
        kinds["equal_sizes"] += 1
        n = m
    # From no shift at all to one that leaves p = 0, in standard errors.
    shift = rng.choice([0.0, 1.0, 2.0, 5.0, 30.0]) * rng.normal() * np.sqrt(1 / n + 1 / m)
    reference, window = rng.normal(size=m), rng.normal(shift, 1, size=n)
    if rng.random() < 0.1:
        return reference, window
    grid = rng.choice([0.01, 0.1, 0.5, 1.0, 3.0])
    kinds["with_ties"] += 1
    if rng.random() < 0.05:
        kinds["constant_samples"] += 1
        reference = np.full(m, reference[0])
        window = np.full(n, window[0]) if rng.random() < 0.5 else window
    return np.round(reference / grid) * grid, np.round(window / grid) * grid


def _cells(reference: Sample) -> NumericCells:
    cells = cells_of(numeric_reference("x", reference.tolist()), max_distinct=2 * MOST_EXACT)
    assert isinstance(cells, NumericCells)
    return cells


def _counted(cells: NumericCells, window: Sample) -> Counts:
    return np.bincount(cells.index(window), minlength=cells.size)


def _scipys(reference: Sample, window: Sample) -> tuple[float, float]:
    with warnings.catch_warnings():
        # It says so where its exact p fails; then its asymptotic one counts.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.ks_2samp(reference, window)
    return float(found.statistic), float(found.pvalue)


if __name__ == "__main__":
    main()
