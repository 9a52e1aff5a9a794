"""Those who are measured beside each other: each answers the same rows, over HTTP, to the same load."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from benchmarks.harness import alternate, say
from benchmarks.support import wrk

Decision = Callable[[Any], bool]


class Load(NamedTuple):
    """How every side is asked: over so many connections, for so long, and how often."""

    connections: int
    seconds: float
    rounds: int


@dataclass(frozen=True)
class Side:
    """Somebody who is asked: the URL, a file with a body a line, what of an answer is the decision, and a key.

    `answered` has one entry a measurement: how many requests were answered well.
    """

    name: str
    url: str
    bodies: Path
    decision: Decision
    headers: Mapping[str, str] = field(default_factory=dict)
    answered: list[int] = field(default_factory=list)

    def decisions(self) -> list[bool]:
        """What it answers to each body. Raises HTTPStatusError where that is an error."""
        headers = {"content-type": "application/json"} | dict(self.headers)
        with httpx.Client(headers=headers, timeout=30) as client:
            answers = [client.post(self.url, content=body) for body in self.bodies.read_bytes().splitlines()]
        self.answered.append(len(answers))
        return [self.decision(answer.raise_for_status().json()) for answer in answers]

    def measure(self, load: Load) -> wrk.Load:
        """One round. Raises LoadFailed."""
        found = wrk.load(self.url, self.bodies, load.connections, load.seconds, self.headers)
        self.answered.append(found.requests)
        return found


def beside(ours: Side, theirs: Side, load: Load) -> tuple[wrk.Load, wrk.Load]:
    """The medians of both, measured in turns; the first round is a warm-up and does not count. Raises LoadFailed."""
    loads: dict[str, list[wrk.Load]] = {ours.name: [], theirs.name: []}

    def turn(side: Side) -> float:
        loads[side.name].append(side.measure(load))
        return loads[side.name][-1].rate

    alternate(1 + load.rounds, lambda: turn(ours), lambda: turn(theirs))
    found = [wrk.median(each[1:]) for each in loads.values()]
    for name, one in zip(loads, found, strict=True):
        say(f"{name}: {one.rate:,.0f} requests/s, p50 {one.p50:.1f} ms, p99 {one.p99:.1f} ms")
    return found[0], found[1]
