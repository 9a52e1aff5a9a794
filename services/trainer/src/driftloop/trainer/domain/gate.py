"""The gate: a challenger is promoted only where it is proven better on rows that neither model has seen.

Paired comparison on the newest labelled rows: the lower bound of a bootstrap of the accuracy difference (Efron and
Tibshirani 1993, ch. 13) above zero, and McNemar's exact test (McNemar 1947). Guards: the loss on the baseline's
held-out slice, segments with a proven loss (one-sided exact McNemar, Holm 1979), and where the contract asks for them
Brier score, calibration error, recall and ROC AUC on the newest rows. Missing evidence means no.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from driftloop.common.contract import Gates
from driftloop.trainer.domain.metrics import evaluate

# Shares are differences of rounded quotients: what is exactly the accepted number must not be refused for that.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Paired:
    """Two models' scores P(label = 1) on the same rows: `champion` and `challenger` float64 [n], `labels` [n] 0 or 1.

    A score of `threshold` or more says 1; one that is no number says 0, and the gate no.
    """

    labels: NDArray[np.int8]
    champion: NDArray[np.float64]
    challenger: NDArray[np.float64]
    threshold: float

    def __post_init__(self) -> None:
        """Refuse scores that do not belong to the same rows, and labels that are none."""
        if not len(self.labels) == len(self.champion) == len(self.challenger):
            raise ValueError(
                f"{len(self.labels)} labels, {len(self.champion)} champion's and {len(self.challenger)} challenger's"
                " scores are no pairs: score the same rows with both"
            )
        if not np.isin(self.labels, (0, 1)).all():
            raise ValueError("some labels are neither 0 nor 1: compare models on labelled rows only")

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, mask: NDArray[np.bool_]) -> "Paired":
        """The pairs at which `mask` [n] holds."""
        return Paired(self.labels[mask], self.champion[mask], self.challenger[mask], self.threshold)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two models on `rows` rows. `wins` are rows that only the challenger got right, `losses` only the champion."""

    rows: int
    champion_accuracy: float
    challenger_accuracy: float
    wins: int
    losses: int

    @property
    def difference(self) -> float:
        """Challenger's accuracy less champion's."""
        return (self.wins - self.losses) / self.rows if self.rows else 0.0


class SegmentLoss(msgspec.Struct, frozen=True, kw_only=True):
    """One segment of the newest rows: is the challenger proven worse there? `p` is one-sided, not yet corrected."""

    name: str
    comparison: Comparison
    p: float
    proven: bool


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """One optional guard on the newest rows; `worsening` is how much worse the challenger's figure is.

    The three are None where the figure cannot be computed: then the guard does not hold.
    """

    name: str
    champion: float | None
    challenger: float | None
    worsening: float | None
    accepted: float
    held: bool


class GateDecision(msgspec.Struct, frozen=True, kw_only=True):
    """Promoted or not, every number behind it, and the reasons in words.

    `evidence` is the digest of what was decided from, where that is kept.
    """

    promoted: bool
    reasons: tuple[str, ...]
    newest: Comparison
    difference_low: float
    difference_high: float
    mcnemar_p: float
    baseline: Comparison
    baseline_loss: float
    accepted_loss: float
    segments: tuple[SegmentLoss, ...]
    guards: tuple[Guard, ...] = ()
    evidence: str | None = None


def judge(
    gates: Gates,
    newest: Paired,
    baseline: Paired,
    segments: Mapping[str, NDArray[np.bool_]],
    *,
    seed: int,
    concept_drift: bool = False,
) -> GateDecision:
    """Decide on a challenger.

    `newest` are the gate's labelled rows, `baseline` the held-out baseline rows, `segments` masks [n] over the newest
    rows. Where concept drift is declared the old law is wrong, and the larger accepted loss holds.
    """
    recent, old = compare(newest), compare(baseline)
    low, high = bootstrap_bounds(recent, gates.bootstrap_alpha, gates.bootstrap, seed)
    p = mcnemar(recent)
    accepted = gates.accepted_loss_concept if concept_drift else gates.accepted_loss
    lost = _segment_losses(newest, segments, gates)
    guards = _guards(newest, gates)
    against = [
        *_missing(gates, newest, baseline),
        *_not_proven(recent, low, p, gates),
        *_baseline_lost(old, accepted),
        *(
            f"segment {loss.name}: {_figures(loss.comparison)}, a proven loss (p = {loss.p:.3g})"
            for loss in lost
            if loss.proven
        ),
        *(_not_held(guard) for guard in guards if not guard.held),
    ]
    good = f"better on the {recent.rows} newest rows: {_figures(recent)}, at least {_points(low)}, McNemar p = {p:.3g}"
    kept = f"kept on the {old.rows} held-out baseline rows: {_figures(old)}, {_points(-accepted)} is accepted"
    return GateDecision(
        promoted=not against,
        reasons=tuple(against) or (good, kept),
        newest=recent,
        difference_low=low,
        difference_high=high,
        mcnemar_p=p,
        baseline=old,
        baseline_loss=-old.difference,
        accepted_loss=accepted,
        segments=lost,
        guards=guards,
    )


def compare(pairs: Paired) -> Comparison:
    """Count who was right where."""
    positive, rows = pairs.labels == 1, len(pairs)
    champion, challenger = ((scores >= pairs.threshold) == positive for scores in (pairs.champion, pairs.challenger))
    return Comparison(
        rows=rows,
        champion_accuracy=float(champion.mean()) if rows else 0.0,
        challenger_accuracy=float(challenger.mean()) if rows else 0.0,
        wins=int(np.sum(challenger & ~champion)),
        losses=int(np.sum(champion & ~challenger)),
    )


def bootstrap_bounds(comparison: Comparison, alpha: float, resamples: int, seed: int) -> tuple[float, float]:
    """The alpha/2 and 1 − alpha/2 quantiles of the accuracy difference over paired resamples of the rows.

    A row adds 1, 0 or −1 to the difference, so drawing rows with replacement is drawing the three counts from a
    multinomial: the same distribution without touching the rows. (−1, 1) where there are no rows.
    """
    n, wins, losses = comparison.rows, comparison.wins, comparison.losses
    if n == 0:
        return -1.0, 1.0
    shares = np.array([wins, losses, n - wins - losses]) / n
    counts = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    low, high = np.quantile((counts[:, 0] - counts[:, 1]) / n, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def mcnemar(comparison: Comparison, alternative: Literal["two-sided", "less"] = "two-sided") -> float:
    """McNemar's exact p: of the rows that only one model got right, how many are the challenger's? 1 without any.

    With `alternative="less"` a small p proves the challenger worse.
    """
    discordant = comparison.wins + comparison.losses
    if discordant == 0:
        return 1.0
    return float(binomtest(comparison.wins, discordant, 0.5, alternative=alternative).pvalue)


def holm(p_values: Sequence[float], alpha: float) -> tuple[bool, ...]:
    """Which hypotheses Holm's step-down procedure rejects at family-wise level `alpha`."""
    rejected = [False] * len(p_values)
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[index] > alpha / (len(p_values) - rank):
            break
        rejected[index] = True
    return tuple(rejected)


def _segment_losses(newest: Paired, segments: Mapping[str, NDArray[np.bool_]], gates: Gates) -> tuple[SegmentLoss, ...]:
    big = {name: compare(newest.where(mask)) for name, mask in segments.items() if mask.sum() >= gates.segment_rows}
    p_values = [mcnemar(comparison, alternative="less") for comparison in big.values()]
    return tuple(
        SegmentLoss(name=name, comparison=comparison, p=p, proven=proven)
        for (name, comparison), p, proven in zip(
            big.items(), p_values, holm(p_values, gates.segment_alpha), strict=True
        )
    )


def _guards(newest: Paired, gates: Gates) -> tuple[Guard, ...]:
    # The sign says which way is worse.
    asked = (
        ("Brier score", gates.accepted_brier_rise, 1),
        ("calibration error", gates.accepted_calibration_rise, 1),
        ("recall", gates.accepted_recall_drop, -1),
        ("ROC AUC", gates.accepted_roc_auc_drop, -1),
    )
    if all(accepted is None for _, accepted, _ in asked):
        return ()
    before, after = _quality(newest, newest.champion), _quality(newest, newest.challenger)
    return tuple(
        _guard(name, before.get(name), after.get(name), accepted, sign)
        for name, accepted, sign in asked
        if accepted is not None
    )


def _quality(pairs: Paired, scores: NDArray[np.float64]) -> dict[str, float | None]:
    """One model's figures; None, or not there, what cannot be computed."""
    if len(pairs) == 0 or _invalid(scores):
        return {}
    found = evaluate(pairs.labels, scores, pairs.threshold)
    return {
        "Brier score": found.brier,
        "calibration error": found.calibration_error,
        "recall": found.recall if found.positives else None,
        "ROC AUC": found.roc_auc,
    }


def _guard(name: str, champion: float | None, challenger: float | None, accepted: float, sign: int) -> Guard:
    worsening = None if champion is None or challenger is None else sign * (challenger - champion)
    return Guard(
        name=name,
        champion=champion,
        challenger=challenger,
        worsening=worsening,
        accepted=accepted,
        held=worsening is not None and worsening <= accepted + ROUNDING,
    )


def _not_held(guard: Guard) -> str:
    if guard.worsening is None:
        return f"{guard.name} cannot be computed on the newest rows for both models: nothing shows that it is kept"
    return (
        f"{guard.name} on the newest rows: {guard.champion:.3f} to {guard.challenger:.3f}, worse by"
        f" {guard.worsening:.3f}, only {guard.accepted:g} is accepted"
    )


def _missing(gates: Gates, newest: Paired, baseline: Paired) -> list[str]:
    reasons = []
    if len(newest) < gates.gate_labels:
        reasons.append(f"only {len(newest)} of {gates.gate_labels} newest labelled rows: wait for labels")
    elif newest.labels.min() == newest.labels.max():
        reasons.append(
            f"all {len(newest)} newest labelled rows are of class {newest.labels[0]}: nothing shows what becomes of "
            "the other, wait for labels"
        )
    if len(baseline) == 0:
        reasons.append("no held-out baseline rows: nothing shows that the old population is still served")
    for rows, pairs in (("newest", newest), ("held-out baseline", baseline)):
        for who, scores in (("champion", pairs.champion), ("challenger", pairs.challenger)):
            if invalid := _invalid(scores):
                reasons.append(f"{invalid} of the {who}'s scores on the {rows} rows are no probabilities")
    return reasons


def _invalid(scores: NDArray[np.float64]) -> int:
    return len(scores) - int(np.sum((scores >= 0) & (scores <= 1)))


def _not_proven(recent: Comparison, low: float, p: float, gates: Gates) -> list[str]:
    reasons = []
    if low <= 0:
        reasons.append(f"not proven better: {_figures(recent)}, but perhaps only {_points(low)}")
    if p >= gates.alpha or recent.wins <= recent.losses:
        reasons.append(
            f"not proven better: {recent.wins} rows won, {recent.losses} lost, McNemar p = {p:.3g}"
            f" (below {gates.alpha:g} is needed)"
        )
    return reasons


def _baseline_lost(old: Comparison, accepted: float) -> list[str]:
    # Whole rows, compared without the rounding of two shares' difference: 5 points of 20 rows is exactly one row.
    if old.losses - old.wins <= accepted * old.rows + ROUNDING:
        return []
    return [f"worse on the {old.rows} held-out baseline rows: {_figures(old)}, only {_points(-accepted)} is accepted"]


def _figures(comparison: Comparison) -> str:
    return (
        f"{comparison.champion_accuracy:.1%} to {comparison.challenger_accuracy:.1%} ({_points(comparison.difference)})"
    )


def _points(share: float) -> str:
    return f"{100 * share:+.1f} points"
