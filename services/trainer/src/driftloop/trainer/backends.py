"""Where folds and trees are computed: in this process, or by the workers of an existing Dask or Ray cluster."""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from joblib import parallel_config

from driftloop.common.settings import SettingsError, variable

Kind = Literal["local", "dask", "ray"]


@dataclass(frozen=True)
class Backend:
    """What the settings say: `jobs` threads of this process, or the cluster at an `address`."""

    kind: Kind = "local"
    jobs: int = 1
    address: str | None = None


@contextmanager
def parallel(backend: Backend) -> Iterator[None]:
    """Within it, trainings use the backend. The model is the same, to the bit, whichever it is.

    Raises SettingsError where the cluster's client is not installed, OSError where the cluster does not answer.
    """
    if backend.kind == "dask":
        with _dask(backend):
            yield
    elif backend.kind == "ray":
        with _ray(backend):
            yield
    else:
        # Threads share the rows, and the trees are grown outside the interpreter's lock.
        with parallel_config(backend="threading", n_jobs=backend.jobs):
            yield


@contextmanager
def _dask(backend: Backend) -> Iterator[None]:
    client = _installed("distributed", backend).Client(backend.address, set_as_default=True)
    try:
        with parallel_config(backend="dask"):
            yield
    finally:
        client.close()


@contextmanager
def _ray(backend: Backend) -> Iterator[None]:
    ray = _installed("ray", backend)
    register = _installed("ray.util.joblib", backend).register_ray
    try:
        ray.init(address=backend.address, log_to_driver=False)
    except (ConnectionError, SystemExit) as error:
        # Having tried for minutes, Ray's client would end the process, with a status that says nothing.
        raise OSError(f"the Ray cluster at {backend.address} does not answer: look at `ray status` there") from error
    try:
        register()
        with parallel_config(backend="ray", n_jobs=-1):
            yield
    finally:
        ray.shutdown()


def _installed(module: str, backend: Backend) -> ModuleType:
    """A module that only this backend needs."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingsError(
            f"{variable('training_backend')}={backend.kind}: {error.name or module!r} is not installed:"
            f" pip install 'driftloop-trainer[{backend.kind}]'"
        ) from error
