"""Peers that serve: processes of their own environments, asked over HTTP as ours is."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import joblib

from benchmarks.harness import PEER_SCRIPTS, PeerFailed, Value, peer_python
from benchmarks.support.predictors import CONTRACT
from driftloop.common.contract import load_contract
from driftloop.demo.installation import base_environment
from driftloop.devstack.processes import ServiceProcess, free_ports
from driftloop.trainer.build import load_baseline
from driftloop.trainer.domain.dataset import training_set
from driftloop.trainer.domain.training import train

READY_SECONDS = 60.0


def pickled_forest(path: Path) -> Path:
    """Write the pipeline that version 1 was exported from, trained on the same rows, as scikit-learn's users do."""
    contract = load_contract(CONTRACT)
    baseline = load_baseline(CONTRACT, contract)
    data = training_set(baseline.values, baseline.labels, baseline.split)
    joblib.dump(train(contract, data.features, data.labels), path)
    return path


@contextmanager
def fastapi(script: str, folder: Path, body: bytes, *arguments: str) -> Iterator[str]:
    """A script of benchmarks/peers that serves with FastAPI, asked once; gives the URL of its route."""
    (port,) = free_ports(1)
    command = [str(peer_python("fastapi")), "-P", str(PEER_SCRIPTS / f"{script}.py"), str(port), *arguments]
    name = "-".join([script, *arguments[-1:]])
    with _served(name, command, folder, f"http://127.0.0.1:{port}/predict", body) as url:
        yield url


@contextmanager
def mlserver(pickle: Path, folder: Path, body: bytes) -> Iterator[str]:
    """MLServer's scikit-learn runtime in one process, without metrics, compression and access log."""
    http, grpc = free_ports(2)
    home = folder / "mlserver"
    home.mkdir()
    settings = {
        "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_endpoint": None, "parallel_workers": 0,
        "debug": False, "gzip_enabled": False,
    }  # fmt: skip
    model = {
        "name": "diabetes",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": str(pickle)},
    }
    (home / "settings.json").write_text(json.dumps(settings))
    (home / "model-settings.json").write_text(json.dumps(model))
    command = [str(peer_python("mlserver").parent / "mlserver"), "start", str(home)]
    with _served("mlserver", command, folder, f"http://127.0.0.1:{http}/v2/models/diabetes/infer", body) as url:
        yield url


def versions(name: str, *packages: str) -> dict[str, Value]:
    """The versions of packages in a peer's environment."""
    script = (
        "import json, sys; from importlib.metadata import version; print(json.dumps([*map(version, sys.argv[1:])]))"
    )
    command = [str(peer_python(name)), "-c", script, *packages]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {f"{name}: {package}": version for package, version in zip(packages, found, strict=True)}


@contextmanager
def _served(name: str, command: Sequence[str], folder: Path, url: str, body: bytes) -> Iterator[str]:
    process = ServiceProcess(name, command, base_environment(), folder / f"{name}.log", management_port=0)
    process.start()
    try:
        deadline = time.monotonic() + READY_SECONDS
        while (problem := _problem(url, body)) is not None:
            if process.returncode is not None or time.monotonic() > deadline:
                raise PeerFailed(f"peer {name!r} does not serve ({problem}):\n{process.tail()}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()


def _problem(url: str, body: bytes) -> str | None:
    try:
        ask(url, body)
    except OSError as error:
        return str(error)
    return None


def ask(url: str, body: bytes, **headers: str) -> Any:
    """POST one JSON body; gives what was answered. Raises OSError, also where the status is an error's."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} | headers)
    with urllib.request.urlopen(request, timeout=READY_SECONDS) as answer:
        return json.load(answer)
