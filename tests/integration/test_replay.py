"""`drift-monitor replay` on a real topic: what was counted is computed anew, and what was changed is found."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from confluent_kafka import Producer, TopicPartition

from driftloop.common.kafka.reader import read_ranges
from driftloop.drift_monitor.domain.fold.base import State
from tests.support.counting import Raw
from tests.support.waiting import wait_until
from tests.support.watched import WINDOW, Watched


@pytest.fixture
def three(watched: Watched) -> Watched:
    """A monitor that has closed three windows."""
    watched.serve()
    watched.produce(watched.records([one for second in range(3) for one in watched.made(second)]))
    watched.judge()
    return watched


def outcomes(document: dict[str, Any]) -> list[str]:
    return [one["outcome"] for one in document["windows"]]


def abort_transaction(watched: Watched, records: Sequence[Raw]) -> None:
    """Records that are in the log and never hold, and the marker that says so."""
    servers = watched.house.stack.bootstrap_servers
    producer = Producer({"bootstrap.servers": servers, "transactional.id": watched.topic})
    producer.init_transactions(15)
    producer.begin_transaction()
    for value, key, headers, partition in records:
        producer.produce(watched.topic, value, key, headers=list(headers), partition=partition or 0)
    producer.abort_transaction(15)


def test_windows_are_the_same_bit_for_bit_whatever_else_was_in_the_log(watched: Watched) -> None:
    watched.produce(watched.records([*watched.made(0), *watched.made(1, WINDOW // 2)]))
    in_vain = watched.records(watched.made(1, 30))
    watched.produce(in_vain)
    watched.expire(in_vain)
    watched.serve()
    watched.judge()
    abort_transaction(watched, watched.records(watched.made(1, 6)))
    again = watched.records(watched.made(2))
    others = [
        *watched.made(2, 20, variant="canary", model_version=3),
        *watched.made(2, 20, model_version=2),
        *watched.made(2, 20, model_name="another"),
    ]
    watched.produce([*again, (b"garbage", "g", (), 3), *in_vain, *watched.records(others), *again])
    late = [*watched.made(0, 10), *watched.made(1, 10)]
    watched.produce(watched.records([*late, *reversed(watched.made(3))]))
    watched.judge()
    watched.produce(watched.records(watched.made(3, 10)))
    status, document = watched.replay()
    assert (status, document["outcomes"]) == (0, {"equal": 3})
    assert [one["n"] for one in document["windows"]] == [WINDOW, WINDOW // 2 + 10 + WINDOW, WINDOW]


def test_a_changed_count_is_found_and_named(three: Watched) -> None:
    ((data,),) = three.rows("SELECT state FROM windows WHERE number = 2")
    state = State.from_bytes(data)
    counts = state.counts.copy()
    cell = int(np.flatnonzero(counts)[0])
    counts[cell] += 1
    three.change("UPDATE windows SET state = %s WHERE number = 2", replace(state, counts=counts).to_bytes())
    status, document = three.replay()
    assert (status, outcomes(document)) == (1, ["equal", "different", "equal"])
    assert document["windows"][1]["difference"] == {
        "what": "cells:income", "cell": cell, "stored": int(counts[cell]), "replayed": int(counts[cell]) - 1,
    }  # fmt: skip


def test_damaged_counts_are_a_difference_of_their_window_alone(three: Watched) -> None:
    three.change("UPDATE windows SET state = %s WHERE number = 2", b"damaged")
    status, document = three.replay()
    assert (status, outcomes(document)) == (1, ["equal", "different", "equal"])
    assert document["windows"][1]["difference"]["what"] == "the stored counts"


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("{features,0,psi}", "0.5", "features[income].psi"),
        ("{features,1,severity}", '"CRITICAL"', "features[employment].severity"),
    ],
)
def test_a_changed_figure_is_found_and_named(three: Watched, path: str, value: str, what: str) -> None:
    three.change("UPDATE windows SET result = jsonb_set(result, %s, %s) WHERE number = 3", path, value)
    status, document = three.replay()
    assert (status, outcomes(document)) == (1, ["equal", "equal", "different"])
    assert document["windows"][2]["difference"]["what"] == what


def test_a_window_whose_records_were_deleted_is_not_reproducible_and_the_others_are(three: Watched) -> None:
    ((bounds_,),) = three.rows("SELECT offsets FROM windows WHERE number = 1")
    first = bounds_["0"][0]
    three.house.admin.delete_records([TopicPartition(three.topic, 0, first + 1)])
    wait_until(lambda: three.bounds()[0][0] > first, "the record is deleted")
    status, document = three.replay()
    assert (status, outcomes(document)) == (3, ["not reproducible", "equal", "equal"])
    assert document["windows"][0]["reason"] == (
        f"partition 0 begins at offset {first + 1} by now, the window at {first}: beyond retention"
    )


def test_a_topic_that_was_made_anew_is_not_what_was_counted(three: Watched) -> None:
    three.change("UPDATE windows SET topic_id = 'another' WHERE number < 3")
    status, document = three.replay()
    assert (status, outcomes(document)) == (3, ["not reproducible", "not reproducible", "equal"])


def test_a_part_of_the_windows_is_replayed_without_those_before(three: Watched) -> None:
    # From the second one on: what alarms were before is not known then.
    three.change("UPDATE windows SET result = jsonb_set(result, '{features,1,severity}', '\"CRITICAL\"')")
    status, document = three.replay("--from", "2026-03-01T13:00:01+01:00", "--to", "2026-03-01T12:00:02Z")
    assert (status, [one["number"] for one in document["windows"]]) == (0, [2])


def test_ranges_end_where_they_are_told_to_and_at_markers(watched: Watched) -> None:
    watched.produce([(b"garbage", "g", (), 0)] * 3)
    abort_transaction(watched, [(b"never", None, (), 0)] * 2)
    servers = watched.house.stack.bootstrap_servers
    for end in (2, 6):
        found = [one.offset for some in read_ranges(servers, "tests", watched.topic, {0: (1, end)}) for one in some]
        assert found == list(range(1, min(end, 3)))
