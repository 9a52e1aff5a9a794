"""What every benchmark needs: a figure and where it is recorded, peers in environments of their own, and the clock."""

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
RESULTS = BUILD / "bench" / "results.jsonl"
PEER_SCRIPTS = ROOT / "benchmarks" / "peers"

Value = str | int | float
Ask = Callable[[Any], Any]


class PeerFailed(RuntimeError):
    """A peer could not be installed, or its script ended or answered nonsense."""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured number and what it was measured against.

    `ours`, `peer` and `ratio` are in the unit that `figure` names; `peer` and `ratio` are None where nothing compares.
    `met` says whether `target`, in words, was reached. `conditions` are versions, sizes and the machine.
    """

    figure: str
    ours: float
    target: str
    met: bool
    peer: float | None = None
    ratio: float | None = None
    conditions: Mapping[str, Value] = {}


def record(figure: Figure) -> Figure:
    """Print the figure on one line of standard output, and append it as JSON to build/bench/results.jsonl."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("ab") as file:
        file.write(msgspec.json.encode(figure) + b"\n")
    print(line(figure), flush=True)
    return figure


def line(figure: Figure) -> str:
    """A figure as a person reads it."""
    parts = [f"{'met   ' if figure.met else 'MISSED'}  {figure.figure}: {_short(figure.ours)}"]
    if figure.peer is not None:
        parts.append(f"peer {_short(figure.peer)}")
    if figure.ratio is not None:
        parts.append(f"ratio {_short(figure.ratio)}")
    return "; ".join([*parts, f"target {figure.target}"])


def conditions(*packages: str, **sizes: Value) -> dict[str, Value]:
    """The machine, the interpreter, the versions of our `packages`, when it was measured, and the sizes given."""
    found: dict[str, Value] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count() or 0,
        "processor": _processor(),
        "python": platform.python_version(),
    }
    return found | {package: version(package) for package in packages} | sizes


def say(text: str) -> None:
    """Progress, on standard error."""
    print(f"  {text}", file=sys.stderr, flush=True)


# --- peers


def peer_python(name: str) -> Path:
    """The interpreter of the environment build/peers/`name`, made once from requirements/peers/`name`.txt.

    Raises PeerFailed where there are no such pins, or they cannot be installed.
    """
    pins = ROOT / "requirements" / "peers" / f"{name}.txt"
    if not pins.is_file():
        raise PeerFailed(f"peer {name!r} has no pins: write requirements/peers/{name}.in and run requirements/compile")
    home = BUILD / "peers" / name
    python, stamp = home / "bin" / "python", home / "pins.sha256"
    wanted = hashlib.sha256(pins.read_bytes()).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == wanted:
        return python
    say(f"installing the peer {name} into {home.relative_to(ROOT)}")
    # pip takes the pin of "pandas" for none of "pandas[parquet]"; uv knows better.
    uv = str(Path(sys.executable).parent / "uv")
    _run(name, [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)])
    _run(name, [uv, "pip", "install", "--quiet", "--python", str(python), "--require-hashes", "-r", str(pins)])
    stamp.write_text(wanted)
    return python


@contextmanager
def peer(name: str, script: str | None = None) -> Iterator[Ask]:
    """A peer's script from benchmarks/peers, running in the peer's environment; gives a function that asks it.

    Each question is one line of JSON on its standard input, each answer one line on its standard output, so that ours
    and the peer can take turns in one run. Raises PeerFailed where it does not answer.
    """
    path = PEER_SCRIPTS / f"{script or name}.py"
    # -P: a script may be called as the package that it imports.
    process = subprocess.Popen(
        [str(peer_python(name)), "-P", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=_one_thread(),
    )
    sink, source = process.stdin, process.stdout
    assert sink is not None
    assert source is not None

    def ask(question: Any) -> Any:
        try:
            sink.write(json.dumps(question) + "\n")
            sink.flush()
            return json.loads(source.readline())
        except (OSError, ValueError) as error:
            raise PeerFailed(f"peer {name!r} gave no answer: run {path.name} by itself to see why") from error

    try:
        yield ask
    finally:
        process.kill()
        process.wait()
        sink.close()
        source.close()


# --- the clock


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cpu_seconds(work: Callable[[], object]) -> float:
    """How long one call keeps this process busy: what others do on the machine does not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def alternate(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> tuple[float, float]:
    """The medians of ours and of the peer's measurement, taken in turns, so that a busy moment strikes both."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process, and what it starts, on one core; where the system cannot, one thread has to do."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _one_thread() -> dict[str, str]:
    return os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def _run(name: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerFailed(f"peer {name!r} cannot be installed ({' '.join(command)}):\n{done.stderr.strip()}")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((text.partition(":")[2].strip() for text in lines if text.startswith("model name")), platform.machine())


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
