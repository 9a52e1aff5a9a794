"""From a contract and rows to a fitted estimator."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import msgspec
import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression as LogisticClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from driftloop.common.contract import Contract, GradientBoosting, LogisticRegression, RandomForest
from driftloop.common.rows import canonical_scores

# Ten folds cost ten trainings. The more rows there are, the less a model misses those of its fold: so many rows are
# gone through in all folds together, and never fewer folds than two.
OUT_OF_FOLD_ROWS = 200_000
CLASSIFIER = "classifier"

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def build_pipeline(contract: Contract, rows: int) -> Pipeline:
    """The contract's unfitted estimator, for `rows` rows of matrices as `driftloop.common.rows` makes them (float32).

    Missing numbers get the column's median; a category becomes one indicator column each, none set where it is missing
    or unseen.
    """
    steps: list[tuple[str, object]] = [("columns", _columns(contract))]
    if isinstance(contract.estimator, LogisticRegression):
        steps.append(("scale", StandardScaler()))
    return Pipeline([*steps, (CLASSIFIER, _classifier(contract, rows))])


def _columns(contract: Contract) -> ColumnTransformer:
    numbers = [index for index, f in enumerate(contract.features) if f.type != "category"]
    categories = [index for index, f in enumerate(contract.features) if f.type == "category"]
    codes = [np.arange(len(contract.features[index].categories), dtype=np.float32) for index in categories]
    columns = []
    if numbers:
        # A column without a single value still has to reach the model: the matrix keeps its width.
        columns.append(("numbers", SimpleImputer(strategy="median", keep_empty_features=True), numbers))
    if categories:
        encoder = OneHotEncoder(categories=codes, handle_unknown="ignore", sparse_output=False, dtype=np.float32)
        columns.append(("categories", encoder, categories))
    return ColumnTransformer(columns)


def _classifier(contract: Contract, rows: int) -> ClassifierMixin:
    estimator = contract.estimator
    parameters = msgspec.structs.asdict(estimator.parameters)
    if isinstance(estimator, RandomForest):
        most, share = parameters.pop("max_samples_rows"), parameters["max_samples"]
        if most is not None and most < (rows if share is None else round(rows * share)):
            parameters["max_samples"] = most
        return RandomForestClassifier(**parameters, random_state=estimator.seed)
    if isinstance(estimator, GradientBoosting):
        # Stopping early would judge by rows of its own choice, a patient's on both sides.
        return HistGradientBoostingClassifier(**parameters, early_stopping=False, random_state=estimator.seed)
    return LogisticClassifier(**parameters, random_state=estimator.seed)


def one_thread(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The same work, for which numerical libraries start no threads of their own.

    Those wait for each other busily: beside other work they cost more than they bring, many times over.
    """

    @wraps(work)
    def done(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        with threadpool_limits(limits=1):
            return work(*arguments, **named)

    return done


@one_thread
def train(
    contract: Contract,
    features: NDArray[np.float32],
    labels: NDArray[np.int8],
    weights: NDArray[np.float64] | None = None,
) -> Pipeline:
    """Fit the contract's estimator to `features` [n, d] and `labels` [n] of 0 and 1; the same input, the same model.

    `weights` [n] say how much a row counts; without them all count alike. Where several jobs are configured
    (`driftloop.trainer.backends`), a forest's trees are grown by them. Raises ValueError where a class is absent.
    """
    _check_classes(contract, labels, least=1)
    pipeline = build_pipeline(contract, len(labels))
    weighted = {} if weights is None else {f"{CLASSIFIER}__sample_weight": weights}
    pipeline.fit(features, labels, **weighted)
    if isinstance(contract.estimator, RandomForest):
        # Threads would add up the trees' votes in the order in which they are done, which is not always the same.
        pipeline.set_params(**{f"{CLASSIFIER}__n_jobs": 1})
    return pipeline


def out_of_fold_scores(
    contract: Contract,
    features: NDArray[np.float32],
    labels: NDArray[np.int8],
    folds: int | None = None,
    *,
    subjects: NDArray[np.str_] | None = None,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Scores [n] that each training row gets from a model that has seen neither it nor another row of its subject.

    A forest is far too sure of the rows that it was trained on: their scores would make a reference that no production
    window resembles. `subjects` [n] are pseudonyms, "" where unknown. Without `folds` there are ten, and fewer where
    there are more than 20,000 rows. Raises ValueError where fewer than two subjects have a label of a class.
    """
    _check_classes(contract, labels, least=2)
    plan = fold_numbers(contract, labels, subjects, folds or fold_count(len(labels)))
    numbers = range(plan.max() + 1)
    scored = Parallel()(delayed(score_fold)(contract, features, labels, plan == number, weights) for number in numbers)
    scores = np.empty(len(labels))
    for number, found in zip(numbers, scored, strict=True):
        scores[plan == number] = found
    return scores


@one_thread
def score_fold(
    contract: Contract,
    features: NDArray[np.float32],
    labels: NDArray[np.int8],
    fold: NDArray[np.bool_],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Canonical scores of the rows where `fold` [n] holds, by a model that was fitted to the others."""
    others = ~fold
    # One fold is one job: its own training does not start others.
    with parallel_config(backend="sequential"):
        model = train(contract, features[others], labels[others], None if weights is None else weights[others])
    return canonical_scores(model.predict_proba(features[fold])[:, 1])


def fold_count(rows: int) -> int:
    """How many folds so many rows are scored by: ten, fewer of more than 20,000 rows, two from 100,000 on."""
    return max(2, min(10, OUT_OF_FOLD_ROWS // rows))


def fold_numbers(
    contract: Contract, labels: NDArray[np.int8], subjects: NDArray[np.str_] | None, folds: int
) -> NDArray[np.int64]:
    """The number [n] of each row's fold, from 0: at most `folds` of them, of like size and share of positives.

    All rows of a subject are in one fold; a row of an unknown subject ("") stands for itself. Raises ValueError where
    fewer than two subjects have a label of a class.
    """
    seed = contract.estimator.seed
    first = np.arange(len(labels)) if subjects is None else _first_rows(subjects)
    units, unit = np.unique(first, return_inverse=True)
    positive = np.bincount(unit, weights=labels) > 0
    negative = np.bincount(unit, weights=1 - labels) > 0
    least = int(min(positive.sum(), negative.sum()))
    if least < 2:
        raise ValueError(
            f"model {contract.name!r}: training rows of {negative.sum()} subjects have a negative and of"
            f" {positive.sum()} a positive label: to hold some out at least 2 of each are needed; wait for more labels"
        )
    folds = min(folds, least)
    dealt = np.empty(len(units), dtype=np.int64)
    if len(units) == len(labels):
        split = StratifiedKFold(folds, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels)
        for number, (_, chosen) in enumerate(split):
            dealt[chosen] = number
    else:
        # Dealt like cards, those with a positive label first; the library's own way looks at one subject at a time.
        order = np.random.default_rng(seed).permutation(len(units))
        order = order[np.argsort(~positive[order], kind="stable")]
        dealt[order] = np.arange(len(units)) % folds
    return dealt[unit]


def _first_rows(subjects: NDArray[np.str_]) -> NDArray[np.int64]:
    """The number [n] of the first row of each row's subject."""
    first: dict[str, int] = {}
    # Sorting a million texts would take ten times as long.
    rows = [first.setdefault(one, row) if one else row for row, one in enumerate(subjects.tolist())]
    return np.array(rows, dtype=np.int64)


def _weighted(pipeline: Pipeline, weights: NDArray[np.float64] | None) -> dict[str, NDArray[np.float64]]:
    """The weights as the estimator at the pipeline's end takes them."""
    return {} if weights is None else {f"{pipeline.steps[-1][0]}__sample_weight": weights}


def _check_classes(contract: Contract, labels: NDArray[np.int8], least: int) -> None:
    negative, positive = np.bincount(labels, minlength=2)[:2]
    if min(negative, positive) < least:
        raise ValueError(
            f"model {contract.name!r}: {negative} negative and {positive} positive training rows: a binary classifier"
            f" needs at least {least} of each; wait for more labels or widen the training window"
        )
