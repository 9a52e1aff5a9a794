"""Kubeflow Pipelines: `python kubeflow_pipeline.py` writes driftloop_nightly.yaml, for a recurring run.

The API key is the entry `key` of the Kubernetes Secret `driftloop-operator-key`.
"""

from pathlib import Path

from kfp import compiler, dsl, kubernetes

# A component has no files but its image's: the program goes along.
PROGRAM = Path(__file__).with_name("driftloop_nightly.py").read_text(encoding="utf-8")
SECRETS = "/secrets/driftloop"


@dsl.container_component
def retrain_where_wanted(monitor: str, trainer: str, model: str, seconds: float) -> dsl.ContainerSpec:
    """What a night's step runs."""
    return dsl.ContainerSpec(
        image="python:3.11-slim",
        command=["python", "-c", PROGRAM],
        args=[
            "--monitor", monitor, "--trainer", trainer, "--model", model, "--seconds", seconds,
            "--key-file", f"{SECRETS}/key",
        ],
    )  # fmt: skip


@dsl.pipeline(name="driftloop-nightly", description="Where the verdict calls for it, one retraining a night.")
def driftloop_nightly(
    monitor: str = "http://drift-monitor:8002",
    trainer: str = "http://trainer:8003",
    model: str = "diabetes",
    seconds: float = 3600.0,
) -> None:
    """One step, which ends when the retraining is decided."""
    step = retrain_where_wanted(monitor=monitor, trainer=trainer, model=model, seconds=seconds)
    # Yesterday's verdict is not today's.
    step.set_caching_options(False)
    kubernetes.use_secret_as_volume(step, secret_name="driftloop-operator-key", mount_path=SECRETS)


if __name__ == "__main__":
    compiler.Compiler().compile(driftloop_nightly, "driftloop_nightly.yaml")
