"""Bring your own: a model that exists already becomes version 1.

An ONNX file is data, and is read here. A fitted scikit-learn estimator is a program: it is opened in a process of its
own (`open_estimator`), and only ONNX, JSON and numbers come back.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from driftloop.common import registry
from driftloop.common.contract import Contract
from driftloop.common.registry import ArtifactError
from driftloop.common.rows import canonical_scores, read_rows, validator
from driftloop.trainer import confinement, open_estimator
from driftloop.trainer.domain import export
from driftloop.trainer.domain.adapting import ImportRefused, adapted
from driftloop.trainer.domain.challenger import BaselineData
from driftloop.trainer.domain.imported import ImportedModel, examine, may_miss, origin, require_unseen, seen_rows

FILE_LIMIT = 1_000_000_000
SMALL_FILE = 64 * 1024
# Nothing else of this process's environment, where passwords and keys are, gets to who opens the estimator.
_PASSED_ON = ("PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH")
_SET = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JOBLIB_MULTIPROCESSING": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True)
class ImportSource:
    """A file with a model, and which rows it was trained on.

    `trained_on` is a CSV file with the contract's features, or what stands for one: the baseline's training rows, or no
    row of the baseline. The rest bounds the process that opens an estimator.
    """

    file: Path
    kind: Literal["onnx", "scikit-learn"]
    trained_on: Path | Literal["none", "baseline-train"]
    seconds: float = 120.0
    memory_bytes: int = 4 * 1024**3


def import_source(file: Path, trained_on: str) -> ImportSource:
    """What a command line means: `.onnx` is ONNX, all else an estimator; `trained_on` is one of the words or a file."""
    words: dict[str, Literal["none", "baseline-train"]] = {"none": "none", "baseline-train": "baseline-train"}
    kind: Literal["onnx", "scikit-learn"] = "onnx" if file.suffix.lower() == ".onnx" else "scikit-learn"
    return ImportSource(file, kind, words.get(trained_on, Path(trained_on)))


def open_source(
    contract: Contract, baseline: BaselineData, source: ImportSource, say: Callable[[str], None]
) -> ImportedModel:
    """Read a model from elsewhere, and hold it to all that a version is held to.

    Raises ImportRefused, and ContractError where the file of rows is not as it must be.
    """
    seen, named = _seen(contract, baseline, source)
    require_unseen(contract, baseline, seen)
    data = _read(source.file)
    features = baseline.values.astype(np.float32)
    inputs = export.known_inputs(contract, features, may_miss(contract))
    width = len(contract.features)
    if source.kind == "onnx":
        model, about, answers = adapted(data, width, contract.target), open_estimator.About("ONNX", 1), None
    else:
        model, about, probabilities = _opened(contract, source, data, np.concatenate((features, inputs)), say)
        model, answers = adapted(model, width, contract.target, about.positive), canonical_scores(probabilities)
    examine(contract, model, features)
    own = export.score(model, np.concatenate((features, inputs)))
    if answers is not None:
        _check_same(answers, own, contract.decision_threshold)
    stated = source.trained_on if isinstance(source.trained_on, str) else "file"
    facts = origin(baseline, seen, stated, named, source.kind, sha256(data).hexdigest(), about.made_with)
    known = (own if answers is None else answers)[len(features) :]
    return ImportedModel(model, inputs, known, f"imported {about.estimator}", facts, seen)


# --- the rows that it was trained on


def _seen(contract: Contract, baseline: BaselineData, source: ImportSource) -> tuple[NDArray[np.bool_], int]:
    """Which baseline rows [n] the model was trained on, and how many rows were named."""
    seen = np.zeros(len(baseline.labels), dtype=np.bool_)
    if source.trained_on == "none":
        return seen, 0
    if source.trained_on == "baseline-train":
        seen[baseline.split.train] = True
        return seen, len(baseline.split.train)
    named = validator(contract).values(read_rows(contract, source.trained_on))
    return seen_rows(baseline, named), len(named)


# --- the file


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ImportRefused(f"{file} cannot be read ({error.strerror}): give a readable file") from error
    if len(data) > FILE_LIMIT:
        raise ImportRefused(f"{file} has more than {FILE_LIMIT} bytes: train a smaller model")
    return data


def _opened(
    contract: Contract, source: ImportSource, data: bytes, rows: NDArray[np.float32], say: Callable[[str], None]
) -> tuple[bytes, open_estimator.About, NDArray[np.float64]]:
    """The estimator as ONNX, what it is, and its own P(label = 1) [n] of `rows` [n, d]."""
    if confinement.landlock_version() < confinement.CONFINES:
        say("warning: this kernel cannot confine who opens the file: whatever code is in it has your rights")
    question = open_estimator.Question(
        contract.feature_names,
        contract.target.positive,
        contract.target.negative,
        source.memory_bytes,
        int(source.seconds) + 1,
    )
    with tempfile.TemporaryDirectory(prefix="driftloop-import-") as name:
        folder = Path(name)
        file = folder / "estimator"
        try:
            (folder / open_estimator.ANSWER).mkdir()
            file.write_bytes(data)
            np.save(folder / open_estimator.ROWS, rows, allow_pickle=False)
            (folder / open_estimator.QUESTION).write_bytes(msgspec.json.encode(question))
        except OSError as error:
            raise ImportRefused(f"{name} cannot be written ({error.strerror}): set TMPDIR to another folder") from error
        status = _run([str(file), name], folder, source.seconds)
        return read_answer(folder, status, len(rows))


def _run(arguments: list[str], folder: Path, seconds: float) -> int | None:
    """How the process ended, None where its time was over. Nothing that it prints is read."""
    # In its own folder, so that no file of the current one is taken for a module.
    process = subprocess.Popen(
        [sys.executable, "-m", open_estimator.__name__, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
        env=_environment(os.environ, folder),
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # With all that it has started.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(given: Mapping[str, str], folder: Path) -> dict[str, str]:
    kept = {name: given[name] for name in _PASSED_ON if name in given}
    return kept | _SET | {"HOME": str(folder / open_estimator.ANSWER), "TMPDIR": str(folder / open_estimator.ANSWER)}


def read_answer(folder: Path, status: int | None, rows: int) -> tuple[bytes, open_estimator.About, NDArray[np.float64]]:
    """What `open_estimator` has left in `folder`, which may be anything; `status` None: it was ended. Each is bounded.

    Model, what it is, and its P(label = 1) of so many `rows`. Raises ImportRefused.
    """

    def read(name: str, most: int) -> bytes:
        return registry.read_object(folder.as_uri(), open_estimator.ANSWER, name, size_limit=most)

    if status is None:
        raise ImportRefused("the estimator was not opened in time: allow more seconds, or export it to ONNX yourself")
    if status != 0:
        raise ImportRefused(f"the estimator cannot be opened: {_reason(read, status)}")
    try:
        model = read(open_estimator.MODEL, open_estimator.FILE_LIMIT)
        about = msgspec.json.decode(read(open_estimator.ABOUT, SMALL_FILE), type=open_estimator.About)
        answers = np.frombuffer(read(open_estimator.PROBABILITIES, 8 * rows), dtype="<f8").astype(np.float64)
    except (ArtifactError, msgspec.MsgspecError, ValueError) as error:
        raise ImportRefused("the file is no estimator: opening it gave no model; do not trust who made it") from error
    if len(answers) != rows or not re.fullmatch(r"\w{1,100}", about.estimator) or about.positive not in (0, 1):
        raise ImportRefused("the file is no estimator: opening it gave nonsense; do not trust who made it")
    return model, about, answers


def _reason(read: Callable[[str, int], bytes], status: int) -> str:
    """Why it failed, in words that are safe to show."""
    with suppress(ArtifactError):
        text = read(open_estimator.REASON, SMALL_FILE).decode("utf-8", errors="replace")
        return "".join(letter if letter.isprintable() else " " for letter in text)[:300]
    if status < 0:
        return f"its process was ended by signal {-status}; it may have needed more memory"
    return f"its process ended with status {status}"


def _check_same(expected: NDArray[np.float64], got: NDArray[np.float64], threshold: float) -> None:
    try:
        export.check_same(expected, got, threshold)
    except export.ExportMismatch as error:
        raise ImportRefused(
            f"{error}; of missing values scikit-learn and ONNX may think differently: put an imputer before it"
        ) from error
