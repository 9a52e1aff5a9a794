"""Client configuration: every default of librdkafka that loses data or time is set here, once."""

from typing import Any

# An answer waits for the ack; what is not acknowledged within this time has failed.
DELIVERY_TIMEOUT_MS = 4_000


def producer_config(
    bootstrap_servers: str, client_id: str, delivery_timeout_ms: int = DELIVERY_TIMEOUT_MS
) -> dict[str, Any]:
    """An idempotent producer that waits for every in-sync replica and gives up after `delivery_timeout_ms`."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "client.id": client_id,
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 1,
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


def consumer_config(bootstrap_servers: str, client_id: str, group: str) -> dict[str, Any]:
    """A consumer whose offsets live in Postgres: nothing is committed or reset on its own."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "client.id": client_id,
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
        "queued.max.messages.kbytes": 32 * 1024,
        "allow.auto.create.topics": False,
        "reconnect.backoff.max.ms": 1_000,
    }


def reader_config(bootstrap_servers: str, client_id: str) -> dict[str, Any]:
    """A reader of a whole compacted topic: its partitions are assigned by hand, so its group never has members."""
    return consumer_config(bootstrap_servers, client_id, f"{client_id}.reader") | {
        "auto.offset.reset": "earliest",
        "enable.partition.eof": True,
    }


def admin_config(bootstrap_servers: str, client_id: str) -> dict[str, Any]:
    """An administrative client."""
    return {
        "bootstrap.servers": bootstrap_servers,
        "client.id": client_id,
        "reconnect.backoff.max.ms": 1_000,
        "allow.auto.create.topics": False,
    }
