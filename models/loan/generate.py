"""Writes this folder's baseline.csv: 400 synthetic borrowers, the same at every run.

Income is log-normal, the term uniform in half-years; the log-odds of a default fall with income and rise with the term
and with unemployment. No real person is behind any row.
"""

from pathlib import Path

import numpy as np

ROWS = 400
SEED = 20_240_101
EMPLOYMENTS = {
    "employed": (0.62, -0.4),
    "self-employed": (0.18, 0.2),
    "retired": (0.12, -0.2),
    "unemployed": (0.08, 1.6),
}


def main() -> None:
    """Draw the rows and write the file."""
    rng = np.random.default_rng(SEED)
    income = np.round(rng.lognormal(10.4, 0.5, ROWS), -1)
    shares = np.array([share for share, _ in EMPLOYMENTS.values()])
    employment = rng.choice(len(EMPLOYMENTS), ROWS, p=shares)
    term = 6 * rng.integers(1, 15, ROWS)
    effect = np.array([effect for _, effect in EMPLOYMENTS.values()])[employment]
    log_odds = -1.0 - 1.6 * (np.log(income) - 10.4) + 0.03 * (term - 45) + effect
    default = rng.random(ROWS) < 1 / (1 + np.exp(-log_odds))
    unknown = rng.random(ROWS) < 0.03
    names = list(EMPLOYMENTS)
    lines = ["income,employment,term,status"]
    for row in range(ROWS):
        job = "" if unknown[row] else names[employment[row]]
        lines.append(f"{income[row]:.0f},{job},{term[row]},{'default' if default[row] else 'repaid'}")
    Path(__file__).with_name("baseline.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
