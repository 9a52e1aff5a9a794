"""MLflow: a run a version, the ONNX model in it, and the model registry's aliases as what serves."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from mlflow.entities import Param as MlflowParam
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from driftloop.common.settings import Secret, read_secret
from driftloop.trainer.trackers import TrackedRun, Tracker

# What one request may hold, and how long a parameter may be.
_PARAMS, _METRICS, _PARAM_LENGTH = 100, 1000, 500
_MODEL = "model"
_ARTIFACT, _LOGGED = "driftloop.artifact", "driftloop.model_logged"

T = TypeVar("T")


def open_tracker(environ: Mapping[str, str]) -> Tracker:
    """The tracker at `MLFLOW_TRACKING_URI`; the registry is there, too, unless `MLFLOW_REGISTRY_URI` is set."""
    tracking = read_secret("MLFLOW_TRACKING_URI", environ)
    assert tracking is not None
    registry = read_secret("MLFLOW_REGISTRY_URI", environ) or tracking
    return MlflowTracker(tracking, registry, environ.get("MLFLOW_EXPERIMENT_NAME") or None)


class MlflowTracker:
    """Records runs in an experiment, by default that of the model's name."""

    name = "mlflow"

    def __init__(self, tracking: Secret, registry: Secret, experiment: str | None = None) -> None:
        self._tracking = tracking
        self._registry = registry
        self._experiment = experiment

    def record(self, run: TrackedRun) -> None:
        """See Tracker. Raises MlflowException, and registry.ArtifactError where the model cannot be read."""
        client = MlflowClient(tracking_uri=self._tracking.value, registry_uri=self._registry.value)
        kept = _run_of(client, self._experiment or run.model_name, run)
        _log(client, kept.info.run_id, run)
        if kept.data.tags.get(_LOGGED) != "true":
            _log_model(client, kept.info.run_id, run)
            client.set_tag(kept.info.run_id, _LOGGED, "true")
        # A registry is for what may serve: a rejected challenger is in its run only.
        if run.outcome != "rejected":
            _register(client, kept, run)
        _point_aliases(client, run)
        client.set_terminated(kept.info.run_id, "FINISHED", _milliseconds(run.decided_at))


def _run_of(client: MlflowClient, experiment: str, run: TrackedRun) -> Run:
    """The version's run, made if need be. The artifact's digest finds it again."""
    known = client.get_experiment_by_name(experiment)
    experiment_id = client.create_experiment(experiment) if known is None else known.experiment_id
    found = client.search_runs(
        [experiment_id],
        f"tags.`{_ARTIFACT}` = '{run.artifact_sha256}'",
        max_results=1,
        order_by=["attributes.start_time ASC"],
    )
    if found:
        return found[0]
    return client.create_run(
        experiment_id, _milliseconds(run.created_at), {_ARTIFACT: run.artifact_sha256}, run_name=run.title
    )


def _log(client: MlflowClient, run_id: str, run: TrackedRun) -> None:
    tags = {
        "driftloop.model": run.model_name,
        "driftloop.version": str(run.model_version),
        "driftloop.outcome": run.outcome,
        "driftloop.artifact_uri": run.artifact_uri,
    }
    if run.request is not None:
        tags["driftloop.request"] = str(run.request)
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])
    params = [MlflowParam(name, str(value)[:_PARAM_LENGTH]) for name, value in run.params.items()]
    for some in _parts(params, _PARAMS):
        client.log_batch(run_id, params=some)
    # Of one time and step, the same number again is no second point.
    at = _milliseconds(run.decided_at)
    for points in _parts([Metric(name, value, at, 0) for name, value in run.metrics.items()], _METRICS):
        client.log_batch(run_id, metrics=points)
    client.log_text(run_id, run.card, "card.json")
    client.log_text(run_id, run.training_set, "training_set.json")


def _log_model(client: MlflowClient, run_id: str, run: TrackedRun) -> None:
    """Put the ONNX bytes into the run, in the form that MLflow's own loaders read. They are not opened here."""
    libraries: dict[str, Any] = json.loads(run.card).get("libraries", {})
    with TemporaryDirectory(prefix="driftloop-mlflow-") as folder:
        root = Path(folder)
        (root / "model.onnx").write_bytes(run.read_model())
        needed = [f"{name}=={libraries[name]}" for name in ("onnx", "onnxruntime", "numpy") if name in libraries]
        (root / "requirements.txt").write_text("\n".join(["mlflow", *needed, ""]))
        described = Model(artifact_path=_MODEL, run_id=run_id)
        described.add_flavor(
            "onnx",
            onnx_version=str(libraries.get("onnx", "")),
            data="model.onnx",
            providers=["CPUExecutionProvider"],
            onnx_session_options=None,
            code=None,
        )
        described.add_flavor(
            "python_function",
            loader_module="mlflow.onnx",
            data="model.onnx",
            python_version=str(libraries.get("python", "")),
        )
        described.save(str(root / "MLmodel"))
        client.log_artifacts(run_id, folder, _MODEL)


def _register(client: MlflowClient, kept: Run, run: TrackedRun) -> None:
    """Make the registry's version of it, unless it is there. The registry counts by itself; ours is a tag."""
    version = _version_of(client, run.model_name, run.artifact_sha256)
    if version is None:
        _make_model(client, run.model_name)
        tags = {_ARTIFACT: run.artifact_sha256, "driftloop.version": str(run.model_version)}
        source = f"{kept.info.artifact_uri}/{_MODEL}"
        made = client.create_model_version(run.model_name, source, kept.info.run_id, tags, await_creation_for=0)
        version = str(made.version)
    client.set_model_version_tag(run.model_name, version, "driftloop.outcome", run.outcome)


def _make_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _version_of(client: MlflowClient, model: str, artifact: str) -> str | None:
    found = client.search_model_versions(f"name = '{model}' and tags.`{_ARTIFACT}` = '{artifact}'", max_results=1)
    return str(found[0].version) if found else None


def _point_aliases(client: MlflowClient, run: TrackedRun) -> None:
    """Let the aliases name what serves; one whose version is not registered names nothing rather than another."""
    try:
        named = client.get_registered_model(run.model_name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return
        raise
    for alias, artifact in (("champion", run.champion), ("challenger", run.challenger)):
        wanted = None if artifact is None else _version_of(client, run.model_name, artifact)
        if wanted is not None and str(named.get(alias)) != wanted:
            client.set_registered_model_alias(run.model_name, alias, wanted)
        elif wanted is None and alias in named:
            client.delete_registered_model_alias(run.model_name, alias)


def _parts(items: Sequence[T], size: int) -> Iterator[list[T]]:
    rest = iter(items)
    while part := list(islice(rest, size)):
        yield part


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
