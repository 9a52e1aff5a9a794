"""Which estimators compete, and in which order they are tried: decided on training rows alone."""

import itertools
import math
import random
from dataclasses import dataclass

import msgspec
import numpy as np
from joblib import Parallel, delayed
from numpy.typing import NDArray

from driftloop.common.contract import Contract, Estimator
from driftloop.trainer.domain.metrics import evaluate
from driftloop.trainer.domain.training import fold_numbers, score_fold

FOLDS = 5
# More rows would tell candidates apart more finely than it matters, and cost their time for each of them.
SELECTION_ROWS = 20_000
SMALLER_IS_BETTER = ("log_loss", "brier")
# What an estimator, or its conversion to ONNX, raises where it cannot cope with the data.
FAILURES = (ValueError, RuntimeError, ArithmeticError)


class CandidateScore(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one candidate.

    `score` is the mean of `folds`, by the contract's `selection`, and `spread` their standard deviation; None where
    nothing was compared. `failure` says why it could not be used.
    """

    estimator: str
    parameters: dict[str, object]
    seed: int
    chosen: bool = False
    selection: str | None = None
    score: float | None = None
    spread: float | None = None
    folds: tuple[float, ...] = ()
    failure: str | None = None


@dataclass(frozen=True)
class Candidate:
    """A contract of one estimator, and what is known of it."""

    contract: Contract
    score: CandidateScore


def estimators(contract: Contract) -> tuple[Estimator, ...]:
    """All that compete, in the contract's order: each as it is written, then what its search adds; no one twice."""
    found = [
        one for written in (contract.estimator, *contract.candidates) for one in (_plain(written), *_searched(written))
    ]
    return tuple(dict.fromkeys(found))


def _plain(estimator: Estimator) -> Estimator:
    return msgspec.structs.replace(estimator, search=None)


def _searched(estimator: Estimator) -> list[Estimator]:
    search = estimator.search
    if search is None:
        return []
    values = [one.values for one in search.parameters]
    combinations = list(itertools.product(*values)) if search.iterations is None else _drawn(estimator)
    names = [one.name for one in search.parameters]
    return [_with(estimator, dict(zip(names, combination, strict=True))) for combination in combinations]


def _drawn(estimator: Estimator) -> list[tuple[object, ...]]:
    """As many combinations as the search asks for, by the seed; they are counted, not listed, for there may be many."""
    search = estimator.search
    assert search is not None
    assert search.iterations is not None
    drawn: list[tuple[object, ...]] = []
    for number in random.Random(estimator.seed).sample(range(search.combinations), search.iterations):
        combination = []
        for one in reversed(search.parameters):
            number, place = divmod(number, len(one.values))
            combination.append(one.values[place])
        drawn.append(tuple(reversed(combination)))
    return drawn


def _with(estimator: Estimator, values: dict[str, object]) -> Estimator:
    parameters = msgspec.convert(msgspec.structs.asdict(estimator.parameters) | values, type(estimator.parameters))
    return msgspec.structs.replace(estimator, parameters=parameters, search=None)


def ranked(
    contract: Contract,
    features: NDArray[np.float32],
    labels: NDArray[np.int8],
    *,
    subjects: NDArray[np.str_] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> tuple[Candidate, ...]:
    """The candidates, best first, those that failed last; of equally good ones the earlier in the contract's order.

    Each is fitted to all folds of the training rows but one and scored on that one, a subject's rows being in one fold
    (stratified cross-validation by group). A single candidate is not compared with anything. Of more rows than
    SELECTION_ROWS a part, stratified and by subject likewise, is taken.
    """
    entrants = [msgspec.structs.replace(contract, estimator=one, candidates=()) for one in estimators(contract)]
    if len(entrants) == 1:
        return (Candidate(entrants[0], described(entrants[0])),)
    parts = -(-len(labels) // SELECTION_ROWS)
    if parts > 1:
        taken = fold_numbers(contract, labels, subjects, parts) == 0
        features, labels = features[taken], labels[taken]
        subjects, weights = (None if one is None else one[taken] for one in (subjects, weights))
    plan = fold_numbers(contract, labels, subjects, FOLDS)
    folds = range(plan.max() + 1)
    found = Parallel()(
        delayed(_fold_score)(entrant, features, labels, plan == fold, weights) for entrant in entrants for fold in folds
    )
    scores = [_scored(entrant, found[len(folds) * i : len(folds) * (i + 1)]) for i, entrant in enumerate(entrants)]
    return tuple(sorted(map(Candidate, entrants, scores), key=_worst_last))


def _fold_score(
    contract: Contract,
    features: NDArray[np.float32],
    labels: NDArray[np.int8],
    fold: NDArray[np.bool_],
    weights: NDArray[np.float64] | None,
) -> float | str:
    """The score of one fold, or why there is none."""
    try:
        scores = score_fold(contract, features, labels, fold, weights)
        score = getattr(evaluate(labels[fold], scores, contract.decision_threshold), contract.selection)
    except FAILURES as error:
        return str(error)
    return f"no {contract.selection} in a fold of one class" if score is None else float(score)


def _scored(contract: Contract, folds: list[float | str]) -> CandidateScore:
    failures = [one for one in folds if isinstance(one, str)]
    if failures:
        return failed(described(contract), failures[0])
    numbers = tuple(one for one in folds if isinstance(one, float))
    mean, spread = float(np.mean(numbers)), float(np.std(numbers))
    if not math.isfinite(mean):
        return failed(described(contract), f"its {contract.selection} is not a finite number")
    return msgspec.structs.replace(
        described(contract), selection=contract.selection, score=mean, spread=spread, folds=numbers
    )


def described(contract: Contract) -> CandidateScore:
    """A contract's estimator, of which nothing is known yet."""
    estimator = contract.estimator
    return CandidateScore(
        estimator=estimator.kind, parameters=msgspec.structs.asdict(estimator.parameters), seed=estimator.seed
    )


def failed(score: CandidateScore, why: str) -> CandidateScore:
    """The same candidate, which could not be used."""
    return msgspec.structs.replace(score, failure=why)


def chosen(score: CandidateScore) -> CandidateScore:
    """The same candidate, which was trained."""
    return msgspec.structs.replace(score, chosen=True)


def _worst_last(candidate: Candidate) -> tuple[bool, float]:
    score = candidate.score.score
    if score is None:
        return True, 0.0
    return False, score if candidate.contract.selection in SMALLER_IS_BETTER else -score
