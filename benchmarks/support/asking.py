"""A client in a process of its own that looks at each answer: connections that ask without a pause, until the end."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import uvloop

REVISION = re.compile(rb"^x-driftloop-revision: (\d+)\r$", re.MULTILINE)
LENGTH = re.compile(rb"^content-length: (\d+)\r$", re.MULTILINE)
OK = b"HTTP/1.1 200 "
PAUSE_SECONDS = 0.01
STOP_SECONDS = 60.0


class Seen(msgspec.Struct, frozen=True):
    """What all connections have seen. Latencies are in ms.

    `failed` were answered otherwise than by 200, or not at all; `fell`, by an older revision than one that the same
    replica had answered by, over whichever connection, before the request was sent.
    """

    requests: int
    failed: int
    fell: int
    revisions: int
    seconds: float
    p50: float
    p99: float
    slowest: float


@dataclass
class Asking:
    """A client that runs; `seen` is there once it has ended."""

    seen: Seen | None = None


@contextmanager
def asking(urls: list[str], bodies: Path, connections: int, headers: Mapping[str, str]) -> Iterator[Asking]:
    """Ask for the time of a block, each connection one URL. Raises RuntimeError where the client itself fails."""
    command = [sys.executable, "-m", "benchmarks.support.asking"]
    task = json.dumps([urls, str(bodies), connections, dict(headers)])
    process = subprocess.Popen([*command, task], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    found = Asking()
    try:
        yield found
        # The end of its input is the end of its work.
        said, _ = process.communicate(timeout=STOP_SECONDS)
        if process.returncode:
            raise RuntimeError(f"the client ended with status {process.returncode}")
        found.seen = msgspec.json.decode(said, type=Seen)
    finally:
        process.kill()
        process.wait()


# --- the process


@dataclass
class _Tally:
    failed: int = 0
    fell: int = 0
    # By URL.
    newest: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    milliseconds: list[float] = field(default_factory=list)
    revisions: set[int] = field(default_factory=set)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


async def _ask(urls: list[str], bodies: str, connections: int, headers: Mapping[str, str]) -> Seen:
    tally, lines = _Tally(), Path(bodies).read_bytes().splitlines()
    begun = time.perf_counter()
    tasks = []
    for number in range(connections):
        url = urls[number % len(urls)]
        # Each begins elsewhere, so that at no time all ask the same.
        place = number * len(lines) // connections
        asked = [_request(url, line, headers) for line in lines[place:] + lines[:place]]
        tasks.append(asyncio.create_task(_connection(url, asked, tally)))
    await asyncio.to_thread(sys.stdin.read)
    tally.stopping.set()
    await asyncio.gather(*tasks)
    p50, p99, slowest = np.quantile(tally.milliseconds, [0.5, 0.99, 1])
    requests = len(tally.milliseconds) + tally.failed
    seconds = time.perf_counter() - begun
    return Seen(
        requests, tally.failed, tally.fell, len(tally.revisions), seconds, float(p50), float(p99), float(slowest)
    )


async def _connection(url: str, requests: list[bytes], tally: _Tally) -> None:
    """Ask over one connection; where it breaks, that is a failure, and a new one goes on."""
    endless = cycle(requests)
    while not tally.stopping.is_set():
        try:
            reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
            while not tally.stopping.is_set():
                before = tally.newest[url]
                revision = await _once(reader, writer, next(endless), tally)
                tally.fell += revision < before
                tally.newest[url] = max(tally.newest[url], revision)
            writer.close()
        except (OSError, asyncio.IncompleteReadError):
            tally.failed += 1
            await asyncio.sleep(PAUSE_SECONDS)


async def _once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, tally: _Tally) -> int:
    """One request; gives the revision that answered. Raises OSError where it was not answered by 200."""
    start = time.perf_counter()
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length, revision = LENGTH.search(head), REVISION.search(head)
    await reader.readexactly(int(length[1]) if length else 0)
    took = time.perf_counter() - start
    if not head.startswith(OK) or revision is None:
        raise OSError(f"answered {head.splitlines()[0]!r}")
    tally.milliseconds.append(1000 * took)
    tally.revisions.add(int(revision[1]))
    return int(revision[1])


def _request(url: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    parts = urlsplit(url)
    lines = [f"POST {parts.path} HTTP/1.1", f"host: {parts.netloc}", "content-type: application/json"]
    lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode() + body


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(msgspec.json.encode(runner.run(_ask(*json.loads(sys.argv[1])))).decode())
