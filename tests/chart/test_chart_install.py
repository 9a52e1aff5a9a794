"""The chart on a real control plane: installed, tested, upgraded, rolled back, drained, uninstalled, and harmed."""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chart.control_plane import SECONDS, ControlPlane, Release, ready, ready_seconds
from tests.support.chart import CHART, KUBERNETES
from tests.support.paths import MODELS, ROOT
from tests.support.waiting import wait_until

CASES = ("default", "production", "external", "operators")
# The definitions that can be fetched know this version of Strimzi's interface only.
STRIMZI = ("--set", "strimzi.apiVersion=kafka.strimzi.io/v1beta2")
CONTRACT = MODELS / "diabetes" / "contract.yaml"
NEW_IMAGE = ("--set", "image.tag=9.9.9")
KEPT = "pvc,kafkas,kafkanodepools,kafkatopics,clusters.postgresql.cnpg.io"
REMOVED = (
    "pods,services,statefulsets,deployments,jobs,configmaps,secrets,serviceaccounts,pdb,hpa,networkpolicies,ingresses,"
    "httproutes,scaledobjects,triggerauthentications,podmonitors,servicemonitors,prometheusrules,kafkausers"
)
# The chart's own, and a second in which instants are rounded.
MIN_READY_SECONDS = 10 + 1
# A pod with this annotation never becomes ready.
BROKEN = r"example\.com/broken"

pytestmark = [pytest.mark.slow("rolls real pods, one after the other"), pytest.mark.timeout(1200)]
Install = Callable[..., Release]


@pytest.fixture
def release(control_plane: ControlPlane, namespace: str) -> Install:
    """Installs a case of `ci/` in the test's namespace."""

    def install(case: str, name: str = "r") -> Release:
        values = ("-f", CHART / "ci" / f"{case}-values.yaml", *(STRIMZI if case == "operators" else ()))
        found = Release(control_plane, namespace, values, name)
        found.install()
        # Of the HPA that is its minimum: nobody measures the load here. Ready is not yet available, and what is not
        # available is replaced first, however many it is.
        replicas = 6 if case == "production" else 2
        wait_until(lambda: available(found) == replicas, "every predictor", timeout=SECONDS)
        return found

    return install


def available(release: Release) -> int:
    """How many predictors have been ready for as long as proxies take to hear of it.

    By the pods, as a roll-out counts them: a StatefulSet's own status may stay behind until something else happens.
    """
    return sum(ready_seconds(pod) > MIN_READY_SECONDS for pod in release.pods("predictor"))


def new_contract(folder: Path) -> tuple[str | Path, ...]:
    """Arguments that give the shipped model a contract with another digest."""
    changed = folder / "contract.yaml"
    changed.write_text(CONTRACT.read_text() + "\n# Looked through.\n")
    return ("--set", "models[0].name=diabetes", "--set-file", f"models[0].contract={changed}")


def images(release: Release) -> set[str]:
    """The tags of all images that run, those of the preparation among them."""
    containers = [
        container
        for pod in release.pods()
        if pod["metadata"]["labels"]["app.kubernetes.io/component"] != "test"
        for kind in ("initContainers", "containers")
        for container in pod["spec"].get(kind, [])
    ]
    return {container["image"].rpartition(":")[2] for container in containers}


def assert_rolled(release: Release, before: dict[str, set[str]], expected: set[str]) -> None:
    """All pods of the expected components are other ones, as soon as the old ones have gone, and no other pod is."""

    def replaced() -> set[str]:
        after = release.components()
        return {name for name in before if not before[name] & after[name]}

    wait_until(lambda: replaced() == expected, f"new pods of {expected}")
    after = release.components()
    assert {name: after[name] for name in before.keys() - expected} == {
        name: before[name] for name in before.keys() - expected
    }


def zones(release: Release, component: str, model: str = "") -> list[str]:
    """The zones of a component's pods, in order."""
    pods = [pod for pod in release.pods(component) if model in ("", pod["metadata"]["labels"].get("driftloop/model"))]
    return sorted(pod["spec"]["nodeName"].replace("node", "zone") for pod in pods)


def names(release: Release, kinds: str) -> set[str]:
    """Kind and name of the release's objects of some kinds, those left out that end with another."""
    return {
        f"{one['kind']}/{one['metadata']['name']}"
        for one in release.control_plane.objects(kinds, release.namespace)
        if "ownerReferences" not in one["metadata"] and f"{release.name}-driftloop" in one["metadata"]["name"]
    }


@pytest.mark.parametrize("case", CASES)
def test_a_release_is_installed_tested_upgraded_rolled_back_and_uninstalled(
    release: Install, case: str, tmp_path: Path
) -> None:
    control_plane = (installed := release(case)).control_plane
    control_plane.run("helm", "lint", "--strict", CHART, *installed.values)
    # Helm drops in silence what a definition does not know.
    objects = control_plane.run("helm", "template", "r", CHART, "--kube-version", KUBERNETES, *installed.values)
    control_plane.kubectl(
        "-n", installed.namespace, "apply", "--dry-run=server", "--validate=strict", "-f", "-", given=objects
    )
    first = installed.components()
    assert {name.split("-")[0] for name in first} == {"predictor", "label", "drift", "trainer"}
    assert all(ready(pod) for pod in installed.pods())
    assert images(installed).isdisjoint({"9.9.9", "latest"})
    tags = images(installed)
    assert "Succeeded" in installed.helm("test")

    # The contract is read at the start: who reads it is started anew, and nobody else.
    installed.upgrade(*new_contract(tmp_path))
    others = {"predictor-loan"} if case == "production" else set()
    assert_rolled(installed, first, set(first) - others)

    second = installed.components()
    installed.upgrade(*NEW_IMAGE)
    assert_rolled(installed, second, set(second))
    assert images(installed) == {"9.9.9"}

    installed.helm("rollback", "1", "--wait", "--timeout", f"{SECONDS}s")
    wait_until(lambda: images(installed) == tags, "the first images")

    # Predictions that no broker has confirmed, models that the database names, and what operators keep.
    kept = names(installed, KEPT)
    assert any("spool" in name for name in kept)
    installed.helm("uninstall", "--wait")
    assert names(installed, KEPT) == kept
    assert names(installed, REMOVED) == {"Pod/r-driftloop-test"}


def test_the_pods_of_a_service_are_in_different_zones(release: Install) -> None:
    three = release("production")
    for model in ("diabetes", "loan"):
        assert zones(three, "predictor", model) == ["zone-1", "zone-2", "zone-3"]
    two = release("external", name="two")
    for component in ("predictor", "label-ingest", "drift-monitor"):
        assert len(zones(two, component)) == len(set(zones(two, component))) == 2


def test_a_drain_waits_for_the_successor_of_what_it_has_evicted(release: Install) -> None:
    found = release("external")
    kubectl = found.control_plane.kubectl
    predictors = {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in found.pods("predictor")}
    assert len(set(predictors.values())) == len(predictors) == 2
    # Nobody can take what is evicted: as on a cluster that is full.
    kubectl("cordon", "--selector", "kubernetes.io/os=linux")
    first, second = predictors.values()
    drain = ("--ignore-daemonsets", "--delete-emptydir-data", "--pod-selector", "app.kubernetes.io/component=predictor")
    kubectl("drain", first, *drain, "--timeout", "60s")
    refused = kubectl("drain", second, *drain, "--timeout", "15s", fails=True)
    assert "disruption budget" in refused
    assert [pod["spec"]["nodeName"] for pod in found.pods("predictor") if ready(pod)] == [second]
    kubectl("uncordon", first)
    kubectl("drain", second, *drain, "--timeout", "120s")
    wait_until(lambda: sum(map(ready, found.pods("predictor"))) == 2, "both predictors", timeout=120)


def test_nothing_restarts_where_nothing_changed(release: Install) -> None:
    found = release("default")
    before = found.components()
    found.upgrade()
    assert found.components() == before


def test_a_version_that_does_not_start_leaves_the_others_serving_and_a_rollback_ends_it(release: Install) -> None:
    found = release("default")
    before = {pod["metadata"]["uid"] for pod in found.pods("predictor")}
    said = found.upgrade("--set-string", rf"predictor.podAnnotations.{BROKEN}=yes", "--timeout", "40s", fails=True)
    assert "timed out" in said or "deadline exceeded" in said
    left = {pod["metadata"]["name"]: (ready(pod), pod["metadata"]["uid"] in before) for pod in found.pods("predictor")}
    assert sorted(left.values()) == [(False, False), (True, True)], left
    found.helm("rollback", "1", "--wait", "--timeout", f"{SECONDS}s")
    wait_until(lambda: sum(map(ready, found.pods("predictor"))) == 2, "both predictors")


@pytest.mark.parametrize("contract", ["features: [", "model: {name: diabetes}"])
def test_a_contract_that_cannot_be_one_is_refused_before_anything_changes(
    release: Install, tmp_path: Path, contract: str
) -> None:
    found = release("default")
    before = found.components()
    file = tmp_path / "contract.yaml"
    file.write_text(contract)
    said = found.upgrade("--set", "models[0].name=diabetes", "--set-file", f"models[0].contract={file}", fails=True)
    assert "baseline.path names a file beside it" in said
    assert found.components() == before


def test_what_was_kept_is_taken_up_by_the_next_installation(release: Install) -> None:
    found = release("default")
    control_plane, kept = found.control_plane, names(found, KEPT)
    volumes = {claim["spec"]["volumeName"] for claim in control_plane.objects("pvc", found.namespace)}
    assert "cannot re-use a name" in found.install(fails=True)
    found.helm("uninstall", "--wait")
    found.install()
    assert names(found, KEPT) == kept
    assert {claim["spec"]["volumeName"] for claim in control_plane.objects("pvc", found.namespace)} == volumes
    assert all(ready(pod) for pod in found.pods())


def test_two_releases_share_a_namespace_and_one_may_have_the_longest_name(release: Install) -> None:
    first = release("default")
    second = release("default", name="a" * 53)
    before = first.components()
    assert all(ready(pod) for pod in second.pods())
    assert second.components().keys() == before.keys()
    assert "Succeeded" in second.helm("test")
    second.helm("uninstall", "--wait")
    assert first.components() == before
    assert all(ready(pod) for pod in first.pods())


def test_all_that_the_pods_mount_is_there_once_the_secrets_of_the_documentation_are(
    release: Install, tmp_path: Path
) -> None:
    found = release("default")
    # No container runs here, and so none waits for its files.
    assert {kind for kind, _name, _key in absent(found)} == {"secret"}
    (tmp_path / "secrets" / "admin").mkdir(parents=True)
    (tmp_path / "secrets" / "admin" / "database-url").write_text("postgresql://postgres:a@postgres:5432/driftloop")
    run = found.control_plane.run
    run(sys.executable, ROOT / "deploy" / "compose" / "make_secrets.py", tmp_path / "secrets")
    documented = (ROOT / "docs" / "kubernetes.md").read_text().split("## Secrets")[1].split("```")[1]
    for command in re.findall(r"^kubectl create secret (?:.*\\\n)*.*$", documented, re.MULTILINE):
        run("bash", "-c", f"cd {tmp_path} && {command} --namespace {found.namespace}")
    assert absent(found) == set()


def absent(release: Release) -> set[tuple[str, str, str]]:
    """What the pods mount and is not there: kind, name and key of each Secret and ConfigMap."""
    there = {
        (kind, one["metadata"]["name"]): {"", *one.get("data", {})}
        for kind in ("secret", "configMap")
        for one in release.control_plane.objects(kind, release.namespace)
    }
    return {mounted for mounted in mounts(release) if mounted[2] not in there.get(mounted[:2], {})}


def mounts(release: Release) -> Iterator[tuple[str, str, str]]:
    """Kind, name and key of all that the pods mount from Secrets and ConfigMaps; no key where it is the whole."""
    for pod in release.pods():
        volumes = pod["spec"]["volumes"]
        projected = [source for volume in volumes for source in volume.get("projected", {}).get("sources", [])]
        for source in (*volumes, *projected):
            for kind in source.keys() & {"secret", "configMap"}:
                name = source[kind].get("secretName") or source[kind]["name"]
                for item in source[kind].get("items", [{"key": ""}]):
                    yield kind, name, item["key"]
