"""`make up`, `make down`, `make status`: an installation that stays until it is told to go."""

import json
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx

from driftloop import devstack
from driftloop.demo.installation import Installation, Ports, Say, SetUpError, fixed_ports, prepare
from driftloop.devstack.identity import ProcessId
from driftloop.devstack.ports import is_free
from driftloop.devstack.processes import STOP_SECONDS, ServiceProcess, stop_process

RECORD = "processes.json"


def up(folder: Path, contracts: Sequence[Path], predictors: int, say: Say) -> tuple[dict[str, str], str]:
    """Start the stack and every service that does not run yet, detached.

    Returns what is where, by name, and a command that asks for a prediction.
    Raises StackUnavailable, SetUpError, ProcessFailed, httpx.HTTPError; then what was started is stopped again.
    """
    if running := _alive(folder):
        raise SetUpError(f"{', '.join(running)} run already: `make status` tells more, `make down` stops them")
    _require_free(fixed_ports(contracts, predictors))
    stack = devstack.start(folder / "stack", attached=False, progress=say)
    with ExitStack() as undo:
        undo.callback(down, folder)
        installation = prepare(
            folder / "installation", stack, contracts, predictors=predictors, fixed_ports=True, say=say
        )
        processes = installation.processes()
        say(f"starting {', '.join(one.name for one in processes)}")
        for process in processes:
            process.start(attached=False)
            _record(folder, processes)
        for process in processes:
            process.wait_ready()
        command = example_command(installation)
        undo.pop_all()
    return _places(installation), command


def example_command(installation: Installation) -> str:
    """A command that asks the first predictor for the prediction of its contract's example. Raises httpx.HTTPError."""
    url = installation.ports[installation.predictors[0]].url
    key = {"x-api-key": installation.client_key.read_text()}
    description = httpx.get(f"{url}/openapi.json", headers=key, timeout=10).raise_for_status().json()
    content = description["paths"]["/v1/predict"]["post"]["requestBody"]["content"]
    row = json.dumps(content["application/json"]["example"])
    return (
        f"curl -s {url}/v1/predict -H 'content-type: application/json' \\\n"
        f'    -H "x-api-key: $(cat {shlex.quote(str(installation.client_key))})" -d {shlex.quote(row)}'
    )


def down(folder: Path) -> list[str]:
    """Stop what `up` has started, services first; data stay. Returns the names of what ran."""
    stopped = []
    found = _alive(folder)
    for process in found.values():
        process.ask_to_stop()
    for name, process in found.items():
        running = process.identity.find()
        if running is not None:
            stop_process(running, signal.SIGTERM, STOP_SECONDS)
        stopped.append(name)
    (folder / RECORD).unlink(missing_ok=True)
    devstack.stop(folder / "stack")
    return stopped


def status(folder: Path) -> dict[str, str | None]:
    """For each part: why it is not well, or None if it is."""
    found = dict(devstack.status(folder / "stack")) if (folder / "stack").exists() else {}
    alive = _alive(folder)
    for name, one in _recorded(folder).items():
        found[name] = _problem(one.management_port) if name in alive else "ended by itself"
    return found


def _require_free(wanted: Mapping[str, Ports]) -> None:
    taken = {
        port: name for name, ports in wanted.items() for port in (ports.api, ports.management) if not is_free(port)
    }
    if taken:
        ports = ", ".join(f"{port} ({name})" for port, name in taken.items())
        raise SetUpError(f"other programs listen on {ports}: stop them (`lsof -i :PORT` names them), then try again")


@dataclass(frozen=True)
class _Recorded:
    """A process that an earlier `up` has started."""

    identity: ProcessId
    management_port: int

    def ask_to_stop(self) -> None:
        """Send SIGTERM, if it still runs; does not wait."""
        running = self.identity.find()
        if running is not None:
            running.terminate()


def _record(folder: Path, processes: Sequence[ServiceProcess]) -> None:
    started = {
        one.name: asdict(one.identity) | {"management_port": one.management_port}
        for one in processes
        if one.pid is not None and one.returncode is None
    }
    (folder / RECORD).write_text(json.dumps(started, indent=2))


def _recorded(folder: Path) -> dict[str, _Recorded]:
    try:
        data: Mapping[str, Mapping[str, float]] = json.loads((folder / RECORD).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return {
        name: _Recorded(ProcessId(int(one["pid"]), one["created"]), int(one["management_port"]))
        for name, one in data.items()
    }


def _alive(folder: Path) -> dict[str, _Recorded]:
    return {name: one for name, one in _recorded(folder).items() if one.identity.find() is not None}


def _problem(management_port: int) -> str | None:
    try:
        response = httpx.get(f"http://127.0.0.1:{management_port}/readyz", timeout=5)
    except httpx.TransportError as error:
        return f"no answer ({type(error).__name__})"
    return None if response.status_code == 200 else response.text


def _places(installation: Installation) -> dict[str, str]:
    places = {name: ports.url for name, ports in installation.ports.items()}
    places |= {
        f"{name} health and metrics": f"http://127.0.0.1:{ports.management}/metrics"
        for name, ports in installation.ports.items()
    }
    return places | {
        "API description": f"{installation.ports[installation.predictors[0]].url}/openapi.json",
        "API key": str(installation.client_key),
        "drift report": f"{installation.ports['drift-monitor'].url}/v1/report",
        "Kafka": installation.stack.bootstrap_servers,
        "PostgreSQL": installation.stack.database_url.rpartition("@")[2],
    }
