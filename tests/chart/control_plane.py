"""What a test does with a real control plane (`tests/support/control-plane`), by the programs that operators use."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.support.chart import CHART, Object
from tests.support.paths import ROOT

SCRIPT = ROOT / "tests" / "support" / "control-plane"
HOME = Path(os.environ.get("KUBE_HOME", Path.home() / ".cache" / "kube-control-plane"))
# Whoever waits so long in vain waits for ever.
SECONDS = 240


@dataclass(frozen=True)
class ControlPlane:
    """A control plane that runs, with its state in `folder`."""

    folder: Path

    def run(self, *command: str | Path, given: str | None = None, fails: bool = False) -> str:
        """What a program says; raises AssertionError unless it fails as expected, with all that it has said."""
        environment = os.environ | {"KUBECONFIG": str(self.folder / "kubeconfig"), "PATH": search_path()}
        words = [str(word) for word in command]
        done = subprocess.run(words, input=given, capture_output=True, text=True, timeout=600, env=environment)
        assert (done.returncode != 0) == fails, f"{' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def kubectl(self, *arguments: str | Path, given: str | None = None, fails: bool = False) -> str:
        """Run kubectl."""
        return self.run("kubectl", *arguments, given=given, fails=fails)

    def apply(self, *objects: Object) -> None:
        """Make objects, or bring them to this state."""
        self.kubectl("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def objects(self, kind: str, namespace: str) -> list[Object]:
        """All objects of a kind, those that are being deleted left out."""
        items: list[Object] = json.loads(self.kubectl("-n", namespace, "get", kind, "-o", "json"))["items"]
        return [item for item in items if "deletionTimestamp" not in item["metadata"]]


@dataclass(frozen=True)
class Release:
    """An installation of the chart in a namespace, by some of its values."""

    control_plane: ControlPlane
    namespace: str
    values: tuple[str | Path, ...] = ()
    name: str = "r"

    def helm(self, command: str, *arguments: str | Path, fails: bool = False) -> str:
        """Run a command of Helm on this release."""
        said = self.control_plane.run("helm", "-n", self.namespace, command, self.name, *arguments, fails=fails)
        # What Pod Security, a deprecation or a schema has to say against an object.
        assert fails or "warning" not in said.lower(), said
        return said

    def install(self, *arguments: str | Path, fails: bool = False) -> str:
        """Install the chart and wait until all is ready."""
        return self._bring("install", *arguments, fails=fails)

    def upgrade(self, *arguments: str | Path, fails: bool = False) -> str:
        """Upgrade to the same values and these, and wait until all is ready."""
        return self._bring("upgrade", *arguments, fails=fails)

    def pods(self, component: str = "") -> list[Object]:
        """The pods of this installation, or of one of its components."""
        found = [pod for pod in self.control_plane.objects("pods", self.namespace) if _component(pod, self.name)]
        return [pod for pod in found if not component or _component(pod, self.name) == component]

    def components(self) -> dict[str, set[str]]:
        """The unique ids of the services' pods, by component and model."""
        found: dict[str, set[str]] = {}
        for pod in self.pods():
            labels = pod["metadata"]["labels"]
            name = "-".join(filter(None, (_component(pod, self.name), labels.get("driftloop/model"))))
            found.setdefault(name, set()).add(pod["metadata"]["uid"])
        found.pop("test", None)
        return found

    def _bring(self, command: str, *arguments: str | Path, fails: bool) -> str:
        wait = ("--wait", "--timeout", f"{SECONDS}s")
        return self.helm(command, CHART, *self.values, *wait, *arguments, fails=fails)


def search_path() -> str:
    """Where the programs are: those of the control plane, and Helm where Go has put it."""
    return os.pathsep.join([str(HOME / "bin"), os.environ["PATH"], str(Path.home() / "go" / "bin")])


def missing() -> str | None:
    """Why there can be no control plane here, or None."""
    programs = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok", "helm")
    absent = [name for name in programs if shutil.which(name, path=search_path()) is None]
    return f"{', '.join(absent)} not built: install Go, then `make chart-test`" if absent else None


def ready(pod: Object) -> bool:
    """Whether a pod is ready."""
    return ready_seconds(pod) >= 0


def ready_seconds(pod: Object) -> float:
    """For how long a pod has been ready; −1 where it is not."""
    for one in pod.get("status", {}).get("conditions", []):
        if one["type"] == "Ready" and one["status"] == "True":
            return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(one["lastTransitionTime"])).total_seconds())
    return -1


def _component(pod: Object, release: str) -> str:
    labels: dict[str, str] = pod["metadata"].get("labels", {})
    ours = labels.get("app.kubernetes.io/instance") == release
    return labels.get("app.kubernetes.io/component", "") if ours else ""
