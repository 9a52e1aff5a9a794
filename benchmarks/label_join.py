"""From an outcome on its topic to the label on `labeled-predictions`: how many in a second, and how late?

The service runs as it is installed, one replica. Outcomes are plain JSON, as a laboratory produces them, each with its
result's id and version and the time of its specimen; they name stored predictions in random order. A bare consumer in a
process of its own reads the labels. For the rate all outcomes are in the log before the first is handled. For the delay
they come evenly, at half of the rate that is asked for: it is measured from the laboratory's call of `produce`.

Nothing that joins durably compares. The peer of the rate is therefore a bound: the same outcomes through a process that
only reads, parses, sends on and flushes each batch, to the same topic and the same reader.
"""

import random
import statistics
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.harness import Figure, conditions, record, say
from benchmarks.support.labelled import Arrivals, rate, reader
from benchmarks.support.labels import LabelIngest, Laboratory, installed, outcomes, predictions
from benchmarks.support.relay import BATCH, relaying
from driftloop.common.topics import LABELED_PREDICTIONS, OUTCOMES

EVENTS, ROUNDS = 50_000, 3
RATE, P99_SECONDS = 5_000, 1.0
PACED_SECONDS = 30


def main() -> None:
    """Store the predictions; label some of them as fast as it goes, the others at an even pace."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    paced = RATE // 2 * PACED_SECONDS
    with installed() as ingest:
        ingest.process.start()
        ingest.process.wait_ready()
        made = list(predictions(ROUNDS * events + paced))
        say(f"{len(made):,} predictions are stored")
        ingest.store(made)
        ids = [one.prediction_id for one in made]
        random.Random(0).shuffle(ids)
        say(f"{ROUNDS} rounds of {events:,} outcomes, and the peer's of the same")
        rounds = [_round(ingest, ids[start : start + events]) for start in range(0, ROUNDS * events, events)]
        say(f"{paced:,} outcomes, {RATE // 2:,} a second")
        delays = _delays(ingest, ids[ROUNDS * events :])
    _record_rate(rounds, events)
    _record_delays(delays)


class Round(NamedTuple):
    """Labels/s of ours and of the relay, and how many µs a label kept the service's process busy."""

    ours: float
    theirs: float
    busy: float


def _round(ingest: LabelIngest, ids: Sequence[str]) -> Round:
    servers, target = ingest.bootstrap_servers, ingest.topic_name(LABELED_PREDICTIONS)
    starts = ingest.ends(OUTCOMES)
    with reader(servers, target, len(ids)) as arrivals:
        before = ingest.cpu_seconds()
        with ingest.held(OUTCOMES):
            ingest.report(outcomes(ids))
        ours = rate(arrivals())
        busy = 1e6 * (ingest.cpu_seconds() - before) / len(ids)
    ingest.wait_until(lambda: ingest.number("SELECT count(*) FROM outbox") == 0)
    with (
        reader(servers, target, len(ids)) as arrivals,
        relaying(servers, ingest.topic_name(OUTCOMES), target, starts),
    ):
        theirs = rate(arrivals())
    say(f"{ours:,.0f} labels/s, {busy:.0f} µs of the processor each; relayed {theirs:,.0f}/s")
    return Round(ours, theirs, busy)


def _delays(ingest: LabelIngest, ids: Sequence[str]) -> list[float]:
    """Seconds from each outcome's produce call to its label's arrival, sorted."""
    with reader(ingest.bootstrap_servers, ingest.topic_name(LABELED_PREDICTIONS), len(ids)) as arrivals:
        sent = _send_evenly(ingest, ids)
        came = arrivals()
    return sorted(came[id_] - at for id_, at in sent.items())


def _send_evenly(ingest: LabelIngest, ids: Sequence[str]) -> Arrivals:
    """Produce an outcome every 1 / (RATE / 2) s; when each was, by the prediction's id."""
    ready, laboratory, sent = outcomes(ids), Laboratory(ingest), Arrivals()
    start = time.monotonic()
    for number, outcome in enumerate(ready):
        early = start + number / (RATE // 2) - time.monotonic()
        if early > 0:
            time.sleep(early)
        sent[outcome[0]] = time.monotonic()
        laboratory.send(outcome)
    laboratory.finish()
    return sent


def _record_rate(rounds: Sequence[Round], events: int) -> None:
    ours, theirs, busy = (statistics.median(side) for side in zip(*rounds, strict=True))
    record(
        Figure(
            figure="outcomes joined end to end, labels/s as a consumer reads them",
            ours=ours,
            peer=theirs,
            ratio=ours / theirs,
            target=f">= {RATE:,}",
            met=ours >= RATE,
            conditions=conditions(
                "confluent-kafka", "msgspec", "psycopg",
                events=events, partitions=OUTCOMES.partitions, replicas=1, rounds=ROUNDS,
                stored=ROUNDS * events + RATE // 2 * PACED_SECONDS, process_us=busy,
                peer=f"a bound: consume, json.loads, produce, flush each {BATCH}; no database, no join",
                statistic="median of labels/s from the first to the last; fsync on",
            ),
        )
    )  # fmt: skip


def _record_delays(delays: Sequence[float]) -> None:
    p50, p99 = (delays[int(share * len(delays))] for share in (0.50, 0.99))
    record(
        Figure(
            figure=f"from an outcome to its label as a consumer reads it, p99 in s at {RATE // 2:,}/s",
            ours=p99,
            target=f"<= {P99_SECONDS:g}",
            met=p99 <= P99_SECONDS,
            conditions=conditions(
                "confluent-kafka", "msgspec", "psycopg",
                events=len(delays), seconds=PACED_SECONDS, replicas=1, p50=p50, slowest=delays[-1],
            ),
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
