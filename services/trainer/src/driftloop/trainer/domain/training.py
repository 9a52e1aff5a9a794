"""From a contract and rows to a fitted estimator."""

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder

from driftloop.common.contract import Contract
from driftloop.common.rows import canonical_scores


def build_pipeline(contract: Contract) -> Pipeline:
    """The contract's unfitted estimator, for matrices as `driftloop.common.rows` makes them (float32 [n, d]).

    Missing numbers get the column's median; a category becomes one indicator column each, none set where it is missing
    or unseen.
    """
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
    forest = RandomForestClassifier(
        **msgspec.structs.asdict(contract.estimator.parameters), n_jobs=1, random_state=contract.estimator.seed
    )
    return Pipeline([("columns", ColumnTransformer(columns)), ("forest", forest)])


def train(
    contract: Contract,
    features: NDArray[np.float32],
    labels: NDArray[np.int8],
    weights: NDArray[np.float64] | None = None,
) -> Pipeline:
    """Fit the contract's estimator to `features` [n, d] and `labels` [n] of 0 and 1; the same input, the same model.

    `weights` [n] say how much each row counts, None that all count the same. Raises ValueError where a class is absent.
    """
    _check_classes(contract, labels, least=1)
    pipeline = build_pipeline(contract)
    return pipeline.fit(features, labels, **_weighted(pipeline, weights))


def out_of_fold_scores(
    contract: Contract,
    features: NDArray[np.float32],
    labels: NDArray[np.int8],
    folds: int = 10,
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Scores [n] that each training row gets from a model that has not seen it; `weights` as `train` takes them.

    A forest is far too sure of the rows that it was trained on: their scores would make a reference that no production
    window resembles. Raises ValueError where a class has fewer than two rows.
    """
    _check_classes(contract, labels, least=2)
    folds = min(folds, int(np.bincount(labels, minlength=2).min()))
    plan = StratifiedKFold(folds, shuffle=True, random_state=contract.estimator.seed)
    pipeline = build_pipeline(contract)
    fitting = _weighted(pipeline, weights)
    shares = cross_val_predict(pipeline, features, labels, cv=plan, method="predict_proba", params=fitting)
    return canonical_scores(shares[:, 1])


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
