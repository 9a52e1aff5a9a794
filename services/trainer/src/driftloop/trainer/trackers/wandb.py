"""Weights & Biases: a run a version, and an artifact that refers to the model by URI and digest."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import wandb

from driftloop.common.settings import Secret, read_secret
from driftloop.trainer.trackers import TrackedRun, Tracker

_INIT_SECONDS = 30.0
_RETRIES = 2


def open_tracker(environ: Mapping[str, str]) -> Tracker:
    """The tracker that the `WANDB_…` variables describe; without `WANDB_PROJECT` the project is `driftloop`."""
    return WandbTracker(
        mode=environ.get("WANDB_MODE") or "online",
        key=read_secret("WANDB_API_KEY", environ),
        project=environ.get("WANDB_PROJECT") or "driftloop",
        folder=environ.get("WANDB_DIR") or None,
    )


class WandbTracker:
    """Records runs in a project. Offline they are files in `folder`, by default the working directory's."""

    name = "wandb"

    def __init__(self, mode: str, key: Secret | None, project: str, folder: str | None) -> None:
        self._mode = mode
        self._key = key
        self._project = project
        self._folder = folder

    def record(self, run: TrackedRun) -> None:
        """See Tracker. Raises wandb.Error."""
        try:
            with self._root() as root:
                self._record(run, root)
        finally:
            # Its helper process would stay.
            wandb.teardown()

    def _record(self, run: TrackedRun, root: str) -> None:
        active = wandb.init(
            project=self._project,
            # The same id is the same run, however often it is recorded.
            id=f"{run.model_name}-{run.model_version}-{run.artifact_sha256[:16]}",
            name=run.title,
            group=run.model_name,
            resume="allow",
            settings=self._settings(root),
        )
        with active:
            about = {"model_name": run.model_name, "model_version": run.model_version, "request": run.request}
            active.config.update({**run.params, **about}, allow_val_change=True)
            decided = {"outcome": run.outcome, "decided_at": run.decided_at.isoformat()}
            active.summary.update({**run.metrics, **decided})
            # A version that was the champion gives the alias away to the next one: it is never taken off.
            aliases = [f"version-{run.model_version}"]
            if run.champion == run.artifact_sha256:
                aliases.append("champion")
            active.log_artifact(_artifact(run), aliases=aliases)

    def _settings(self, root: str) -> wandb.Settings:
        return wandb.Settings(
            mode=self._mode,
            api_key=self._key.value if self._key else None,
            root_dir=root,
            silent=True,
            console="off",
            # Nothing of the machine, its packages, the code or the repository that the process happens to run in.
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            init_timeout=_INIT_SECONDS,
            x_graphql_retry_max=_RETRIES,
            x_file_stream_retry_max=_RETRIES,
            x_file_transfer_retry_max=_RETRIES,
        )

    @contextmanager
    def _root(self) -> Iterator[str]:
        """Where its files go: what was sent need not be kept, what is to be synchronised must."""
        if self._folder is None and self._mode == "online":
            with TemporaryDirectory(prefix="driftloop-wandb-") as folder:
                yield folder
        else:
            yield self._folder or os.getcwd()


def _artifact(run: TrackedRun) -> wandb.Artifact:
    """The same content each time, so that recording again makes no new version. The model stays where it is."""
    reference = {"uri": run.artifact_uri, "sha256": run.artifact_sha256}
    artifact = wandb.Artifact(run.model_name, type="model", metadata={**reference, "version": run.model_version})
    contents = {"card.json": run.card, "training_set.json": run.training_set, "artifact.json": json.dumps(reference)}
    for name, text in contents.items():
        with artifact.new_file(name, mode="w", encoding="utf-8") as file:
            file.write(text)
    return artifact
