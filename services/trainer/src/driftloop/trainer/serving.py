"""The next serving state: written in the transaction of the decision, published by the outbox."""

from collections.abc import Callable
from datetime import datetime

from psycopg import Connection

from driftloop.common.envelope import Outgoing
from driftloop.common.events import ArtifactRef, ModelUpdated, ServedVersion
from driftloop.common.kafka.reader import read_to_end
from driftloop.common.postgres.outbox import emit
from driftloop.common.topics import MODEL_UPDATES, Namespace
from driftloop.trainer.domain.card import ModelCard
from driftloop.trainer.store import Model, Store

# Compaction keeps a key's last record, so old revisions leave the topic only by a tombstone of their own.
KEPT_REVISIONS = 100

HighestRevision = Callable[[str], int]


def highest_published(bootstrap_servers: str, namespace: Namespace, client_id: str) -> HighestRevision:
    """A function that reads the topic: the highest revision that it holds of a model, 0 for none.

    A database that was restored from a backup may know fewer revisions than the topic, and replicas never go back.
    """

    def highest(model: str) -> int:
        records = read_to_end(bootstrap_servers, client_id, namespace.topic(MODEL_UPDATES))
        return max((revision_of(model, record.key) for record in records), default=0)

    return highest


def revision_of(model: str, key: bytes | None) -> int:
    """The revision in a key `model/revision`, 0 if the key is another model's or no such key."""
    prefix, _, number = (key or b"").rpartition(b"/")
    return int(number) if prefix == model.encode() and number.isdigit() and len(number) < 10 else 0


def promote(
    connection: Connection, model: Model, card: ModelCard, artifact: ArtifactRef, published: int, now: datetime
) -> ModelUpdated:
    """Make a version the champion: version, state and event commit with the caller's transaction.

    The caller holds the model's lock. `published` is the highest revision that the topic holds.
    """
    store = Store(connection)
    store.add_version(card, artifact, champion=True)
    state = ModelUpdated(
        model_name=model.name,
        revision=max(model.revision, published) + 1,
        decided_at=now,
        champion=card.model_version,
        versions=(ServedVersion(version=card.model_version, artifact=artifact),),
        reason=card.reason,
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
