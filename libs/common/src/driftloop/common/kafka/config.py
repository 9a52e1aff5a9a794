"""Client configuration: every default of librdkafka that loses data or time is set here, once."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from driftloop.common.logs import Sparing

# An answer waits for the ack; what is not acknowledged within this time has failed.
DELIVERY_TIMEOUT_MS = 4_000

# So many requests to a broker wait for their answers where order does not matter: with more, each carries less.
UNORDERED_REQUESTS = 3

# Where the clients' own messages go; they come out when a client is polled.
_client_logger = logging.getLogger("driftloop.librdkafka")
_client_logger.addFilter(Sparing(10))

ADMIN = {
    # Nobody polls it, so that its messages would pile up; what fails is told by what it returns.
    "log_level": 0,
    "reconnect.backoff.max.ms": 1_000,
    "allow.auto.create.topics": False,
}


@dataclass(frozen=True)
class Brokers:
    """Where brokers are, and what of librdkafka's configuration says how they are reached; its secrets are not shown.

    Functions that take brokers also take the addresses alone, of some that let anybody in.
    """

    bootstrap_servers: str
    client: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __str__(self) -> str:
        return self.bootstrap_servers


def reaching(brokers: Brokers | str) -> dict[str, Any]:
    """The part of a client's configuration by which it reaches brokers."""
    if isinstance(brokers, str):
        brokers = Brokers(brokers)
    return {"bootstrap.servers": brokers.bootstrap_servers, **brokers.client}


def producer_config(
    brokers: Brokers | str,
    client_id: str,
    delivery_timeout_ms: int = DELIVERY_TIMEOUT_MS,
    linger_ms: float = 1.0,
    ordered: bool = True,
) -> dict[str, Any]:
    """A producer that waits for every in-sync replica and gives up after `delivery_timeout_ms`.

    A record waits up to `linger_ms` for others that go the same way. Those of a partition keep their order, and the
    client's own retries repeat none, if they are to be `ordered`. If not, more of them are on their way at a time, for
    readers who know each by its number wherever it comes, and however often.
    """
    return reaching(brokers) | {
        "client.id": client_id,
        "logger": _client_logger,
        "acks": "all",
        # An idempotent client takes a request's success for that of all before it. A broker does take one whose
        # predecessor it has put off, where the partition does not know the producer. So it may have one on its way; a
        # client that is not idempotent goes by each request's own answer: docs/decisions/0031, 0035.
        "enable.idempotence": ordered,
        "max.in.flight.requests.per.connection": 1 if ordered else UNORDERED_REQUESTS,
        "linger.ms": linger_ms,
        "compression.type": "lz4",
        "message.timeout.ms": delivery_timeout_ms,
        "queue.buffering.max.messages": 100_000,
        "queue.buffering.max.kbytes": 64 * 1024,
        "message.max.bytes": 2 * 1_048_588,
        "allow.auto.create.topics": False,
        # A broker that comes back is found within a second, not after librdkafka's ten.
        "reconnect.backoff.max.ms": 1_000,
        "topic.metadata.refresh.interval.ms": 60_000,
    }


def consumer_config(brokers: Brokers | str, client_id: str, group: str) -> dict[str, Any]:
    """A consumer whose offsets live in Postgres: nothing is committed or reset on its own."""
    return reaching(brokers) | {
        "client.id": client_id,
        "logger": _client_logger,
        "group.id": group,
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 8_000,
        "heartbeat.interval.ms": 2_000,
        "max.poll.interval.ms": 300_000,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": False,
        "isolation.level": "read_committed",
        "fetch.wait.max.ms": 50,
        # Read ahead as much as a batch takes, and go on as soon as there is room: librdkafka would wait for a second.
        "queued.max.messages.kbytes": 8 * 1024,
        "fetch.queue.backoff.ms": 20,
        "allow.auto.create.topics": False,
        "reconnect.backoff.max.ms": 1_000,
    }


def reader_config(brokers: Brokers | str, client_id: str) -> dict[str, Any]:
    """A reader of a whole compacted topic: its partitions are assigned by hand, so its group never has members."""
    return consumer_config(brokers, client_id, f"{client_id}.reader") | {
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
    }


def admin_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """How an administrative client reaches the brokers of another client's configuration."""
    shared = ("bootstrap.servers", "client.id", "security.", "sasl.", "ssl.", "enable.ssl.")
    return ADMIN | {name: value for name, value in config.items() if name.startswith(shared)}
