"""A million outcomes through one label-ingest: does its memory stay as it was?

A block at a time is put on the topic while the service is held, then joined at its full speed. Six in ten outcomes name
predictions that are stored; the others are parked, which must take room in the database and not in the process.
"""

import random
import sys
from collections.abc import Sequence

import psutil

from benchmarks.harness import Figure, conditions, record, say
from benchmarks.support.labels import LabelIngest, installed, outcomes, predictions
from driftloop.common.topics import OUTCOMES
from driftloop.predictor.domain.identity import new_prediction_ids

EVENTS, BLOCKS = 1_000_000, 10
STORED_TENTHS = 6
GROWTH = 5.0


def main() -> None:
    """Ten blocks; memory after each."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with installed() as ingest:
        ingest.process.start()
        ingest.process.wait_ready()
        ids = _ids(ingest, events)
        size = events // BLOCKS
        megabytes = [_block(ingest, ids[start : start + size]) for start in range(0, size * BLOCKS, size)]
        labelled = ingest.number("SELECT count(*) FROM labels")
        waiting = ingest.number("SELECT count(*) FROM results WHERE NOT matched")
    if labelled + waiting != size * BLOCKS:
        raise RuntimeError(f"{labelled:,} labels and {waiting:,} parked outcomes are not {size * BLOCKS:,}")
    growth = 100 * (megabytes[-1] / megabytes[0] - 1)
    record(
        Figure(
            figure=f"label-ingest's RSS growth from {size:,} to {size * BLOCKS:,} outcomes, %",
            ours=growth,
            target=f"<= {GROWTH:g}",
            met=growth <= GROWTH,
            conditions=conditions(
                "confluent-kafka", "msgspec", "psycopg",
                events=size * BLOCKS, labelled=labelled, parked=waiting, first_mb=megabytes[0],
                last_mb=megabytes[-1], most_mb=max(megabytes),
            ),
        )
    )  # fmt: skip


def _ids(ingest: LabelIngest, events: int) -> list[str]:
    """Ids that outcomes will name, in random order; the predictions of some are stored."""
    made = list(predictions(events * STORED_TENTHS // 10))
    say(f"{len(made):,} predictions are stored")
    ingest.store(made)
    ids = [one.prediction_id for one in made]
    ids += new_prediction_ids(made[-1].predicted_at, events - len(ids))
    random.Random(0).shuffle(ids)
    return ids


def _block(ingest: LabelIngest, ids: Sequence[str]) -> float:
    """The process's resident megabytes after these outcomes, once all labels are published."""
    before = ingest.committed(OUTCOMES)
    with ingest.held(OUTCOMES):
        ingest.report(outcomes(ids))
    ingest.wait_until(lambda: ingest.committed(OUTCOMES) == before + len(ids))
    ingest.wait_until(lambda: ingest.number("SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT 1) AS one") == 0)
    megabytes = float(psutil.Process(ingest.process.pid).memory_info().rss / 2**20)
    say(f"{before + len(ids):,} outcomes: {megabytes:.0f} MB")
    return megabytes


if __name__ == "__main__":
    main()
