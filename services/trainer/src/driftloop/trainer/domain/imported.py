"""A model that was made elsewhere as a first version: held to what ours are, and judged on rows it has not seen."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.common.contract import Contract
from driftloop.common.onnx import RUNTIME_ERRORS, open_session, ort
from driftloop.common.onnx_policy import INPUT, OUTPUT
from driftloop.common.profile import numeric_reference, scored_rows
from driftloop.trainer.domain import card, export
from driftloop.trainer.domain.adapting import ImportRefused
from driftloop.trainer.domain.challenger import HOLDOUT, BaselineData, Challenger, evaluated
from driftloop.trainer.domain.dataset import TrainingSet, unknown
from driftloop.trainer.domain.inspection import inspect
from driftloop.trainer.domain.reference import reference_profile

# All baseline rows that an imported model has not seen, the held-out ones among them.
UNSEEN = "baseline_unseen"
# Of fewer held-out rows no figure means anything.
LEAST_UNSEEN = 30
# How far a row's share of the two classes may be from 1 in float32.
_SUM_TOLERANCE = 1e-3
_ALONE = 20


@dataclass(frozen=True)
class ImportedModel:
    """A model that passed: ONNX bytes, known answers, what it is called, where it is from; `seen` [n] baseline rows."""

    model: bytes
    known_inputs: NDArray[np.float32]
    known_probabilities: NDArray[np.float64]
    estimator: str
    origin: card.Imported
    seen: NDArray[np.bool_]


# --- what it has seen


def seen_rows(baseline: BaselineData, named: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which baseline rows [n] have exactly the values of one of the `named` rows [k, d]; missing equals missing."""
    return np.isin(_keys(baseline.values), _keys(named))


def require_unseen(contract: Contract, baseline: BaselineData, seen: NDArray[np.bool_]) -> None:
    """Raises ImportRefused where what a model has not `seen` [n] of the held-out rows shows nothing."""
    held = baseline.split.holdout
    left = baseline.labels[held[~seen[held]]]
    if len(left) < LEAST_UNSEEN or len(np.unique(left)) < 2:
        raise ImportRefused(
            f"model {contract.name!r}: of {len(held)} held-out baseline rows the model was trained on all but"
            f" {len(left)}, {int(left.sum())} of them positive; at least {LEAST_UNSEEN} with both labels are needed:"
            " train it without the held-out rows, or add rows to the baseline that it has not seen and raise"
            " baseline.holdout_rows"
        )


def origin(
    baseline: BaselineData,
    seen: NDArray[np.bool_],
    trained_on: card.TrainedOn,
    named_rows: int,
    source: card.ImportSource,
    file_digest: str,
    made_with: str | None = None,
) -> card.Imported:
    """What a card says of where a model came from."""
    rows = baseline.split.holdout[seen[baseline.split.holdout]]
    return card.Imported(
        source=source,
        file_digest=file_digest,
        trained_on=trained_on,
        named_rows=named_rows,
        seen_holdout=tuple(rows.tolist()),
        seen_holdout_digest=_rows_of(baseline, rows).digest,
        made_with=made_with,
    )


def unseen_holdout(described: card.ModelCard, baseline: BaselineData) -> NDArray[np.bool_]:
    """Which of the held-out baseline rows [h] a version has not been trained on: all, unless it was imported.

    Raises ValueError where the baseline is not the one that it was imported with.
    """
    held, found = baseline.split.holdout, described.imported
    if found is None:
        return np.ones(len(held), dtype=np.bool_)
    rows = np.array(found.seen_holdout, dtype=np.int64)
    known = np.isin(rows, held).all() and _rows_of(baseline, rows).digest == found.seen_holdout_digest
    if not known:
        raise ValueError(
            f"version {described.model_version} of model {described.model_name!r} was imported with another baseline,"
            " so nobody can tell which held-out rows it was trained on: give the baseline of that time"
        )
    return ~np.isin(held, rows)


def _rows_of(baseline: BaselineData, rows: NDArray[np.int64]) -> TrainingSet:
    labels = baseline.labels[rows]
    return TrainingSet(baseline.values[rows], labels, unknown(len(rows)), len(rows), 0)


def _keys(values: NDArray[np.float64]) -> NDArray[np.void]:
    """Each row as one thing that can be compared: one NaN for all, one zero for both."""
    plain = np.ascontiguousarray(np.where(np.isnan(values), np.nan, values) + 0.0)
    return plain.view(np.dtype((np.void, plain.dtype.itemsize * plain.shape[1]))).ravel()


# --- what it answers


def may_miss(contract: Contract) -> tuple[int, ...]:
    """The columns that can be without a value in a row that the contract accepts."""
    features = enumerate(contract.features)
    return tuple(index for index, f in features if f.nullable or not f.required or f.missing)


def examine(contract: Contract, model: bytes, features: NDArray[np.float32]) -> None:
    """Ask a model in the house's form about `features` [n, d] of the baseline; raises ImportRefused.

    It must answer with probabilities, also where a value is missing that may be, and always the same.
    """
    try:
        session = open_session(model)
        ask = _asking(session)
        _check_missing(contract, ask, features)
        together = ask(features)
        _check_probabilities(together, "the baseline's rows")
        alone = np.concatenate([ask(features[row : row + 1]) for row in range(min(_ALONE, len(features)))])
    except RUNTIME_ERRORS as error:
        text = str(error).partition("\n")[0][:200]
        raise ImportRefused(f"the runtime cannot compute the model: {text}; export it anew") from error
    if not np.array_equal(together, ask(features)) or np.abs(alone - together[: len(alone)]).max() > export.TOLERANCE:
        raise ImportRefused(
            "the model does not answer the same row the same, alone and among others: export it for inference, with an"
            " open number of rows and without what is drawn or depends on the batch"
        )


def _asking(session: ort.InferenceSession) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    def ask(features: NDArray[np.float32]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run([OUTPUT], {INPUT: features})[0]
        if found.shape != (len(features), 2) or found.dtype != np.float32:
            raise ImportRefused(
                f"the model answers {len(features)} rows with {found.dtype} {list(found.shape)}: export it with an open"
                " number of rows and one or two columns of probabilities"
            )
        return found

    return ask


def _check_missing(
    contract: Contract, ask: Callable[[NDArray[np.float32]], NDArray[np.float32]], features: NDArray[np.float32]
) -> None:
    """Each feature that may be missing, in rows that have all the others."""
    # A column without any value has nothing to be filled with.
    middle = [np.nanmedian(column) if not np.isnan(column).all() else 0.0 for column in features.T]
    whole = np.where(np.isnan(features), np.array(middle, dtype=np.float32), features)
    lacking = []
    for column in may_miss(contract):
        rows = whole.copy()
        rows[:, column] = export.missing_value(contract, column)
        if not np.isfinite(ask(rows)).all():
            lacking.append(contract.features[column].name)
    if lacking:
        raise ImportRefused(
            f"the model gives no probability where {', '.join(lacking[:10])} is missing, which the contract allows:"
            " put an imputer before it, or say in the contract that it is there (required, not nullable, no code)"
        )


def _check_probabilities(found: NDArray[np.float32], where: str) -> None:
    if not np.isfinite(found).all():
        raise ImportRefused(f"the model gives no finite probability for some of {where}: put an imputer before it")
    # A sum of float32 may be a little more than 1.
    low, high = float(found.min()), float(found.max())
    if low < -export.TOLERANCE or high > 1 + export.TOLERANCE or np.abs(found.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
        raise ImportRefused(
            f"the model's answers to {where} are between {low:.3g} and {high:.3g} and no probabilities"
            " of two classes: export it with its sigmoid or softmax"
        )


# --- the version


def imported_version(
    contract: Contract, baseline: BaselineData, imported: ImportedModel, version: int, created: datetime
) -> Challenger:
    """Describe a model that passed as a version. Its reference is the whole baseline, scored where it has not seen it.

    There are no scores out of fold: what its scores mean, and how good it is, only unseen rows say.
    """
    unseen, held = np.flatnonzero(~imported.seen), baseline.split.holdout
    judging = held[~imported.seen[held]]
    scores = export.score(imported.model, baseline.values.astype(np.float32))
    known = scored_rows(scores[unseen], baseline.labels[unseen])
    profile = msgspec.structs.replace(
        reference_profile(contract, version, "training", baseline.values, scores, calibration=known, heldout=known),
        scores=numeric_reference("score", scores[unseen].tolist()),
    )
    slices = {HOLDOUT: judging} | ({UNSEEN: unseen} if len(unseen) > len(judging) else {})
    described = card.model_card(
        contract,
        version,
        created,
        "first version, made elsewhere and imported",
        card.training_data(_rows_of(baseline, np.flatnonzero(imported.seen))),
        {name: evaluated(contract, baseline.labels[rows], scores[rows]) for name, rows in slices.items()},
        inspection=inspect(
            contract, imported.model, list(slices)[-1], baseline.labels[unseen], baseline.values[unseen], known
        ),
    )
    described = msgspec.structs.replace(
        described, estimator=imported.estimator, parameters={}, imported=imported.origin
    )
    return Challenger(imported.model, described, profile, imported.known_inputs, imported.known_probabilities)
