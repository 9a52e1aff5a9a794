"""A real Apache Kafka and a real PostgreSQL on this machine, with or without Docker."""

from driftloop.devstack.model import Kind, Progress, Stack, StackUnavailable
from driftloop.devstack.stack import (
    find,
    kill_kafka,
    kill_postgres,
    restart_kafka,
    restart_postgres,
    running,
    start,
    status,
    stop,
)

__all__ = [
    "Kind",
    "Progress",
    "Stack",
    "StackUnavailable",
    "find",
    "kill_kafka",
    "kill_postgres",
    "restart_kafka",
    "restart_postgres",
    "running",
    "start",
    "status",
    "stop",
]
