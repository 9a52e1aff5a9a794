"""Version 1: trained on the baseline, registered, and made the champion of a model that has none."""

from collections.abc import Callable
from dataclasses import dataclass

from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.postgres.pool import Pool
from driftloop.trainer.bundling import bundle
from driftloop.trainer.domain.card import ModelCard
from driftloop.trainer.domain.challenger import BaselineData, first_version
from driftloop.trainer.retraining import Artifacts
from driftloop.trainer.serving import HighestRevision, crown
from driftloop.trainer.set_store import SetStore
from driftloop.trainer.store import Model, Store


@dataclass(frozen=True)
class FirstVersion:
    """What `train_first` did: the state that holds now, and the new version's card if it made one."""

    model: Model
    card: ModelCard | None


def train_first(
    pool: Pool,
    contract: Contract,
    baseline: BaselineData,
    artifacts: Artifacts,
    highest_revision: HighestRevision,
    clock: Clock,
    say: Callable[[str], None],
) -> FirstVersion:
    """Give a model its first champion. A model that has one is left as it is, so that a repeated start does no harm."""
    with pool.connection() as connection:
        store = Store(connection)
        model = store.lock_model(contract.name, clock())
        if model.champion is not None:
            return FirstVersion(model, None)
        version = store.reserve_version(contract.name)
    say(f"training version {version} of {contract.name} on {len(baseline.split.train)} rows")
    made = first_version(contract, baseline, version, clock())
    artifact = artifacts.write(bundle(contract, made))
    published = highest_revision(contract.name)
    with pool.connection() as connection:
        model = Store(connection).lock_model(contract.name, clock())
        if model.champion is not None:  # another one was faster; its version serves
            return FirstVersion(model, None)
        # The baseline is all that it learnt from: there is no file to keep, and nobody's row in it.
        SetStore(connection).register(contract.name, made.card.training, {}, clock())
        Store(connection).add_version(made.card, artifact)
        state = crown(connection, model, made.card.model_version, published, made.card.reason, clock())
    return FirstVersion(Model(contract.name, state.revision, state.champion), made.card)
