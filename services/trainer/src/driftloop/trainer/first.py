"""Version 1: trained on the baseline, or imported; registered, and made the champion of a model that has none."""

from collections.abc import Callable
from dataclasses import dataclass

from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.postgres.pool import Pool
from driftloop.trainer.bundling import bundle
from driftloop.trainer.domain.card import ModelCard
from driftloop.trainer.domain.challenger import BaselineData, Challenger, first_version
from driftloop.trainer.domain.imported import imported_version
from driftloop.trainer.importing import ImportSource, open_source
from driftloop.trainer.resources import Artifacts
from driftloop.trainer.serving import HighestRevision, crown
from driftloop.trainer.set_store import SetStore
from driftloop.trainer.store import Model, Store


@dataclass(frozen=True)
class FirstVersion:
    """What was done: the state that holds now, and the new version's card if there is one."""

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

    def build(version: int) -> Challenger:
        say(f"training version {version} of {contract.name} on {len(baseline.split.train)} rows")
        return first_version(contract, baseline, version, clock(), say)

    return _make_first(pool, contract, build, artifacts, highest_revision, clock)


def import_first(
    pool: Pool,
    contract: Contract,
    baseline: BaselineData,
    source: ImportSource,
    artifacts: Artifacts,
    highest_revision: HighestRevision,
    clock: Clock,
    say: Callable[[str], None],
) -> FirstVersion:
    """Make a model from elsewhere the first champion. A model that has one is left as it is.

    Raises ImportRefused, and then nothing is registered; ContractError where the file of rows is not as it must be.
    """
    serving = _serving(pool, contract, clock)
    if serving.champion is not None:
        return FirstVersion(serving, None)
    say(f"opening {source.file} and asking it about the {len(baseline.labels)} baseline rows of {contract.name}")
    opened = open_source(contract, baseline, source, say)

    def build(version: int) -> Challenger:
        say(f"importing it as version {version} of {contract.name}")
        return imported_version(contract, baseline, opened, version, clock())

    return _make_first(pool, contract, build, artifacts, highest_revision, clock)


def _make_first(
    pool: Pool,
    contract: Contract,
    build: Callable[[int], Challenger],
    artifacts: Artifacts,
    highest_revision: HighestRevision,
    clock: Clock,
) -> FirstVersion:
    serving = _serving(pool, contract, clock)
    if serving.champion is not None:
        return FirstVersion(serving, None)
    free = artifacts.highest(contract.name) + 1
    with pool.connection() as connection:
        version = Store(connection).reserve_version(contract.name, free, clock())
    made = build(version)
    artifact = artifacts.write(bundle(contract, made))
    published = highest_revision(contract.name)
    with pool.connection() as connection:
        model = Store(connection).lock_model(contract.name, clock())
        if model.champion is not None:  # another one was faster; its version serves
            return FirstVersion(model, None)
        if made.card.imported is None:
            # The baseline is all that it learnt from: there is no file to keep, and nobody's row in it.
            SetStore(connection).register(contract.name, made.card.training, {}, clock())
        Store(connection).add_version(made.card, artifact)
        state = crown(connection, model, made.card.model_version, published, made.card.reason, clock())
    return FirstVersion(Model(contract.name, state.revision, state.champion), made.card)


def _serving(pool: Pool, contract: Contract, clock: Clock) -> Model:
    with pool.connection() as connection:
        return Store(connection).lock_model(contract.name, clock())
