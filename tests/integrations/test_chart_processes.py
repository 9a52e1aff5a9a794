"""What the chart says works: init containers, services and test, as processes in the environment that it gives them."""

import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from driftloop.common.topics import Namespace
from driftloop.devstack import Stack
from driftloop.devstack.processes import ServiceProcess, free_ports
from tests.support.chart import HELM, Object, template
from tests.support.house import House
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(HELM is None, reason="helm is not installed: `.ci/run` installs it where Go is")
BIN = Path(sys.executable).parent


class Installation:
    """The chart's pods on this machine: what they mount is below one folder."""

    def __init__(self, stack: Stack, namespace: str, folder: Path) -> None:
        self.folder = folder
        values = (
            f"namespace={namespace},kafka.bootstrapServers={stack.bootstrap_servers},test.keySecret=driftloop-client"
        )
        self.objects = template("--set", values)
        # By the component: its process, and by the Service's name: where that answers here.
        self.processes: dict[str, ServiceProcess] = {}
        self.places: dict[str, str] = {}
        (model,) = (one["data"] for one in self.objects if one["metadata"]["name"] == "r-driftloop-model-diabetes")
        for name, text in model.items():
            self._write(f"models/diabetes/{name}", text)
        self._write("secrets/admin/database-url", stack.database_url)
        script = ROOT / "deploy" / "compose" / "make_secrets.py"
        subprocess.run([sys.executable, script, folder / "secrets"], check=True, capture_output=True)
        for service in ("label-ingest", "drift-monitor", "trainer"):
            url = folder / "secrets" / service / "database-url"
            url.chmod(0o600)
            # As docs/kubernetes.md says where there is a namespace.
            url.write_text(url.read_text().replace("://driftloop_", f"://{namespace}_"))

    def pod(self, component: str) -> Object:
        (found,) = (
            one
            for one in self.objects
            if one["kind"] in ("Deployment", "StatefulSet")
            and one["metadata"]["name"].startswith(f"r-driftloop-{component}")
        )
        return found

    def prepare(self, component: str) -> list[str]:
        """Run the init containers of a pod in order; their names."""
        done = self.pod(component)["spec"]["template"]["spec"]["initContainers"]
        for one in done:
            program, *arguments = one["args"]
            ended = subprocess.run(
                [BIN / program, *arguments],
                env=self.environment(component, one),
                capture_output=True,
                text=True,
                check=False,
            )
            assert ended.returncode == 0, (one["name"], ended.stderr)
        return [one["name"] for one in done]

    def start(self, component: str) -> None:
        """Start a service as the image's command does, on ports of its own."""
        workload = self.pod(component)
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        port, management = free_ports(2)
        ports = {"DRIFTLOOP_PORT": str(port), "DRIFTLOOP_MANAGEMENT_PORT": str(management)}
        process = ServiceProcess(
            name=component,
            argv=[str(BIN / f"driftloop-{component}")],
            env=self.environment(component, container) | ports,
            log_path=self.folder / f"{component}.log",
            management_port=management,
        )
        process.start()
        self.processes[component] = process
        name = workload["metadata"]["name"]
        self.places |= {name: f"127.0.0.1:{port}", f"{name}-management": f"127.0.0.1:{management}"}

    def test(self) -> "subprocess.CompletedProcess[str]":
        """What `helm test` does."""
        (pod,) = (one for one in self.objects if one["kind"] == "Pod")
        arguments = [self.local(self._placed(one)) for one in pod["spec"]["containers"][0]["args"][1:]]
        return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)

    def environment(self, component: str, container: Object) -> dict[str, str]:
        temporary = self.folder / "tmp" / component
        temporary.mkdir(parents=True, exist_ok=True)
        given = {
            one["name"]: self.local(self._placed(one.get("value", "r-driftloop-pod-0"))) for one in container["env"]
        }
        # With a drain of seconds the test would only wait.
        kept = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"}
        return kept | given | ({"DRIFTLOOP_DRAIN_SECONDS": "0"} if "DRIFTLOOP_DRAIN_SECONDS" in given else {})

    def local(self, value: str) -> str:
        return re.sub(r"(^|,|=|file://)/(?=(secrets|models|var)/)", rf"\g<1>{self.folder}/", value)

    def _placed(self, value: str) -> str:
        return re.sub(
            r"^((?:--predict=)?http://)([^:/]+):\d+", lambda one: one[1] + self.places.get(one[2], one[2]), value
        )

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def installation(stack: Stack, tmp_path: Path) -> Iterator[Installation]:
    namespace = Namespace(f"t{uuid.uuid4().hex[:12]}")
    made = Installation(stack, namespace.prefix, tmp_path)
    yield made
    for process in made.processes.values():
        process.kill()
    House(stack, namespace, tmp_path).remove()


@pytest.mark.timeout(600)
@pytest.mark.slow("twelve processes start, most of them one after the other")
def test_a_fresh_installation_gets_a_model_answers_and_stops_in_order(installation: Installation) -> None:
    prepared = {}
    # Each prepares what the one before it has prepared, as every pod does.
    for component in ("label-ingest", "trainer", "drift-monitor", "predictor"):
        prepared[component] = installation.prepare(component)
        installation.start(component)
    assert prepared == {
        "label-ingest": ["migrate", "topics"],
        "trainer": ["migrate", "topics", "first-model"],
        "drift-monitor": ["migrate", "topics"],
        "predictor": ["topics"],
    }
    for process in installation.processes.values():
        process.wait_ready()
    tested = installation.test()
    assert tested.returncode == 0, tested.stdout
    assert tested.stdout.count(": 200\n") == 5
    for process in installation.processes.values():
        process.signal_stop()
    ended = {name: process.wait_or_kill(60) for name, process in installation.processes.items()}
    assert ended == dict.fromkeys(prepared, 0)
