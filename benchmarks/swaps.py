"""500 swaps between two models under load, on two replicas. Is a request lost, does an older revision answer, how long
does a swap take, what does it cost the requests meanwhile, and does memory grow?
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks.harness import Figure, Value, conditions, record, say
from benchmarks.serving import write
from benchmarks.support.asking import Asking, Seen, asking
from benchmarks.support.predictors import Serving, complete_rows, installed, serving
from benchmarks.support.states import Replicas, first_state, publishing, register, state
from driftloop.demo.installation import Installation

SWAPS, REPLICAS, CONNECTIONS = 500, 2, 8
# Before the swaps, and again after them.
QUIET_SECONDS = 20.0
# After so many swaps memory must not grow any more.
SETTLED = 50
WITHIN_SECONDS, TIMES_P99, GROWTH = 5.0, 2.0, 5.0


@dataclass
class Swaps:
    """How long each swap took, in s, and each replica's resident bytes after `SETTLED` of them and after all."""

    seconds: list[float] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    last: list[int] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """Of the replica that has grown most, in %."""
        return max(100 * (after / before - 1) for before, after in zip(self.settled, self.last, strict=True))


def main() -> None:
    """Quiet, swapping, quiet again, under the same load."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else SWAPS
    with installed(REPLICAS) as installation, tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        replicas = [stack.enter_context(serving(installation, one)) for one in installation.predictors]
        bodies = write(Path(name) / "bodies", complete_rows(), dict)
        before = _quiet(replicas, bodies)
        swaps = Swaps()
        with _load(replicas, bodies) as client:
            _swap(installation, replicas, count, swaps)
        during, after = client.seen, _quiet(replicas, bodies)
        assert during is not None
        spooled = sum(one.metric("driftloop_inferences_spooled_total") for one in replicas)
    sizes = conditions(
        "onnxruntime", "confluent-kafka", "uvloop", swaps=count, replicas=REPLICAS, connections=CONNECTIONS, trees=100,
        client="one process that asks over keep-alive connections without a pause, each connection one replica",
        pace="the next revision as soon as both replicas report the last one on model-status",
        shares="all cores are shared: the client, the broker, both replicas and whoever publishes",
        requests=during.requests, spooled=spooled, rate=during.requests / during.seconds,
        rate_quiet=(before.requests + after.requests) / (before.seconds + after.seconds),
        access="an API key",
    )  # fmt: skip
    _report(swaps, during, [before, after], sizes)


def _load(replicas: Sequence[Serving], bodies: Path) -> AbstractContextManager[Asking]:
    return asking([f"{one.url}/predict" for one in replicas], bodies, CONNECTIONS, replicas[0].headers)


def _quiet(replicas: Sequence[Serving], bodies: Path) -> Seen:
    with _load(replicas, bodies) as client:
        time.sleep(QUIET_SECONDS)
    assert client.seen is not None
    say(_said("quiet", client.seen))
    return client.seen


def _swap(installation: Installation, replicas: Sequence[Serving], count: int, swaps: Swaps) -> None:
    """Publish revisions of the one version and the other, each once both replicas serve the one before it."""
    first = first_state(installation)
    versions = [register(installation, 2), *first.versions]
    statuses = Replicas(installation, installation.predictors)
    with publishing(installation) as states:
        for number in range(count):
            start = time.perf_counter()
            states.publish([state(first.revision + 1 + number, versions[number % len(versions)])])
            statuses.wait(first.revision + 1 + number)
            swaps.seconds.append(time.perf_counter() - start)
            if number + 1 == min(SETTLED, count):
                swaps.settled = [_resident(one) for one in replicas]
    statuses.close()
    swaps.last = [_resident(one) for one in replicas]


def _resident(replica: Serving) -> int:
    return int(psutil.Process(replica.process.pid).memory_info().rss)


def _report(swaps: Swaps, during: Seen, quiet: Sequence[Seen], sizes: dict[str, Value]) -> None:
    say(_said("swapping", during))
    lost = f"requests that failed in {len(swaps.seconds)} swaps under load"
    record(Figure(figure=lost, ours=during.failed, target="0", met=during.failed == 0, conditions=sizes))
    older = "answers by an older revision than their replica had answered by before"
    seen = {"revisions_seen": during.revisions}
    record(Figure(figure=older, ours=during.fell, target="0", met=during.fell == 0, conditions=sizes | seen))
    p50, p99, slowest = (float(value) for value in np.quantile(swaps.seconds, [0.5, 0.99, 1]))
    record(
        Figure(
            figure="slowest swap, s, from publishing a revision until every replica says that it serves it",
            ours=slowest,
            target=f"<= {WITHIN_SECONDS:g}",
            met=slowest <= WITHIN_SECONDS,
            conditions=sizes | {"p50_s": p50, "p99_s": p99},
        )
    )
    still = sum(one.p99 for one in quiet) / len(quiet)
    record(
        Figure(
            figure="p99 while models are swapped without a pause, ms, against that of quiet times before and after",
            ours=during.p99,
            peer=still,
            ratio=during.p99 / still,
            target=f"<= {TIMES_P99:g} x",
            met=during.p99 <= TIMES_P99 * still,
            conditions=sizes | {f"quiet_p99_ms_{place}": one.p99 for place, one in enumerate(quiet)},
        )
    )
    record(
        Figure(
            figure=f"RSS growth of the worse replica from swap {min(SETTLED, len(swaps.seconds))} to the last, %",
            ours=swaps.growth,
            target=f"<= {GROWTH:g}",
            met=swaps.growth <= GROWTH,
            conditions=sizes | {"settled_mb": _megabytes(swaps.settled), "last_mb": _megabytes(swaps.last)},
        )
    )


def _megabytes(resident: Sequence[int]) -> str:
    return ", ".join(f"{one / 2**20:.1f}" for one in resident)


def _said(when: str, seen: Seen) -> str:
    rate = seen.requests / seen.seconds
    return f"{when}: {rate:,.0f} requests/s, p50 {seen.p50:.1f} ms, p99 {seen.p99:.1f} ms, {seen.failed} failed"


if __name__ == "__main__":
    main()
