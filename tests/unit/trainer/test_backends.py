"""Where trainings run is a setting, and changes no model."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import msgspec
import pytest
from joblib import effective_n_jobs, register_parallel_backend
from joblib.parallel import ThreadingBackend

from driftloop.common.settings import SettingsError, read_settings
from driftloop.trainer import build, training_process
from driftloop.trainer.backends import Backend, Kind, parallel
from driftloop.trainer.build import backend
from driftloop.trainer.domain.candidates import ranked
from driftloop.trainer.domain.export import export_onnx
from driftloop.trainer.domain.training import out_of_fold_scores, train
from driftloop.trainer.settings import Settings
from driftloop.trainer.training_files import Failure
from tests.support.models import shipped
from tests.unit.trainer.test_export import KINDS

SHIPPED = shipped("diabetes")
REQUIRED = {
    "KAFKA_BOOTSTRAP_SERVERS": "broker:9092",
    "DATABASE_URL": "postgresql://trainer@db/x",
    "DRIFTLOOP_CONTRACTS": "contract.yaml",
    "DRIFTLOOP_ARTIFACTS": "file:///artifacts",
    "DRIFTLOOP_SIGNING_KEY": "key",
    "DRIFTLOOP_TRUSTED_KEYS": "keys",
}


def settings(**variables: str) -> Settings:
    return read_settings(Settings, REQUIRED | {f"DRIFTLOOP_{name}": value for name, value in variables.items()})


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (64, 4)])
def test_without_settings_each_of_the_first_four_cores_has_a_thread(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(build, "cpu_count", lambda: cores)
    with parallel(backend(settings())):
        assert effective_n_jobs(None) == threads


def test_so_many_threads_work_as_are_asked_for() -> None:
    with parallel(backend(settings(JOBS="2"))):
        assert effective_n_jobs(None) == 2
    assert effective_n_jobs(None) == 1


@pytest.mark.parametrize("estimator", KINDS.values(), ids=KINDS)
def test_two_jobs_make_the_model_of_one_to_the_bit(estimator: object) -> None:
    contract = msgspec.structs.replace(SHIPPED.contract, estimator=estimator)
    made = []
    for jobs in (1, 2):
        with parallel(Backend("local", jobs)):
            model = train(contract, SHIPPED.features, SHIPPED.labels)
            scores = out_of_fold_scores(contract, SHIPPED.features, SHIPPED.labels)
        answers = model.predict_proba(SHIPPED.features)
        made.append((export_onnx(model, 5), answers.tobytes(), scores.tobytes()))
    assert made[0] == made[1]


def test_two_jobs_rank_candidates_as_one_does() -> None:
    contract = msgspec.structs.replace(SHIPPED.contract, candidates=tuple(KINDS.values()))
    rankings = []
    for jobs in (1, 2):
        with parallel(Backend("local", jobs)):
            rankings.append([one.score for one in ranked(contract, SHIPPED.features, SHIPPED.labels)])
    assert rankings[0] == rankings[1]


def test_a_forest_answers_on_one_thread_for_threads_add_up_in_any_order() -> None:
    with parallel(Backend("local", 2)):
        model = train(SHIPPED.contract, SHIPPED.features, SHIPPED.labels)
        answers = [model.predict_proba(SHIPPED.features).tobytes() for _ in range(20)]
    assert model[-1].n_jobs == 1
    assert len(set(answers)) == 1


@pytest.mark.parametrize(("kind", "needed"), [("dask", "DRIFTLOOP_DASK_SCHEDULER"), ("ray", "DRIFTLOOP_RAY_ADDRESS")])
def test_a_cluster_without_an_address_is_refused(kind: str, needed: str) -> None:
    with pytest.raises(SettingsError, match=f"{needed} is not set: DRIFTLOOP_TRAINING_BACKEND={kind} needs"):
        backend(settings(TRAINING_BACKEND=kind))


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_cluster_without_its_client_names_the_extra(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr("importlib.import_module", missing)
    address = {"DASK_SCHEDULER": "tcp://cluster:8786", "RAY_ADDRESS": "cluster:6379"}
    with (
        pytest.raises(SettingsError, match=rf"is not installed: pip install 'driftloop-trainer\[{kind}\]'"),
        parallel(backend(settings(TRAINING_BACKEND=kind, **address))),
    ):
        pass


def test_a_ray_cluster_is_joined_for_the_training_and_then_left(monkeypatch: pytest.MonkeyPatch) -> None:
    did: list[str] = []
    ray = SimpleNamespace(
        init=lambda address, log_to_driver: did.append(f"joined {address}"),
        shutdown=lambda: did.append("left"),
        register_ray=lambda: register_parallel_backend("ray", ThreadingBackend),
    )
    monkeypatch.setattr("importlib.import_module", lambda _: ray)
    with parallel(backend(settings(TRAINING_BACKEND="ray", RAY_ADDRESS="cluster:6379"))):
        train(SHIPPED.contract, SHIPPED.features, SHIPPED.labels)
        assert did == ["joined cluster:6379"]
    assert did == ["joined cluster:6379", "left"]


@pytest.mark.parametrize("end", [ConnectionError("nobody listens"), SystemExit(15)])
def test_a_ray_cluster_that_does_not_answer_is_named(end: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client ends the process where the address was that of a cluster once."""
    ray = SimpleNamespace(init=Mock(side_effect=end), register_ray=lambda: None)
    monkeypatch.setattr("importlib.import_module", lambda _: ray)
    with (
        pytest.raises(OSError, match="the Ray cluster at cluster:6379 does not answer"),
        parallel(backend(settings(TRAINING_BACKEND="ray", RAY_ADDRESS="cluster:6379"))),
    ):
        pass


def test_a_training_says_what_is_away_or_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_process, "read_task", Mock(side_effect=OSError("the cluster does not answer")))
    assert training_process.train(tmp_path) == Failure("internal", "the cluster does not answer")


@pytest.mark.parametrize(("name", "value"), [("JOBS", "0"), ("JOBS", "many"), ("TRAINING_BACKEND", "spark")])
def test_a_setting_that_cannot_be_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"DRIFTLOOP_{name}='{value}'"):
        settings(**{name: value})
