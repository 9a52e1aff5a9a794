"""A model ready to answer: opened only after its bytes were checked, and used only after it gave its known answers."""

import math
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from driftloop.common.conformal import Conformal, conformal_of
from driftloop.common.contract import Contract
from driftloop.common.onnx import RUNTIME_ERRORS, open_session, ort
from driftloop.common.onnx_policy import INPUT, OUTPUT, UnusableModel, check_model
from driftloop.common.profile import other_columns
from driftloop.common.registry import Bundle, KnownAnswers
from driftloop.predictor.domain.reference import KnownRanges

__all__ = ["LoadedModel", "UnusableModel", "load_model"]

PAUSE_SECONDS = 0.005


@dataclass(frozen=True)
class LoadedModel:
    """One version of a model, in memory. Safe to use from several threads.

    `conformal` is what its prediction sets are made from, None where its profile holds no rows to make them from.
    """

    name: str
    version: int
    width: int
    session: ort.InferenceSession
    conformal: Conformal | None
    reference: KnownRanges

    def predict(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """P(label = 1) [n] of `features` [n, width], NaN where missing, as the model gives it: not yet rounded.

        Raises UnusableModel where the runtime cannot compute it.
        """
        if len(features) == 0:
            return np.empty(0)
        try:
            probabilities: NDArray[np.float32] = self.session.run([OUTPUT], {INPUT: features})[0][:, 1]
        except RUNTIME_ERRORS as error:
            raise UnusableModel("runtime", f"the model cannot answer: {_first_line(error)}") from error
        return probabilities.astype(np.float64)


def load_model(bundle: Bundle, contract: Contract) -> LoadedModel:
    """Check a fetched bundle against the contract and the policy, open it, and ask it its known answers.

    Raises UnusableModel; its reason is one of the policy's, or contract, runtime or known_answers.
    """
    _check_contract(bundle, contract)
    width = len(contract.features)
    # Each step holds Python's lock or a processor for some milliseconds: requests have their turn between them.
    time.sleep(PAUSE_SECONDS)
    check_model(bundle.model, width)
    time.sleep(PAUSE_SECONDS)
    heldout = bundle.profile.heldout
    model = LoadedModel(
        bundle.model_name,
        bundle.model_version,
        width,
        _open(bundle.model),
        None if heldout is None else conformal_of(heldout, contract.performance.interval_level),
        KnownRanges(bundle.profile),
    )
    _check_known_answers(model, bundle.known_answers)
    return model


def _check_contract(bundle: Bundle, contract: Contract) -> None:
    """The model's columns must mean what this predictor will put there.

    The whole contract's digest may differ: a new alarm threshold does not make a model wrong.
    """
    if bundle.model_name != contract.name:
        raise UnusableModel("contract", f"this is model {bundle.model_name!r}, this predictor serves {contract.name!r}")
    differing = other_columns(bundle.profile, contract.features)
    if differing is not None:
        trained, expected = differing
        raise UnusableModel(
            "contract",
            f"version {bundle.model_version} was trained on {trained}, the contract has {expected}:"
            " train a version for this contract",
        )


def _open(data: bytes) -> ort.InferenceSession:
    try:
        return open_session(data)
    except RUNTIME_ERRORS as error:
        raise UnusableModel("runtime", f"the runtime cannot open the model: {_first_line(error)}") from error


def _check_known_answers(model: LoadedModel, known: KnownAnswers) -> None:
    inputs = np.array([[math.nan if value is None else value for value in row] for row in known.inputs], np.float32)
    expected = np.array(known.probabilities)
    if inputs.shape != (len(expected), model.width):
        raise UnusableModel("known_answers", f"they are {inputs.shape}, the model takes [n, {model.width}]")
    try:
        got = model.session.run([OUTPUT], {INPUT: inputs})[0]
    except RUNTIME_ERRORS as error:
        raise UnusableModel("known_answers", f"the model cannot answer them: {_first_line(error)}") from error
    if got.shape != (len(expected), 2) or got.dtype != np.float32:
        raise UnusableModel("output", f"probabilities are {got.dtype} {got.shape}, not float32 [{len(expected)}, 2]")
    # NaN compares as false, so count what is right rather than what is wrong.
    right = int(np.sum(np.abs(got[:, 1].astype(np.float64) - expected) <= known.tolerance))
    if right != len(expected):
        raise UnusableModel(
            "known_answers",
            f"{len(expected) - right} of {len(expected)} differ by more than {known.tolerance:g}: compare the"
            " runtime's versions here and in the trainer",
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
