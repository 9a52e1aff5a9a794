"""Predictors as real processes, and clients that ask them without a pause."""

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from driftloop.common.contract import Contract, load_contract
from driftloop.common.events import ModelStatus
from driftloop.common.topics import MODEL_STATUS
from driftloop.devstack.processes import ServiceProcess
from tests.support.bad_bodies import ROW
from tests.support.house import House
from tests.support.paths import MODELS
from tests.support.waiting import wait_until

CLIENTS = 8
PSEUDONYM_KEY = "a pseudonym key of the tests"
DIABETES = load_contract(MODELS / "diabetes" / "contract.yaml")
LOAN = load_contract(MODELS / "loan" / "contract.yaml")


def predictor(
    house: House,
    name: str = "predictor",
    contract: Contract = DIABETES,
    module: str = "driftloop.predictor.main",
    **settings: str,
) -> tuple[ServiceProcess, str]:
    """A predictor's process, started but perhaps not ready yet, and its API's URL; `settings` by their names."""
    # Whoever trusts no key does not start.
    assert house.signing_key
    environment = {
        "DRIFTLOOP_CONTRACT": str(MODELS / contract.name / "contract.yaml"),
        "DRIFTLOOP_PSEUDONYM_KEY": PSEUDONYM_KEY,
        "DRIFTLOOP_REPLICA": name,
        "DRIFTLOOP_SPOOL": str(house.folder / "spool" / name),
    }
    changed = {f"DRIFTLOOP_{setting}": value for setting, value in settings.items()}
    process, url = house.process(name, module, environment | changed)
    process.start()
    return process, url


def statuses(house: House, replica: str = "predictor") -> list[ModelStatus]:
    """What a replica has said of itself so far."""
    events = [event for _envelope, event in house.events(MODEL_STATUS)]
    return [event for event in events if isinstance(event, ModelStatus) and event.replica == replica]


def metric(process: ServiceProcess, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    text = httpx.get(f"http://127.0.0.1:{process.management_port}/metrics", timeout=30).text
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    lines = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
    return sum(float(line.rpartition(" ")[2]) for line in lines if all(part in line for part in wanted))


def worker_processes(process: ServiceProcess) -> list[psutil.Process]:
    """The processes of a predictor that has several workers, in their order."""
    children = psutil.Process(process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@dataclass
class Asked:
    """What the clients saw, each client's answers in their order; `broken` are requests without any answer."""

    answers: dict[int, list[httpx.Response]] = field(default_factory=dict)
    broken: list[httpx.TransportError] = field(default_factory=list)

    @property
    def all(self) -> list[httpx.Response]:
        """Every answer."""
        return list(itertools.chain.from_iterable(self.answers.values()))

    def of_status(self, status: int) -> list[httpx.Response]:
        """The answers with this status."""
        return [answer for answer in self.all if answer.status_code == status]

    def ids(self) -> set[str]:
        """The ids of all predictions that were answered."""
        return {answer.json()["prediction_id"] for answer in self.of_status(200)}


@contextmanager
def asking(urls: Sequence[str], clients: int = CLIENTS, row: dict[str, Any] = ROW) -> Iterator[Asked]:
    """Clients that ask `/v1/predict` without a pause for the time of a block, each one replica only."""
    asked, stop = Asked(), threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(base_url=urls[number % len(urls)], timeout=30) as client:
            while not stop.is_set():
                try:
                    asked.answers[number].append(client.post("/v1/predict", json=row))
                except httpx.TransportError as error:
                    asked.broken.append(error)
                    stop.wait(0.02)

    for number in range(clients):
        asked.answers[number] = []
    threads = [threading.Thread(target=ask, args=[number]) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: all(asked.answers.values()), "every client's first answer")
        yield asked
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
