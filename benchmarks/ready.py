"""How long does a predictor take from its start until it is ready, with 10,000 revisions in `model-updates`?

Of these only the last one's artifact is there: the others must not be asked for.
"""

import statistics
import sys
import time

from benchmarks.harness import Figure, conditions, record, say
from benchmarks.support.predictors import Serving, installed, predictor
from benchmarks.support.states import absent, first_state, publishing, state
from driftloop.common.kafka.reader import read_to_end
from driftloop.common.topics import MODEL_UPDATES
from driftloop.demo.installation import Installation
from driftloop.devstack.processes import ProcessFailed

REVISIONS, STARTS = 10_000, 3
WITHIN_SECONDS, TIMEOUT_SECONDS = 5.0, 60.0
LOOK_SECONDS = 0.01


def main() -> None:
    """Starts, one after the other; the first does not count, because it reads its files from the disk."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else REVISIONS
    with installed() as installation:
        _publish(installation, count)
        kept = len(read_to_end(installation.stack.bootstrap_servers, "bench", _topic(installation)))
        if kept != count:
            raise RuntimeError(f"{_topic(installation)!r} has {kept:,} revisions, not {count:,}")
        took = [_start(installation, count) for _ in range(1 + STARTS)][1:]
    middle = statistics.median(took)
    record(
        Figure(
            figure=f"s from process start to ready with {count:,} revisions in model-updates",
            ours=middle,
            target=f"<= {WITHIN_SECONDS:g}",
            met=middle <= WITHIN_SECONDS,
            conditions=conditions(
                "onnxruntime",
                "confluent-kafka",
                starts=f"median of {STARTS} after one that is no part of it",
                seconds=", ".join(f"{one:.2f}" for one in took),
                looks=f"/readyz each {LOOK_SECONDS:g} s",
                trees=100,
                shares="all cores are shared with the broker",
            ),
        )
    )


def _topic(installation: Installation) -> str:
    return installation.namespace.topic(MODEL_UPDATES)


def _publish(installation: Installation, count: int) -> None:
    """Fill the topic up to so many revisions; the last one has version 1 serve again."""
    first = first_state(installation)
    with publishing(installation) as states:
        states.publish(state(number, absent(installation, number)) for number in range(first.revision + 1, count))
        states.publish([state(count, first.versions[0])])


def _start(installation: Installation, newest: int) -> float:
    """One start; gives its seconds. Raises ProcessFailed, also where another revision than the newest serves."""
    name = installation.predictors[0]
    process = predictor(installation, name)
    begun = time.perf_counter()
    process.start()
    try:
        while process.problem() is not None:
            if process.returncode is not None or time.perf_counter() - begun > TIMEOUT_SECONDS:
                raise ProcessFailed(f"{name} is not ready: {process.problem()}\n{process.tail()}")
            time.sleep(LOOK_SECONDS)
        took = time.perf_counter() - begun
        revision = Serving(installation, process, installation.ports[name].url, {}).metric("driftloop_model_revision")
        if revision != newest:
            raise ProcessFailed(f"{name} is ready with revision {revision:g}, the newest is {newest}")
    finally:
        process.terminate()
    say(f"ready after {took:.2f} s")
    return took


if __name__ == "__main__":
    main()
