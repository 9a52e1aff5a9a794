"""Predictors as they are installed: processes of their own on a real broker, with version 1, a forest of 100 trees."""

import re
import secrets
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from benchmarks.harness import ROOT
from driftloop import devstack
from driftloop.common.contract import baseline_path, load_contract
from driftloop.common.kafka.config import reader_config
from driftloop.common.rows import Row, read_baseline
from driftloop.common.topics import PREDICTIONS
from driftloop.demo.installation import Installation, base_environment, prepare
from driftloop.devstack.processes import ServiceProcess

CONTRACT = ROOT / "models" / "diabetes" / "contract.yaml"
SHIPPED = "driftloop.predictor.main"
TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class Serving:
    """A predictor that is ready; `headers` are what each request to it needs: a key, which no peer asks for."""

    installation: Installation
    process: ServiceProcess
    url: str
    headers: Mapping[str, str]

    def metric(self, name: str) -> float:
        """The sum of a metric's samples, 0 if it has none."""
        url = f"http://127.0.0.1:{self.process.management_port}/metrics"
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
            text: str = answer.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))

    def logged(self) -> int:
        """How many records the inference log has, once none waits in the spool. Raises TimeoutError."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while (waiting := self.metric("driftloop_spool_records")) > 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{waiting:,.0f} inferences still wait in the spool: does the broker answer?")
            time.sleep(0.1)
        consumer = Consumer(reader_config(self.installation.stack.bootstrap_servers, "bench"))
        topic = self.installation.namespace.topic(PREDICTIONS)
        try:
            partitions = [TopicPartition(topic, number) for number in range(PREDICTIONS.partitions)]
            return sum(consumer.get_watermark_offsets(one, TIMEOUT_SECONDS)[1] for one in partitions)
        finally:
            consumer.close()


@contextmanager
def installed(predictors: int = 1) -> Iterator[Installation]:
    """An installation with so many predictors, not yet started; broker, database and files go with the block."""
    with tempfile.TemporaryDirectory(prefix="driftloop-bench-") as name:
        folder = Path(name)
        # PostgreSQL, which does not run as root, must be able to get there.
        folder.chmod(0o755)
        stack = devstack.start(folder / "stack")
        try:
            yield prepare(folder, stack, [CONTRACT], namespace=f"b{secrets.token_hex(4)}", predictors=predictors)
        finally:
            devstack.stop(folder / "stack", purge=True)


def predictor(installation: Installation, name: str, module: str = SHIPPED, **settings: str) -> ServiceProcess:
    """One predictor's process, not yet started: its settings as shipped, but for `settings`, by their variables."""
    own = {"PYTHONPATH": str(ROOT)}
    return ServiceProcess(
        name=name,
        argv=[sys.executable, "-m", module],
        env=base_environment() | installation.environment(name) | own | settings,
        log_path=installation.folder / "logs" / f"{name}.log",
        management_port=installation.ports[name].management,
    )


@contextmanager
def serving(installation: Installation, name: str, module: str = SHIPPED, **settings: str) -> Iterator[Serving]:
    """One predictor, ready, for the time of a block."""
    headers = {"X-API-Key": installation.client_key.read_text()}
    process = predictor(installation, name, module, **settings)
    process.start()
    try:
        process.wait_ready()
        yield Serving(installation, process, installation.ports[name].url, headers)
    finally:
        process.terminate()


def complete_rows() -> list[Row]:
    """The baseline's rows that miss no value: what JSON has no number for, MLServer cannot be asked."""
    contract = load_contract(CONTRACT)
    rows, _labels = read_baseline(contract, baseline_path(CONTRACT, contract))
    return [row for row in rows if None not in row.values()]
