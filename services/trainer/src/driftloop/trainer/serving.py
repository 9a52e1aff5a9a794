"""The next serving state: written in the transaction of the decision, published by the outbox."""

from collections.abc import Callable, Mapping
from datetime import datetime

from psycopg import Connection

from driftloop.common.envelope import Outgoing
from driftloop.common.events import Canary, ModelUpdated, ServedVersion
from driftloop.common.kafka.config import Brokers
from driftloop.common.kafka.reader import read_to_end
from driftloop.common.postgres.outbox import emit
from driftloop.common.topics import MODEL_UPDATES, Namespace
from driftloop.trainer.store import Model, Store
from driftloop.trainer.tracking_store import RunFacts, remember

# Compaction keeps a key's last record, so old revisions leave the topic only by a tombstone of their own.
KEPT_REVISIONS = 100

HighestRevision = Callable[[str], int]


def highest_published(brokers: Brokers | str, namespace: Namespace, client_id: str) -> HighestRevision:
    """A function that reads the topic: the highest revision that it holds of a model, 0 for none.

    A database that was restored from a backup may know fewer revisions than the topic, and replicas never go back.
    """

    def highest(model: str) -> int:
        records = read_to_end(brokers, client_id, namespace.topic(MODEL_UPDATES))
        return max((revision_of(model, record.key) for record in records), default=0)

    return highest


def revision_of(model: str, key: bytes | None) -> int:
    """The revision in a key `model/revision`, 0 if the key is another model's or no such key."""
    prefix, _, number = (key or b"").rpartition(b"/")
    return int(number) if prefix == model.encode() and number.isdigit() and len(number) < 10 else 0


def crown(
    connection: Connection,
    model: Model,
    version: int,
    published: int,
    reason: str,
    now: datetime,
    *,
    request: int | None = None,
    figures: Mapping[str, float] | None = None,
    rolled_back: bool = False,
) -> ModelUpdated:
    """Make a version that is on record the champion; see `serve`. `rolled_back`: the one before was no good.

    `figures` are told to experiment trackers.
    """
    Store(connection).set_champion(model.name, version, "rolled-back" if rolled_back else "retired")
    # What was said of the rows of the one before, nobody takes back any more.
    Store(connection).set_blocked(model.name, None)
    if rolled_back and model.champion is not None:
        facts = RunFacts(model.name, model.champion, "rolled-back", version, request=request)
    else:
        facts = RunFacts(model.name, version, "promoted", version, request=request, metrics=figures or {})
    remember(connection, facts, now)
    return serve(connection, model, version, published, reason, now)


def serve(
    connection: Connection,
    model: Model,
    champion: int,
    published: int,
    reason: str,
    now: datetime,
    challenger: int | None = None,
    weight: float = 0.0,
) -> ModelUpdated:
    """Decide what shall be served: state and event commit with the caller's transaction, under the next revision.

    The caller holds the model's lock. `published` is the highest revision that the topic holds. The challenger answers
    `weight` of the requests; where it answers none it is only heard, as the shadow.
    """
    store = Store(connection)
    on_trial = () if challenger is None else (challenger,)
    state = ModelUpdated(
        model_name=model.name,
        revision=max(model.revision, published) + 1,
        decided_at=now,
        champion=champion,
        canary=Canary(version=challenger, weight=weight) if challenger is not None and weight > 0 else None,
        shadow=challenger if weight == 0 else None,
        versions=tuple(
            ServedVersion(version=version, artifact=store.artifact(model.name, version))
            for version in (champion, *on_trial)
        ),
        reason=reason,
    )
    store.set_state(state)
    emit(connection, _events(state))
    return state


def _events(state: ModelUpdated) -> list[Outgoing]:
    def record(revision: int, event: ModelUpdated | None) -> Outgoing:
        key = f"{state.model_name}/{revision}"
        kind = "model-updated" if event else "model-update-tombstone"
        return Outgoing(MODEL_UPDATES.name, key, event, f"{kind}:{key}", state.decided_at)

    events = [record(state.revision, state)]
    if state.revision > KEPT_REVISIONS:
        events.append(record(state.revision - KEPT_REVISIONS, None))
    return events
