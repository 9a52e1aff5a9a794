"""Builds what the trainer's service and its command both need, from settings."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from joblib import cpu_count

from driftloop.common import keys, registry
from driftloop.common.contract import Contract, ContractError, baseline_path, load_contracts
from driftloop.common.events import ArtifactRef
from driftloop.common.rows import read_baseline, validator
from driftloop.common.settings import SettingsError, variable
from driftloop.trainer.backends import Backend
from driftloop.trainer.domain.challenger import BaselineData
from driftloop.trainer.resources import Artifacts, ModelData
from driftloop.trainer.settings import Settings
from driftloop.trainer.training_sets import SetFiles

# By default. Each thread has rows of its own in memory, and a small forest is no faster by more.
MOST_JOBS = 4


def load_models(paths: Sequence[Path]) -> dict[str, ModelData]:
    """Every contract with its baseline, by model name. Raises ContractError."""
    # In the order of the paths, which is that of the contracts.
    return {
        name: ModelData(contract, load_baseline(path, contract))
        for path, (name, contract) in zip(paths, load_contracts(paths).items(), strict=True)
    }


def load_baseline(path: Path, contract: Contract) -> BaselineData:
    """The baseline that a contract names, with its split. Raises ContractError."""
    file = baseline_path(path, contract)
    rows, labels = read_baseline(contract, file)
    try:
        return BaselineData.of(contract, validator(contract).values(rows), labels)
    except ValueError as error:
        raise ContractError(path, "baseline", str(file), str(error)) from error


def open_artifacts(settings: Settings) -> Artifacts:
    """The registry, with the key that signs and the keys that are trusted. Raises keys.KeyFileError, SettingsError."""
    _check("DRIFTLOOP_ARTIFACTS", settings.artifacts)
    signing = keys.load_signing_key(settings.signing_key)
    trusted = keys.load_public_keys(settings.trusted_keys)

    def write(bundle: registry.Bundle) -> ArtifactRef:
        return registry.write_bundle(settings.artifacts, bundle, signing)

    def fetch(ref: ArtifactRef, model: str, version: int) -> registry.Bundle:
        return registry.fetch_bundle(ref, model, version, trusted)

    return Artifacts(write, fetch, partial(registry.highest_version, settings.artifacts))


def set_files(settings: Settings) -> SetFiles:
    """Where training sets are kept. Beside the artifacts no model can be in the way: no name begins with a dot.

    Raises SettingsError.
    """
    root = settings.training_sets or f"{settings.artifacts.rstrip('/')}/.training-sets"
    _check("DRIFTLOOP_TRAINING_SETS", root)
    return SetFiles(root)


def _check(variable: str, uri: str) -> None:
    # Now, not when a challenger has been trained for an hour.
    try:
        registry.check_uri(uri)
    except registry.ArtifactError as error:
        raise SettingsError(f"{variable}: {error}") from error


def backend(settings: Settings) -> Backend:
    """The backend that is asked for. Raises SettingsError where a cluster's address is not given."""
    kind = settings.training_backend
    address = {"dask": settings.dask_scheduler, "ray": settings.ray_address}.get(kind)
    if kind != "local" and address is None:
        needed = variable("dask_scheduler" if kind == "dask" else "ray_address")
        raise SettingsError(f"{needed} is not set: {variable('training_backend')}={kind} needs a cluster's address")
    return Backend(kind, settings.jobs or min(cpu_count(), MOST_JOBS), address)
