"""wrk, which asks over some connections without a pause, and what it counted."""

import json
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SCRIPT = Path(__file__).parent / "post.lua"
TIMEOUT_SECONDS = 10


class LoadFailed(RuntimeError):
    """wrk is not there, or something was not answered as it must be."""


class Load(NamedTuple):
    """Requests/s, latencies in ms, and how many requests there were."""

    rate: float
    p50: float
    p99: float
    slowest: float
    requests: int


def load(url: str, bodies: Path, connections: int, seconds: float, headers: Mapping[str, str]) -> Load:
    """POST the lines of a file in turn for a time. Raises LoadFailed, also where one answer was an error."""
    command = [_wrk(), *arguments(connections, seconds).split(), "--script", str(SCRIPT), url, "--", str(bodies)]
    command += [part for header in headers.items() for part in header]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadFailed(f"{' '.join(command[:-1])}: {done.stderr.strip() or done.stdout.strip()}")
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise LoadFailed(f"wrk counted nothing, so its script did not run: {done.stderr.strip()}") from error
    if said["refused"] or said["broken"] or not said["requests"]:
        raise LoadFailed(
            f"{url}: of {said['requests']} requests {said['refused']} were refused and {said['broken']} broke"
        )
    rate = said["requests"] / said["microseconds"] * 1e6
    return Load(rate, said["p50"] / 1000, said["p99"] / 1000, said["max"] / 1000, said["requests"])


def median(loads: Sequence[Load]) -> Load:
    """Each figure's median; of the requests, the sum."""
    rate, p50, p99, slowest = (statistics.median(column) for column in list(zip(*loads, strict=True))[:4])
    return Load(rate, p50, p99, slowest, sum(one.requests for one in loads))


def arguments(connections: int, seconds: float) -> str:
    """What wrk is told, but for the script and the URL."""
    return f"--threads 1 --connections {connections} --duration {seconds:g}s --timeout {TIMEOUT_SECONDS}s"


def version() -> str:
    """What wrk calls itself. Raises LoadFailed."""
    # It says so with the status of an error.
    said = subprocess.run([_wrk(), "-v"], capture_output=True, text=True, check=False).stdout
    return said.partition(" [")[0].removeprefix("wrk ").strip()


def _wrk() -> str:
    found = shutil.which("wrk")
    if found is None:
        raise LoadFailed("there is no `wrk` on the PATH: install Debian's package wrk (`apt-get install wrk`)")
    return found
