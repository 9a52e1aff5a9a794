"""What people may order: retrain, promote, roll back. The API and the command do it by these."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import uuid4

from psycopg import Connection

from driftloop.common.clock import Clock
from driftloop.common.contract import Contract
from driftloop.common.postgres.pool import Pool
from driftloop.trainer import deciding
from driftloop.trainer.request_store import Request, RequestStore
from driftloop.trainer.rollout_store import Rollout, RolloutStore
from driftloop.trainer.serving import HighestRevision, crown, serve
from driftloop.trainer.store import Model, Store

EARLIEST = datetime(1970, 1, 2, tzinfo=UTC)


class Refused(ValueError):
    """An order that cannot be followed; the text says why and what to do."""


class Unknown(Refused):
    """What was named does not exist."""


@dataclass(frozen=True)
class Served:
    """What serves after an order: the champion, and since which revision."""

    model_name: str
    champion: int
    revision: int


@dataclass(frozen=True)
class Operations:
    """Orders, each in one transaction. `by` says who gave one, and is kept with it."""

    pool: Pool
    highest_revision: HighestRevision
    clock: Clock
    published: Callable[[], None]

    def retrain(self, contract: Contract, by: str, reason: str, since: datetime | None = None) -> tuple[int, bool]:
        """Open a request by hand. Returns its id, and whether it is new: of a model only one is open.

        It trains as soon as there are the labels that the contract wants of rows predicted from `since` on, by default
        since the champion began to serve. One that is open already, and rests, does so no more. Raises Refused.
        """
        said = _said(f"asked for by {by}", reason)
        with self.pool.connection() as connection:
            now = self.clock()
            champion = _champion(Store(connection).lock_model(contract.name, now))
            store = RequestStore(connection)
            found = store.current(contract.name, lock=True)
            if found is not None:
                if found.state in ("awaiting-labels", "training") and not found.by_hand:
                    store.ask_by_hand(found.id, found.state, said, now)
                return found.id, False
            if since is None:
                since = Store(connection).serves_since(contract.name, champion)
            elif since.tzinfo is None or not EARLIEST < since <= now:
                raise Refused(f"since = {since.isoformat()} is not an instant in the past: give one with its time zone")
            opened = store.open(
                f"manual:{uuid4()}", "manual", contract.name, champion, since.astimezone(UTC), now, said
            )  # fmt: skip
            assert opened is not None
            return opened, True

    def promote(self, contract: Contract, version: int, by: str, reason: str) -> Served:
        """Let a version serve, whatever its gate said. An open request ends. Raises Refused."""
        published = self.highest_revision(contract.name)
        said = _said(f"promoted by {by}", reason)
        with self.pool.connection() as connection:
            now = self.clock()
            store = Store(connection)
            model = store.lock_model(contract.name, now)
            if _champion(model) == version:
                raise Refused(f"version {version} of model {contract.name!r} serves already")
            _check_served(store, contract, version)
            request, rollout = _open(connection, contract)
            if request is not None and rollout is not None and rollout.challenger == version:
                deciding.accept(connection, model, request, rollout, None, said, published, now)
            elif request is not None and request.state == "evaluated" and request.challenger == version:
                deciding.promote(connection, model, request, version, said, published, now)
            else:
                _end(connection, request, rollout, said, now)
                crown(connection, model, version, published, said, now)
            served = _served(store, contract)
        self.published()
        return served

    def roll_back(self, contract: Contract, by: str, reason: str, to: int | None = None) -> Served:
        """End a roll-out; where there is none, or a version is named, let that, or the one before, serve again.

        An open request ends. Raises Refused.
        """
        published = self.highest_revision(contract.name)
        said = _said(f"rolled back by {by}", reason)
        with self.pool.connection() as connection:
            now = self.clock()
            store = Store(connection)
            model = store.lock_model(contract.name, now)
            champion = _champion(model)
            request, rollout = _open(connection, contract)
            if to in (None, champion) and request is not None and rollout is not None:
                deciding.roll_back(connection, model, request, rollout, None, said, published, now)
            else:
                target = store.champion_before(contract.name, champion) if to is None else to
                if target == champion:
                    raise Refused(f"version {champion} of model {contract.name!r} serves already")
                if target is None:
                    raise Refused(
                        f"version {champion} of model {contract.name!r} serves, and nothing served before it that was "
                        "not rolled back: name a version"
                    )
                _check_served(store, contract, target)
                _end(connection, request, rollout, said, now)
                crown(connection, model, target, published, said, now, rolled_back=True)
            served = _served(store, contract)
        self.published()
        return served

    def republish(self, contract: Contract, by: str, reason: str) -> Served:
        """Publish what the database says shall serve, where the topic holds later states. Raises Refused.

        A database that was restored from a backup does not know what was decided since: its state, with an open
        roll-out at its step, becomes the next one.
        """
        published = self.highest_revision(contract.name)
        said = _said(f"published anew by {by}", reason)
        with self.pool.connection() as connection:
            now = self.clock()
            store = Store(connection)
            model = store.lock_model(contract.name, now)
            champion = _champion(model)
            if published <= model.revision:
                raise Refused(
                    f"model {contract.name!r}: the database knows revision {model.revision}, and the topic holds no "
                    "later one: there is nothing to publish anew"
                )
            state = store.state(contract.name)
            challenger, weight = (state.canary.version, state.canary.weight) if state.canary else (state.shadow, 0.0)
            serve(connection, model, champion, published, said, now, challenger, weight)
            served = _served(store, contract)
        self.published()
        return served


def _said(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what


def _champion(model: Model) -> int:
    if model.champion is None:
        raise Refused(f"model {model.name!r} has no version yet: make one with `trainer train`")
    return model.champion


def _check_served(store: Store, contract: Contract, version: int) -> None:
    """Whether a version can be served: it exists, and its files are there."""
    try:
        store.artifact(contract.name, version)
    except LookupError as error:
        raise Unknown(str(error)) from error


def _open(connection: Connection, contract: Contract) -> tuple[Request | None, Rollout | None]:
    request = RequestStore(connection).current(contract.name, lock=True)
    return request, RolloutStore(connection).current().get(contract.name)


def _end(connection: Connection, request: Request | None, rollout: Rollout | None, reason: str, now: datetime) -> None:
    """Take back whatever is open; the caller decides what serves."""
    if rollout is not None:
        RolloutStore(connection).end(rollout.request_id, None, now)
    if request is not None:
        deciding.withdraw(connection, request, reason, now)


def _served(store: Store, contract: Contract) -> Served:
    model = store.model(contract.name)
    assert model is not None
    return Served(model.name, _champion(model), model.revision)
