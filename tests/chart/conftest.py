"""One control plane a run, and a namespace a test that asks all that a strict platform asks."""

import itertools
import subprocess
from collections.abc import Iterator

import pytest

from tests.chart.control_plane import HOME, SCRIPT, ControlPlane, missing
from tests.support.chart import Object

_numbers = itertools.count(1)
# As many as all tests claim: what was claimed once is not given to others.
VOLUMES = 80


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane of this run, with the operators' definitions and with volumes."""
    if (reason := missing()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("control-plane")
    try:
        subprocess.run([SCRIPT, "up", folder], check=True)
        found = ControlPlane(folder)
        for definition in sorted((HOME / "definitions").glob("*.yaml")):
            found.kubectl("apply", "--server-side", "-f", definition)
        found.apply(*(storage_class(name) for name in ("standard", "nfs", "fast")), *volumes())
        yield found
    finally:
        subprocess.run([SCRIPT, "down", folder], check=True)


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A namespace that takes restricted pods only, and only those that say what they need and may take at most."""
    name = f"chart-{next(_numbers)}"
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    hard = {f"{kind}.{resource}": "1000" for kind in ("requests", "limits") for resource in ("cpu", "memory")}
    control_plane.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": levels}},
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "quota", "namespace": name},
            "spec": {"hard": hard | {key: "1Pi" for key in hard if key.endswith("memory")}},
        },
    )
    yield name
    control_plane.kubectl("uncordon", "--selector", "kubernetes.io/os=linux")
    control_plane.kubectl("delete", "namespace", name, "--wait=false")


def storage_class(name: str) -> Object:
    default = {"storageclass.kubernetes.io/is-default-class": str(name == "standard").lower()}
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name, "annotations": default},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def volumes() -> Iterator[Object]:
    """Volumes that are there already: nobody makes them here on demand."""
    for name, count in (("standard", VOLUMES), ("nfs", 5), ("fast", 20)):
        for number in range(count):
            yield {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"{name}-{number}"},
                "spec": {
                    "storageClassName": name,
                    "capacity": {"storage": "100Gi"},
                    "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "hostPath": {"path": f"/volumes/{name}-{number}"},
                },
            }
