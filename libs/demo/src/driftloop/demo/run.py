"""Runs one scenario from nothing to its report, and leaves nothing running."""

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from rich.console import Console

from driftloop import devstack
from driftloop.common.contract import load_contract
from driftloop.common.topics import Namespace
from driftloop.demo import report
from driftloop.demo.installation import prepare, remove
from driftloop.demo.loop import Loop, progress_line
from driftloop.demo.observer import DemoFailed, Observer
from driftloop.demo.scenarios import SCENARIOS, Scenario, shipped_contract
from driftloop.demo.traffic import Traffic
from driftloop.devstack import Stack, running
from driftloop.devstack.processes import ProcessGroup, ServiceProcess


def run(name: str, folder: Path, seed: int, console: Console, kill: str | None = None) -> dict[str, Any]:
    """Play a scenario on a stack of its own, print its report and write `report.json`; returns the report.

    Raises DemoFailed, and what starting the stack and the services raises.
    """
    scenario, started = SCENARIOS[name], time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        _clear(folder)
        return _run(name, scenario, folder, seed, console, kill, started)


def _run(
    name: str, scenario: Scenario, folder: Path, seed: int, console: Console, kill: str | None, started: float
) -> dict[str, Any]:
    console.print(f"[bold]Driftloop: {scenario.title}[/] (seed {seed})", highlight=False, soft_wrap=True)
    with (
        console.status("a broker and a database") as status,
        running(folder / "stack", progress=lambda text: status.update(text)) as stack,
    ):
        status.stop()
        namespace = Namespace(f"demo_{uuid.uuid4().hex[:8]}" if _shared(stack) else "")
        try:
            return _play(name, scenario, folder, stack, namespace, seed, console, kill, started)
        finally:
            if _shared(stack):
                remove(stack, namespace)


def _shared(stack: Stack) -> bool:
    """Whether others may use the servers, too: then the demo keeps to names of its own."""
    return "external" in (stack.kind, stack.database_kind)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One demo a folder. Raises DemoFailed; the lock of a demo that was killed is gone with it."""
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise DemoFailed(f"another demo runs in {folder}: wait for its end, or choose another --folder") from None


def _clear(folder: Path) -> None:
    """What an earlier run has left, because it was killed, would be taken for this one's."""
    devstack.stop(folder / "stack", purge=True)
    for part in ("installation", "contract", "report.json"):
        path = folder / part
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _play(
    name: str,
    scenario: Scenario,
    folder: Path,
    stack: Stack,
    namespace: Namespace,
    seed: int,
    console: Console,
    kill: str | None,
    started: float,
) -> dict[str, Any]:
    contract = scenario.prepare(shipped_contract("diabetes"), folder / "contract")
    with _loop(contract, folder, stack, namespace, console, started, kill) as loop:
        loop.rate, loop.lab_delay = scenario.rate, scenario.lab_delay
        findings = scenario.play(loop, np.random.default_rng(seed))
        events = loop.settle()
        found = report.build(name, seed, loop, findings, events)
    report.write(folder / "report.json", found)
    report.show(console, found, findings.population)
    console.print(f"[dim]the same figures: {folder / 'report.json'}[/]", highlight=False, soft_wrap=True)
    if found["requests"]["failed"]:
        raise DemoFailed(f"{found['requests']['failed']} requests failed")
    return found


@contextmanager
def _loop(
    contract: Path, folder: Path, stack: Stack, namespace: Namespace, console: Console, started: float, kill: str | None
) -> Iterator[Loop]:
    """The installation with every service ready, and its users; all stopped at the end."""

    def say(text: str) -> None:
        console.print(progress_line(started, text), highlight=False, soft_wrap=True)

    installation = prepare(folder / "installation", stack, [contract], namespace=namespace.prefix, say=say)
    model = load_contract(contract)
    group = ProcessGroup(installation.processes())
    victim = _chosen(group, kill) if kill else None
    doors = installation.doors
    observer, traffic = Observer(doors, model.name), Traffic.to(doors)
    say(f"starting {', '.join(one.name for one in group.processes)}")
    try:
        with group:
            say("all of them are ready")
            yield Loop(
                doors,
                contract,
                model,
                traffic,
                observer,
                console,
                kill=victim,
                trusted_keys=installation.folder / "keys" / "trusted",
                started=started,
            )
    finally:
        traffic.close()
        observer.close()


def _chosen(group: ProcessGroup, name: str) -> ServiceProcess:
    for process in group.processes:
        if process.name == name:
            return process
    raise DemoFailed(f"there is no process {name!r} to kill, only {[one.name for one in group.processes]}")
