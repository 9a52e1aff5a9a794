"""Bring your own: a model from elsewhere becomes version 1 on a real database, or nothing is registered."""

from functools import partial
from pathlib import Path
from typing import Any

import joblib
import msgspec
import pytest
from sklearn.linear_model import LogisticRegression

from driftloop.common import registry
from driftloop.common.events import ModelUpdated
from driftloop.common.keys import load_public_keys
from driftloop.common.postgres.pool import Pool
from driftloop.predictor.domain.model import load_model
from driftloop.trainer.domain.adapting import ImportRefused
from driftloop.trainer.domain.challenger import BaselineData
from driftloop.trainer.domain.export import export_onnx
from driftloop.trainer.domain.training import train
from driftloop.trainer.first import FirstVersion, import_first
from driftloop.trainer.importing import ImportSource
from driftloop.trainer.resources import Artifacts
from driftloop.trainer.store import Store
from tests.support.house import House
from tests.support.models import shipped
from tests.support.predictions import START

LOAN = shipped("loan", trees=5)
BASELINE = BaselineData.of(LOAN.contract, LOAN.values, LOAN.labels)
NAME = LOAN.contract.name


@pytest.fixture
def pool(house: House) -> Pool:
    assert house.signing_key.key_id  # makes the keys that are trusted
    return house.pool("trainer")


def bring(house: House, pool: Pool, source: ImportSource) -> FirstVersion:
    trusted = load_public_keys(house.trusted_keys)
    artifacts = Artifacts(
        house.register,
        lambda ref, model, version: registry.fetch_bundle(ref, model, version, trusted),
        partial(registry.highest_version, house.artifacts),
    )
    return import_first(pool, LOAN.contract, BASELINE, source, artifacts, lambda _m: 0, lambda: START, lambda _t: None)


def onnx_file(folder: Path) -> ImportSource:
    rows = BASELINE.split.train
    file = folder / "model.onnx"
    file.write_bytes(export_onnx(train(LOAN.contract, LOAN.features[rows], LOAN.labels[rows]), 3))
    return ImportSource(file, "onnx", "baseline-train")


def known(pool: Pool) -> dict[str, Any]:
    with pool.connection() as connection:
        found: dict[str, Any] = Store(connection).overview(NAME)
        found["outbox"] = connection.execute("SELECT value FROM outbox").fetchall()
    return found


def test_an_onnx_file_becomes_version_1_that_a_predictor_loads(tmp_path: Path, house: House, pool: Pool) -> None:
    made = bring(house, pool, onnx_file(tmp_path))
    assert (made.model.champion, made.model.revision) == (1, 1)
    ((value,),) = known(pool)["outbox"]
    artifact = msgspec.json.decode(value, type=ModelUpdated).served(1).artifact
    bundle = registry.fetch_bundle(artifact, NAME, 1, load_public_keys(house.trusted_keys))
    assert load_model(bundle, LOAN.contract).version == 1


def test_its_training_set_is_not_said_to_be_kept(tmp_path: Path, house: House, pool: Pool) -> None:
    bring(house, pool, onnx_file(tmp_path))
    (version,) = known(pool)["versions"]
    assert version["training_set"] is None


def test_a_model_that_has_a_champion_is_left_as_it_is(tmp_path: Path, house: House, pool: Pool) -> None:
    source = onnx_file(tmp_path)
    bring(house, pool, source)
    again = bring(house, pool, source)
    assert (again.card, again.model.revision) == (None, 1)
    assert len(known(pool)["outbox"]) == 1


class Hostile:
    """Ends the process that opens it."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("import os; os._exit(0)",)


@pytest.mark.parametrize("file", [Hostile(), LogisticRegression()], ids=["hostile", "unfitted"])
def test_after_a_refusal_nothing_is_registered_and_the_next_may_be_version_1(
    tmp_path: Path, house: House, pool: Pool, file: object
) -> None:
    path = tmp_path / "estimator.joblib"
    joblib.dump(file, path)
    with pytest.raises(ImportRefused):
        bring(house, pool, ImportSource(path, "scikit-learn", "none"))
    assert (known(pool)["versions"], known(pool)["outbox"]) == ([], [])
    assert bring(house, pool, onnx_file(tmp_path)).model.champion == 1
