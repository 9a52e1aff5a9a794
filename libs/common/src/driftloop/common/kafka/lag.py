"""How far a consumer is behind the ends of its topics: the brokers are asked now and then, and never waited for."""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future

from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient, ListOffsetsResultInfo, OffsetSpec

from driftloop.common import metrics

TIMEOUT_SECONDS = 15.0

# Partition → the offset that is committed as next.
Positions = Mapping[tuple[str, int], int]


class LagWatch:
    """Shows the lag of the partitions that a consumer holds, also while it reads none of them.

    What the client itself knows of the ends comes with what it fetches, and a consumer that pauses fetches nothing.
    """

    def __init__(self, admin: AdminClient, group: str, topics: Iterable[str], every_seconds: float) -> None:
        self._admin = admin
        self._group = group
        self._topics = tuple(topics)
        self._every = every_seconds
        self._due = 0.0
        self._asked: dict[TopicPartition, Future[ListOffsetsResultInfo]] = {}

    def look(self, positions: Positions) -> None:
        """Show what the brokers have answered, and ask again when it is time."""
        if self._asked:
            if all(answer.done() for answer in self._asked.values()):
                answers, self._asked = self._asked, {}
                self._show(positions, answers)
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + self._every
            if not positions:
                self._show(positions, {})
                return
            latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]
            self._asked = self._admin.list_offsets(
                {TopicPartition(*place): latest for place in positions},
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=TIMEOUT_SECONDS,
            )

    def clear(self) -> None:
        """Take all down: nobody knows it now."""
        for topic in self._topics:
            metrics.CONSUMER_LAG.remove(self._group, topic)

    def _show(self, positions: Positions, answers: Mapping[TopicPartition, Future[ListOffsetsResultInfo]]) -> None:
        if any(answer.exception() is not None for answer in answers.values()):
            self.clear()
            return
        ends = {(one.topic, one.partition): answer.result().offset for one, answer in answers.items()}
        if ends.keys() != positions.keys():
            # The group has shared them out anew since: a part would look like all.
            self._due = 0.0
            return
        lag = dict.fromkeys(self._topics, 0)
        for place, end in ends.items():
            # What was committed since the answer came may be ahead of it.
            lag[place[0]] += max(0, end - positions[place])
        for topic, records in lag.items():
            metrics.CONSUMER_LAG.labels(self._group, topic).set(records)
