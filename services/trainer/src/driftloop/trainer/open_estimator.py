"""`python -m driftloop.trainer.open_estimator FILE FOLDER`: opens a fitted scikit-learn estimator and writes ONNX.

Opening FILE (joblib or pickle) runs whatever code its maker put into it. So this is a process of its own, which first
gives up all that it does not need; who started it kills it when its time is over, and reads nothing from FOLDER but
ONNX, JSON and plain numbers. FOLDER holds the question; the answer goes into `answer` in there.
"""

import os
import sys
import sysconfig
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import joblib
import msgspec
import numpy as np
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.pipeline import Pipeline

from driftloop.common.contract import Code, Target
from driftloop.trainer import confinement
from driftloop.trainer.domain.adapting import ImportRefused, positive_column
from driftloop.trainer.domain.export import export_onnx

QUESTION, ROWS = "question.json", "rows.npy"
ANSWER, MODEL, PROBABILITIES, ABOUT, REASON = "answer", "model.onnx", "probabilities.f64", "about.json", "reason.txt"
FILE_LIMIT = 250_000_000
# What libraries look at when they load, or ask for the time, the processor and the like. Of /proc no more than this:
# other processes' environments are in there.
_SYSTEM = (
    *("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/sys/devices", "/dev/null", "/dev/urandom"),
    *("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat"),
)


class Question(msgspec.Struct, frozen=True):
    """What the estimator must fit, and what the process may use. The rows are in a file of their own."""

    features: tuple[str, ...]
    positive: Code
    negative: Code
    memory_bytes: int
    cpu_seconds: int


class About(msgspec.Struct, frozen=True):
    """What the estimator is; `positive` is the column of its probabilities that is P(label = 1)."""

    estimator: str
    positive: int
    made_with: str | None = None


def main(arguments: Sequence[str]) -> None:
    """Confine this process, open the file, write model, probabilities of the rows and what it is."""
    file, folder = Path(arguments[0]), Path(arguments[1])
    answer = folder / ANSWER
    sys.excepthook = _reason_into(answer / REASON)
    question = msgspec.json.decode((folder / QUESTION).read_bytes(), type=Question)
    rows = np.load(folder / ROWS, allow_pickle=False)
    confinement.limit(question.memory_bytes, question.cpu_seconds, FILE_LIMIT)
    confinement.confine((file, *_libraries()), answer)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", InconsistentVersionWarning)
        estimator = joblib.load(file)
    about = describe(estimator, question, [one.message for one in told])
    model = export_onnx(estimator, len(question.features))
    (answer / MODEL).write_bytes(model)
    probabilities = np.ascontiguousarray(estimator.predict_proba(rows)[:, about.positive], dtype="<f8")
    (answer / PROBABILITIES).write_bytes(probabilities.tobytes())
    (answer / ABOUT).write_bytes(msgspec.json.encode(about))


def describe(estimator: object, question: Question, told: Sequence[Warning | str] = ()) -> About:
    """What an estimator is. Raises ImportRefused where it cannot be the contract's."""
    last = estimator.steps[-1][1] if isinstance(estimator, Pipeline) else estimator
    name = type(last).__name__
    if not hasattr(estimator, "predict_proba") or not hasattr(estimator, "classes_"):
        raise ImportRefused(
            f"{name} is no fitted classifier with predict_proba: give one, with all that prepares its rows"
        )
    width = getattr(estimator, "n_features_in_", len(question.features))
    if width != len(question.features):
        raise ImportRefused(f"{name} takes {width} columns, the contract has {len(question.features)} features")
    named = [str(one) for one in getattr(estimator, "feature_names_in_", question.features)]
    if named != list(question.features):
        raise ImportRefused(
            f"{name} was fitted to the columns {named[:20]}, the contract has {list(question.features)[:20]}: fit it to"
            " these, in this order"
        )
    target = Target(name="target", positive=question.positive, negative=question.negative)
    positive = positive_column(np.asarray(estimator.classes_).tolist(), target)
    versions = [one.original_sklearn_version for one in told if isinstance(one, InconsistentVersionWarning)]
    return About(name, positive, versions[0] if versions else None)


def _libraries() -> list[Path]:
    """Where Python and what it imports are."""
    places = {*_SYSTEM, *sys.path, sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
    return sorted(Path(place) for place in places if place and os.path.isabs(place))


def _reason_into(path: Path) -> Callable[[type[BaseException], BaseException, TracebackType | None], None]:
    """What keeps the reason of an end, for who started this process."""

    def tell(kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        path.write_text(f"{kind.__name__}: {error}"[:1000], encoding="utf-8")

    return tell


if __name__ == "__main__":
    main(sys.argv[1:])
