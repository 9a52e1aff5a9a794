"""An estimator's file is a program: it is opened in a process of its own, and whatever it does, this one goes on."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from driftloop.trainer import open_estimator
from driftloop.trainer.confinement import CONFINES, landlock_version
from driftloop.trainer.domain.adapting import ImportRefused
from driftloop.trainer.domain.challenger import BaselineData
from driftloop.trainer.domain.export import score
from driftloop.trainer.domain.imported import ImportedModel
from driftloop.trainer.importing import ImportSource, import_source, open_source, read_answer
from driftloop.trainer.open_estimator import Question, describe
from tests.support.models import shipped

SHIPPED = shipped("diabetes")
CONTRACT = SHIPPED.contract
BASELINE = BaselineData.of(CONTRACT, SHIPPED.values, SHIPPED.labels)
TRAIN = BASELINE.split.train
FEATURES, LABELS = SHIPPED.features[TRAIN], SHIPPED.labels[TRAIN]


def opener(folder: Path) -> Callable[..., ImportedModel]:
    def opened(estimator: object, **bounds: Any) -> ImportedModel:
        file = folder / "estimator.joblib"
        joblib.dump(estimator, file)
        source = ImportSource(file, "scikit-learn", "baseline-train", **bounds)
        return open_source(CONTRACT, BASELINE, source, lambda _text: None)

    return opened


@pytest.fixture
def bring(tmp_path: Path) -> Callable[..., ImportedModel]:
    return opener(tmp_path)


class Hostile:
    """Runs `code` where it is opened."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, (self.code,)


def refusal(bring: Callable[..., ImportedModel], code: str, **bounds: Any) -> str:
    with pytest.raises(ImportRefused) as refused:
        bring(Hostile(code), **bounds)
    return str(refused.value)


@pytest.mark.parametrize(
    ("file", "trained_on", "source"),
    [
        ("a.onnx", "none", ("onnx", "none")),
        ("a.ONNX", "baseline-train", ("onnx", "baseline-train")),
        ("a.joblib", "rows.csv", ("scikit-learn", Path("rows.csv"))),
        ("a.pkl", "none", ("scikit-learn", "none")),
    ],
)
def test_what_a_command_says_is_meant_as_it_is_read(file: str, trained_on: str, source: tuple[str, object]) -> None:
    found = import_source(Path(file), trained_on)
    assert (found.kind, found.trained_on) == source


# --- estimators


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(SimpleImputer(), RandomForestClassifier(5, random_state=0)),
        make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression()),
        make_pipeline(SimpleImputer(), GradientBoostingClassifier(n_estimators=10, random_state=0)),
    ],
    ids=["forest", "logistic regression", "gradient boosting"],
)
def test_a_fitted_estimator_becomes_an_onnx_model_that_says_the_same(
    bring: Callable[..., ImportedModel], estimator: Any
) -> None:
    fitted = estimator.fit(FEATURES, LABELS)
    found = bring(fitted)
    expected = fitted.predict_proba(SHIPPED.features)[:, 1]
    np.testing.assert_allclose(score(found.model, SHIPPED.features), expected, atol=1e-5)
    np.testing.assert_allclose(found.known_probabilities, fitted.predict_proba(found.known_inputs)[:, 1], atol=1e-6)
    assert found.origin.source == "scikit-learn"


def test_one_whose_onnx_model_says_something_else_is_refused(bring: Callable[..., ImportedModel]) -> None:
    """A forest that learnt from gaps itself: its converter does not know where a missing value goes."""
    with pytest.raises(ImportRefused, match=r"differs from the estimator .* put an imputer before it"):
        bring(RandomForestClassifier(5, random_state=0).fit(FEATURES, LABELS))


def test_one_that_cannot_do_without_a_value_is_refused(bring: Callable[..., ImportedModel]) -> None:
    with pytest.raises(ImportRefused, match="contains NaN"):
        bring(LogisticRegression().fit(np.nan_to_num(FEATURES), LABELS))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (RandomForestClassifier(2).fit(FEATURES[:, :3], LABELS), "takes 3 columns, the contract has 5 features"),
        (RandomForestClassifier(2).fit(FEATURES, LABELS + 1), "it must be 0 and 1"),
        (LinearRegression().fit(np.nan_to_num(FEATURES), LABELS), "is no fitted classifier with predict_proba"),
        (RandomForestClassifier(2), "is no fitted classifier"),
        (make_pipeline(StandardScaler(), RandomForestClassifier(2)), "RandomForestClassifier is no fitted classifier"),
        ({"weights": [1, 2]}, "dict is no fitted classifier"),
        (
            RandomForestClassifier(2).fit(pd.DataFrame(FEATURES, columns=list("abcde")), LABELS),
            r"fitted to the columns \['a', 'b', 'c', 'd', 'e'\], the contract has \['Pregnancies'",
        ),
    ],
    ids=["width", "classes", "regressor", "unfitted", "unfitted pipeline", "a dictionary", "columns"],
)
def test_what_is_not_a_classifier_of_the_contract_is_refused(estimator: object, message: str) -> None:
    with pytest.raises(ImportRefused, match=message):
        describe(estimator, Question(CONTRACT.feature_names, 1, 0, 0, 0))


def test_the_release_that_made_it_is_told() -> None:
    fitted = LogisticRegression().fit(np.nan_to_num(FEATURES), LABELS)
    warned = InconsistentVersionWarning(
        estimator_name="LogisticRegression", current_sklearn_version="1.9", original_sklearn_version="1.5"
    )
    assert describe(fitted, Question(CONTRACT.feature_names, 1, 0, 0, 0), [warned]).made_with == "1.5"


def test_a_file_that_is_no_pickle_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "estimator.joblib"
    file.write_bytes(b"no pickle at all")
    with pytest.raises(ImportRefused, match="the estimator cannot be opened"):
        open_source(CONTRACT, BASELINE, ImportSource(file, "scikit-learn", "none"), lambda _text: None)


class Liar(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A class that this module knows, and who opens it does not."""


def test_an_estimator_of_a_module_that_is_not_installed_is_refused_with_its_name(
    bring: Callable[..., ImportedModel],
) -> None:
    with pytest.raises(ImportRefused, match="ModuleNotFoundError: No module named 'tests"):
        bring(Liar())


# --- files that do something else


# What a file may try, and how each attempt ended in one process: "done", or the error's name.
ATTEMPTS = {
    "write elsewhere": "open({planted!r}, 'w').write('x')",
    "read a key": "open({key!r}).read()",
    "read the parent's environment": "open(f'/proc/{{os.getppid()}}/environ').read()",
    "end the parent": "os.kill(os.getppid(), 9)",
    "connect": "socket.create_connection(('127.0.0.1', 9), 1)",
    "start a program": "subprocess.run(['/bin/true'])",
    "take the memory limit back": "resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))",
}
TRY = """
import os, resource, socket, subprocess
ended = []
for attempt in {attempts!r}:
    try:
        exec(attempt)
        ended.append('done')
    except Exception as error:
        ended.append(type(error).__name__)
raise ValueError(' '.join(ended))
"""


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if landlock_version() < CONFINES:
        pytest.skip("this kernel does not keep signals in: the file would end this process")
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "key").write_text("a secret of the tests")
    places = {"planted": str(folder / "planted"), "key": str(folder / "key")}
    told = refusal(opener(folder), TRY.format(attempts=[code.format(**places) for code in ATTEMPTS.values()]))
    assert not (folder / "planted").exists()
    return dict(zip(ATTEMPTS, told.partition("ValueError: ")[2].split(), strict=True))


@pytest.mark.parametrize("attempt", list(ATTEMPTS))
def test_it_may_not(tried: dict[str, str], attempt: str) -> None:
    # What may not be raised is a wrong value to Python.
    assert tried[attempt] == ("ValueError" if attempt.startswith("take") else "PermissionError")


def test_it_gets_no_secret_of_the_environment(
    bring: Callable[..., ImportedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://trainer:a-secret@db/driftloop")
    assert "a-secret" not in refusal(bring, "import os\nraise ValueError(str(dict(os.environ)))")


def test_what_it_prints_nobody_reads(bring: Callable[..., ImportedModel], capfd: pytest.CaptureFixture[str]) -> None:
    refusal(bring, "import sys\nprint('a secret')\nsys.stderr.write('a secret')")
    assert capfd.readouterr() == ("", "")


def test_one_that_hangs_is_ended(bring: Callable[..., ImportedModel]) -> None:
    assert "was not opened in time: allow more seconds" in refusal(bring, "while True: pass", seconds=3)


def test_one_that_eats_memory_is_ended(bring: Callable[..., ImportedModel]) -> None:
    assert "MemoryError" in refusal(bring, "held = bytearray(3 * 1024**3)", memory_bytes=2 * 1024**3)


# --- what comes back


def test_one_that_ends_without_an_answer_is_refused(bring: Callable[..., ImportedModel]) -> None:
    assert "gave no model; do not trust who made it" in refusal(bring, "import os; os._exit(0)")


def answered(folder: Path, **files: bytes) -> Path:
    """What an honest process leaves, but for `files`."""
    honest = {"model": b"x", "probabilities": bytes(16), "about": b'{"estimator": "Forest", "positive": 1}'}
    names = {"model": "model.onnx", "probabilities": "probabilities.f64", "about": "about.json", "reason": "reason.txt"}
    (folder / "answer").mkdir()
    for name, data in (honest | files).items():
        (folder / "answer" / names[name]).write_bytes(data)
    return folder


def refused_answer(folder: Path, status: int | None = 0) -> str:
    with pytest.raises(ImportRefused) as refused:
        read_answer(folder, status, rows=2)
    return str(refused.value)


def test_an_honest_answer_is_read(tmp_path: Path) -> None:
    model, about, scores = read_answer(answered(tmp_path), 0, rows=2)
    assert (model, about.estimator, scores.tolist()) == (b"x", "Forest", [0.0, 0.0])


@pytest.mark.parametrize(
    ("status", "message"),
    [(None, "was not opened in time"), (3, "ended with status 3"), (-9, "ended by signal 9; it may have needed more")],
)
def test_how_it_ended_is_told(tmp_path: Path, status: int | None, message: str) -> None:
    assert message in refused_answer(answered(tmp_path), status)


@pytest.mark.parametrize(
    "plant",
    [
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
    ],
    ids=["link", "pipe", "folder"],
)
def test_an_answer_that_is_no_plain_file_is_not_read(tmp_path: Path, plant: Callable[[Path], object]) -> None:
    model = answered(tmp_path) / "answer" / "model.onnx"
    model.unlink()
    plant(model)
    assert "do not trust who made it" in refused_answer(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"about": b'{"estimator": "<script>", "positive": 1}'},
        {"about": b'{"estimator": "Forest", "positive": 2}'},
        {"about": b"[]"},
        {"probabilities": bytes(8)},
        {"probabilities": bytes(24)},
        {"probabilities": bytes(15)},
    ],
    ids=str,
)
def test_an_answer_that_is_nonsense_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    assert "do not trust who made it" in refused_answer(answered(tmp_path, **files))


def test_a_model_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_estimator, "FILE_LIMIT", 10)
    assert "do not trust who made it" in refused_answer(answered(tmp_path, model=bytes(11)))


def test_a_reason_cannot_write_to_a_terminal(tmp_path: Path) -> None:
    told = refused_answer(answered(tmp_path, reason=b"\x1b[2Jgone" + b"x" * 5000), 1)
    assert told.isprintable()
    assert len(told) < 400
