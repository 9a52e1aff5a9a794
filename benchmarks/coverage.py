"""Do prediction sets hold the true label as often as they say? And how far off does a small sample let them be?

Patients are the demo's, like those of the baseline. Each set is a version 1 of its own: a forest of 614 drawn patients,
exported, and calibrated by held-out ones that it never trained on, as the trainer does; what travels is the profile, as
JSON. Coverage is counted on 10,000 fresh patients.
"""

import sys

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, norm

from benchmarks.harness import ROOT, Figure, conditions, record, say
from driftloop.common.conformal import conformal_of, covered
from driftloop.common.contract import Contract, baseline_path, load_contract
from driftloop.common.profile import ReferenceProfile, scored_rows
from driftloop.common.rows import read_baseline, validator
from driftloop.demo.populations import BaselineLike
from driftloop.trainer.domain import export
from driftloop.trainer.domain.coverage import coverage_band
from driftloop.trainer.domain.reference import reference_profile
from driftloop.trainer.domain.training import train

SETS, TRAINED, EVALUATED = 300, 614, 10_000
CALIBRATED = (1000, 2000)
# What the shipped contract holds out, and what its gate needs: their bands are printed.
SMALL = (154, 300)
WITHIN, SHARE = 0.02, 0.95
DIABETES = ROOT / "models" / "diabetes" / "contract.yaml"


def main() -> None:
    """`python -m benchmarks.coverage [sets]`: fewer sets for trying it out."""
    sets = int(sys.argv[1]) if len(sys.argv) > 1 else SETS
    contract = load_contract(DIABETES)
    population = BaselineLike(contract, *read_baseline(contract, baseline_path(DIABETES, contract)))
    level = contract.performance.interval_level
    for rows in CALIBRATED:
        say(f"{sets} sets with {rows} calibration rows")
        found = np.array([_coverage(contract, population, rows, seed) for seed in range(sets)])
        _record(found, rows, level)


def _coverage(contract: Contract, population: BaselineLike, calibrated: int, seed: int) -> float:
    """The coverage of one version's sets on fresh rows."""
    rng = np.random.default_rng([seed, calibrated])
    values, labels = _drawn(contract, population, rng, TRAINED + calibrated + EVALUATED)
    features = values.astype(np.float32)
    model = export.export_onnx(train(contract, features[:TRAINED], labels[:TRAINED]), values.shape[1])
    scores = export.score(model, features[TRAINED:])
    known, fresh = slice(TRAINED, TRAINED + calibrated), slice(TRAINED + calibrated, None)
    heldout = scored_rows(scores[:calibrated], labels[known])
    profile = reference_profile(contract, 1, "training", values[known], scores[:calibrated], heldout=heldout)
    served = msgspec.json.decode(msgspec.json.encode(profile), type=ReferenceProfile).heldout
    assert served is not None
    sets = conformal_of(served, contract.performance.interval_level)
    truth = labels[fresh].astype(np.int64)
    return float(covered(sets, scores[calibrated:], truth, rng.random(EVALUATED)).mean())


def _drawn(
    contract: Contract, population: BaselineLike, rng: np.random.Generator, count: int
) -> tuple[NDArray[np.float64], NDArray[np.int8]]:
    compiled = validator(contract)
    cases = population.draw(rng, count)
    values = compiled.values([compiled.canonicalise(case.features) for case in cases])
    return values, np.array([case.label for case in cases], dtype=np.int8)


def _record(found: NDArray[np.float64], rows: int, level: float) -> None:
    bands = {f"band_{n}": "{:.1%} to {:.1%}".format(*coverage_band(n, level)) for n in SMALL}
    shared = conditions(
        "numpy",
        "scikit-learn",
        "onnxruntime",
        sets=len(found),
        trained_rows=TRAINED,
        calibration_rows=rows,
        evaluation_rows=EVALUATED,
        level=level,
        lowest=float(found.min()),
        highest=float(found.max()),
        deviation_points=100 * float(found.std(ddof=1)),
        theory_within_percent=100 * _theory(rows, level),
        **bands,
    )
    off = 100 * abs(float(found.mean()) - level)
    record(
        Figure(
            figure=f"prediction sets' coverage, {rows:,} calibration rows: mean's distance from {level:.0%}, points",
            ours=off,
            target="<= 1",
            met=off <= 1,
            conditions=shared,
        )
    )
    within = float(np.mean(np.abs(found - level) <= WITHIN))
    record(
        Figure(
            figure=f"prediction sets' coverage, {rows:,} calibration rows: % of sets within 2 points",
            ours=100 * within,
            target=f">= {SHARE:.0%} (by theory {_theory(rows, level):.1%})",
            met=within >= SHARE,
            conditions=shared,
        )
    )
    if rows == CALIBRATED[0]:
        for n, text in bands.items():
            say(f"95 % of samples, {n.removeprefix('band_')} calibration rows: {text}")


def _theory(rows: int, level: float) -> float:
    """In what share of sets the counted coverage is within 2 points, by the Beta law of the true one."""
    outside = (1 - level) * (rows + 1)
    true = beta(rows + 1 - outside, outside).ppf((np.arange(100_000) + 0.5) / 100_000)
    spread = np.sqrt(true * (1 - true) / EVALUATED)
    inside = norm.cdf((level + WITHIN - true) / spread) - norm.cdf((level - WITHIN - true) / spread)
    return float(inside.mean())


if __name__ == "__main__":
    main()
