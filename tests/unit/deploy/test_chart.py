"""The Helm chart keeps its promises, in every case that `ci/` has values for. Rendered by the real Helm."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import jsonschema
import msgspec
import pytest
import yaml

from deploy.helm import chart_files
from driftloop.common.kafka.settings import KafkaSettings, brokers_of
from driftloop.common.settings import read_settings, single_settings, variable
from driftloop.common.topics import Namespace, all_topics
from driftloop.drift_monitor.settings import Settings as DriftMonitorSettings
from driftloop.label_ingest.settings import Settings as LabelIngestSettings
from driftloop.predictor.settings import ReplaySettings
from driftloop.predictor.settings import Settings as PredictorSettings
from driftloop.trainer.settings import Settings as TrainerSettings
from tests.support.chart import CHART, HELM, KUBERNETES, Object, helm, template
from tests.support.paths import ROOT

CASES = ("default", "production", "external", "operators")
VALUES: Object = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: Object = json.loads((CHART / "values.schema.json").read_text())
ACCEPTED = jsonschema.Draft202012Validator(SCHEMA)
SETTINGS: dict[str, type[msgspec.Struct]] = {
    "predictor": PredictorSettings,
    "label-ingest": LabelIngestSettings,
    "drift-monitor": DriftMonitorSettings,
    "trainer": TrainerSettings,
    "first-model": TrainerSettings,
    "topics": KafkaSettings,
    "replay": ReplaySettings,
    "restored": KafkaSettings,
}
# What libraries read by themselves: libpq's, and the SDKs' of S3 and of traces.
LIBRARIES = re.compile(r"PGSSL(MODE|ROOTCERT)|(AWS|OTEL)_\w+")
# What the operator's commands take, some of it as an option's variable.
COMMANDS = {
    "migrate": {
        "DATABASE_URL", "DRIFTLOOP_NAMESPACE", "DRIFTLOOP_LABEL_INGEST_DB_PASSWORD",
        "DRIFTLOOP_DRIFT_MONITOR_DB_PASSWORD", "DRIFTLOOP_TRAINER_DB_PASSWORD",
    },
    "topics": {"DRIFTLOOP_NAMESPACE"},
    "restored": {"DATABASE_URL", "DRIFTLOOP_NAMESPACE"},
}  # fmt: skip

every_case = pytest.mark.parametrize("case", CASES)
needs_helm = pytest.mark.skipif(HELM is None, reason="helm is not installed: `.ci/run` installs it where Go is")


def refusal(*arguments: str | Path) -> str:
    done = helm("template", "r", CHART, "--kube-version", KUBERNETES, *arguments)
    assert done.returncode != 0
    return done.stderr


@cache
def rendered(case: str) -> tuple[Object, ...]:
    """Each case is rendered once, with the Jobs that are behind a value."""
    jobs = ["--set", "predictor.replay.claim=spool-r-driftloop-predictor-diabetes-2,migrations.restored=true"]
    return tuple(template("-f", CHART / "ci" / f"{case}-values.yaml", *(jobs if case == "production" else [])))


def of_kind(case: str, *kinds: str) -> list[Object]:
    return [one for one in rendered(case) if one["kind"] in kinds]


def pods(case: str) -> dict[str, Object]:
    """What pods are made of, by the name of what makes them: metadata and spec."""
    makers = of_kind(case, "StatefulSet", "Deployment", "Job")
    found = {one["metadata"]["name"]: one["spec"]["template"] for one in makers}
    return found | {one["metadata"]["name"]: one for one in of_kind(case, "Pod")}


def workloads(case: str) -> dict[str, Object]:
    return {one["metadata"]["name"]: one["spec"]["template"] for one in of_kind(case, "StatefulSet", "Deployment")}


def containers(pod: Object) -> list[Object]:
    return [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]


def environment(container: Object) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in container.get("env") or []}


def chooses(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a selector of Kubernetes chooses what has the labels."""
    same = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return same and all(
        labels.get(one["key"]) in one["values"] and one["operator"] == "In"
        for one in selector.get("matchExpressions", [])
    )


def chosen(case: str, selector: Object) -> set[str]:
    return {name for name, pod in workloads(case).items() if chooses(selector, pod["metadata"]["labels"])}


def test_what_is_copied_into_the_chart_is_what_is_written_elsewhere() -> None:
    wanted = chart_files.files()
    assert chart_files.copied() - wanted.keys() == set()
    stale = [path for path, text in wanted.items() if not (CHART / path).exists() or (CHART / path).read_text() != text]
    assert stale == [], "run `make chart-files`"


@needs_helm
@every_case
def test_helm_has_nothing_to_say(case: str) -> None:
    done = helm("lint", "--strict", "--kube-version", KUBERNETES, "-f", CHART / "ci" / f"{case}-values.yaml", CHART)
    assert done.returncode == 0, done.stdout


@needs_helm
@every_case
def test_there_is_no_hook_but_the_test(case: str) -> None:
    # Before the installation there are no Secrets; after it `--wait` waits for pods that wait for the hook.
    hooks = {
        (one["kind"], one["metadata"]["annotations"]["helm.sh/hook"])
        for one in rendered(case)
        if "helm.sh/hook" in one["metadata"].get("annotations", {})
    }
    assert hooks == {("Pod", "test")}


@needs_helm
@every_case
def test_every_pod_is_restricted(case: str) -> None:
    allowed = {"configMap", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    for name, pod in pods(case).items():
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, name
        assert {kind for volume in spec["volumes"] for kind in volume.keys() - {"name"}} <= allowed, name
        for container in containers(pod):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, (name, container["name"])


@needs_helm
@every_case
def test_every_container_has_requests_and_limits(case: str) -> None:
    for pod in pods(case).values():
        for container in containers(pod):
            for kind in ("requests", "limits"):
                assert container["resources"][kind].keys() >= {"cpu", "memory"}, container["name"]


@needs_helm
@every_case
def test_service_accounts_have_no_token(case: str) -> None:
    accounts = {one["metadata"]["name"]: one for one in of_kind(case, "ServiceAccount")}
    assert all(one["automountServiceAccountToken"] is False for one in accounts.values())
    assert {pod["spec"]["serviceAccountName"] for pod in workloads(case).values()} == accounts.keys()


@needs_helm
@every_case
def test_the_chart_makes_no_secret(case: str) -> None:
    assert of_kind(case, "Secret") == []


def read_keys(case: str) -> dict[str, set[str]]:
    """Which keys of which Secrets the pods read; those of whole volumes are the files that variables name."""
    read: dict[str, set[str]] = {}
    for pod in pods(case).values():
        for volume in pod["spec"]["volumes"]:
            for source in volume.get("projected", {}).get("sources", []):
                read.setdefault(source["secret"]["name"], set()).update(one["key"] for one in source["secret"]["items"])
            if "secret" not in volume:
                continue
            keys = read.setdefault(volume["secret"]["secretName"], set())
            keys.update(one["key"] for one in volume["secret"].get("items", []))
            for container in containers(pod):
                folders = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == volume["name"]]
                for value in environment(container).values():
                    keys.update(value[len(one) + 1 :] for one in folders if value.startswith(f"{one}/"))
    return read


@needs_helm
def test_the_commands_of_the_docs_make_every_key_that_is_read(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"kubectl create secret generic (\S+)((?:\s+--from-file=\S+)+)", text)
    paths = {name: {Path(path) for path in re.findall(r"--from-file=(\S+)", files)} for name, files in commands}
    read = read_keys("default")
    assert read.keys() == set(VALUES["secrets"].values())
    for name, keys in read.items():
        assert keys <= {path.name for path in paths[name]}, name
    script = ROOT / "deploy" / "compose" / "make_secrets.py"
    subprocess.run([sys.executable, script, tmp_path / "secrets"], check=True, capture_output=True)
    for path in {path for name in read for path in paths[name]}:
        assert (tmp_path / path).exists()


@needs_helm
@every_case
def test_no_variable_holds_a_secret(case: str) -> None:
    for pod in pods(case).values():
        for container in containers(pod):
            for name, value in environment(container).items():
                if re.search(r"PASSWORD|PSEUDONYM|_KEY(_|$)|DATABASE_URL|CREDENTIALS", name):
                    assert value.startswith("/secrets/"), name
            assert not any("secretKeyRef" in str(one) for one in container.get("env") or [])


@needs_helm
@every_case
def test_every_variable_is_known_to_who_gets_it_and_given_once(case: str) -> None:
    for pod in pods(case).values():
        for container in containers(pod):
            given = [one["name"] for one in container.get("env") or []]
            assert len(given) == len(set(given)), container["name"]
            names = COMMANDS.get(container["name"], set[str]())
            if container["name"] in SETTINGS:
                names = names | {variable(one.name) for one in single_settings(SETTINGS[container["name"]])}
            known = names | {f"{name}_FILE" for name in names}
            assert {name for name in given if name not in known and not LIBRARIES.fullmatch(name)} == set()


@needs_helm
@every_case
def test_services_and_commands_take_the_settings_that_they_are_given(case: str, tmp_path: Path) -> None:
    for pod in pods(case).values():
        for container in containers(pod):
            if container["name"] not in SETTINGS:
                continue
            given = environment(container)
            for name, value in given.items():
                if value.startswith("/") and "," not in value:
                    file = tmp_path / value.lstrip("/")
                    given[name] = str(file)
                    if name.endswith("_FILE") or name.startswith("KAFKA_"):
                        file.parent.mkdir(parents=True, exist_ok=True)
                        file.write_text("what a Secret holds")
            settings = read_settings(SETTINGS[container["name"]], given)
            brokers_of(settings if isinstance(settings, KafkaSettings) else settings.kafka)  # type: ignore[attr-defined]


@needs_helm
def test_settings_are_given_as_they_are_written() -> None:
    given = environment(workloads("production")["r-driftloop-predictor-loan"]["spec"]["containers"][0])
    assert given["DRIFTLOOP_SPOOL_MAX_BYTES"] == "134217728"
    assert (given["DRIFTLOOP_RATE_LIMIT"], given["COMPAT_ANONYMOUS"]) == ("0.5", "true")
    assert given["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.observability:4318"


@needs_helm
@every_case
def test_every_file_that_a_variable_names_is_mounted(case: str) -> None:
    for pod in pods(case).values():
        for container in containers(pod):
            mounts = [one["mountPath"] for one in container["volumeMounts"]]
            for value in environment(container).values():
                for path in value.removeprefix("file://").split(","):
                    if path.startswith("/"):
                        assert any(path == mount or path.startswith(f"{mount}/") for mount in mounts), path


@needs_helm
@every_case
def test_every_volume_is_mounted_and_what_is_secret_or_given_is_read_only(case: str) -> None:
    for name, pod in pods(case).items():
        volumes = {one["name"] for one in pod["spec"]["volumes"]}
        volumes |= {"spool"} if "predictor" in name else set()
        mounts = [one for container in containers(pod) for one in container["volumeMounts"]]
        assert {one["name"] for one in mounts} == volumes, name
        for mount in mounts:
            if mount["mountPath"].startswith(("/secrets", "/models")):
                assert mount["readOnly"] is True
                # A key that is exchanged is seen at once; through a subPath it never would be.
                assert "subPath" not in mount


@needs_helm
@every_case
def test_who_migrates_is_an_administrator_and_nobody_else(case: str) -> None:
    seeing = {
        container["name"]
        for pod in pods(case).values()
        for container in containers(pod)
        if any(mount["name"] == "admin" for mount in container["volumeMounts"])
    }
    others = {"restored"} if case == "production" else set()
    assert seeing == (set() if case == "external" else {"migrate"} | others)


@needs_helm
@pytest.mark.parametrize("case", ["default", "external", "operators"])
def test_models_are_written_and_training_sets_are_seen_by_the_trainer_alone(case: str) -> None:
    mounts = [
        (container["name"], mount)
        for pod in pods(case).values()
        for container in containers(pod)
        for mount in container["volumeMounts"]
        if mount["name"] == "artifacts"
    ]
    assert {name for name, _ in mounts} == {"predictor", "drift-monitor", "trainer", "first-model"}
    assert {name for name, mount in mounts if not mount.get("readOnly")} == {"trainer", "first-model"}
    assert {name for name, mount in mounts if mount["subPath"] == "training-sets"} == {"trainer", "first-model"}


@needs_helm
@every_case
def test_no_two_pods_share_a_folder_for_temporary_files(case: str) -> None:
    for pod in pods(case).values():
        for container in containers(pod):
            assert "TMPDIR" not in environment(container)
            assert [one["name"] for one in container["volumeMounts"] if one["mountPath"] == "/tmp"] == ["tmp"]
        (volume,) = (one for one in pod["spec"]["volumes"] if one["name"] == "tmp")
        assert volume.keys() & {"emptyDir", "ephemeral"}


@needs_helm
def test_what_a_service_needs_is_prepared_in_order_before_it_starts() -> None:
    prepared = {
        pod["metadata"]["labels"]["app.kubernetes.io/component"]: [one["name"] for one in pod["spec"]["initContainers"]]
        for pod in workloads("default").values()
    }
    assert prepared == {
        "predictor": ["topics"],
        "label-ingest": ["migrate", "topics"],
        "drift-monitor": ["migrate", "topics"],
        "trainer": ["migrate", "topics", "first-model"],
    }


@needs_helm
@every_case
def test_spools_stay_and_replicas_wait_for_nobody(case: str) -> None:
    for one in of_kind(case, "StatefulSet"):
        spec = one["spec"]
        assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
        assert spec["podManagementPolicy"] == "Parallel"
        assert [claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]] == ["spool"]
        assert spec["serviceName"] in {service["metadata"]["name"] for service in of_kind(case, "Service")}


@needs_helm
@every_case
def test_probes_ask_the_management_port_and_ending_pods_have_time(case: str) -> None:
    for pod in workloads(case).values():
        (container,) = pod["spec"]["containers"]
        paths = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert paths == {
            "startup": {"path": "/healthz", "port": "management"},
            "liveness": {"path": "/healthz", "port": "management"},
            "readiness": {"path": "/readyz", "port": "management"},
        }
        drain = float(environment(container).get("DRIFTLOOP_DRAIN_SECONDS", 5))
        assert ("lifecycle" in container) is ("DRIFTLOOP_DRAIN_SECONDS" not in environment(container))
        assert pod["spec"]["terminationGracePeriodSeconds"] >= drain + 30


@needs_helm
@every_case
def test_what_never_may_change_is_in_the_selectors_alone(case: str) -> None:
    for one in of_kind(case, "StatefulSet", "Deployment"):
        selector = one["spec"]["selector"]["matchLabels"]
        assert selector.keys() <= {
            "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component", "driftloop/model",
        }  # fmt: skip
        assert chosen(case, one["spec"]["selector"]) == {one["metadata"]["name"]}
        for claim in one["spec"].get("volumeClaimTemplates", []):
            assert claim["metadata"]["labels"] == selector


@needs_helm
@every_case
def test_each_workload_has_one_budget_and_two_services(case: str) -> None:
    budgets = [chosen(case, one["spec"]["selector"]) for one in of_kind(case, "PodDisruptionBudget")]
    assert sorted(name for names in budgets for name in names) == sorted(workloads(case))
    ports: dict[str, set[str]] = {}
    for one in of_kind(case, "Service"):
        (name,) = chosen(case, {"matchLabels": one["spec"]["selector"]})
        (pod,) = workloads(case)[name]["spec"]["containers"]
        offered = {port["name"] for port in pod["ports"]}
        for port in one["spec"]["ports"]:
            assert port["targetPort"] in offered
            ports.setdefault(name, set()).add(port["name"])
    mllp = {"mllp"} if case == "production" else set()
    assert ports == {
        name: {"http", "management"} | (mllp if name.endswith("label-ingest") else set()) for name in workloads(case)
    }


@needs_helm
def test_what_scales_names_what_there_is_and_leaves_its_number_alone() -> None:
    makers = {(one["kind"], one["metadata"]["name"]): one for one in of_kind("production", "StatefulSet", "Deployment")}
    scaled = {
        (one["spec"]["scaleTargetRef"].get("kind", "Deployment"), one["spec"]["scaleTargetRef"]["name"])
        for one in of_kind("production", "HorizontalPodAutoscaler", "ScaledObject")
    }
    assert {name for _kind, name in makers.keys() - scaled} == {"r-driftloop-trainer"}
    assert all("replicas" not in makers[one]["spec"] for one in scaled)


@needs_helm
def test_consumers_scale_by_the_lag_of_their_own_groups() -> None:
    namespace, known = Namespace("blue"), {Namespace("blue").topic(one): one for one in all_topics()}
    for one in of_kind("production", "ScaledObject"):
        component = one["metadata"]["labels"]["app.kubernetes.io/component"]
        triggers = [trigger["metadata"] for trigger in one["spec"]["triggers"]]
        assert {trigger["consumerGroup"] for trigger in triggers} == {namespace.group(component)}
        # More replicas than partitions would be idle.
        most = max(known[trigger["topic"]].partitions for trigger in triggers)
        assert one["spec"]["maxReplicaCount"] <= most
        assert {(trigger["sasl"], trigger["tls"]) for trigger in triggers} == {("scram_sha512", "enable")}


@needs_helm
@every_case
def test_every_pod_is_denied_by_default_and_allowed_what_its_own_policy_says(case: str) -> None:
    policies = of_kind(case, "NetworkPolicy")
    denying = [one for one in policies if not one["spec"].keys() & {"ingress", "egress"}]
    (deny,) = denying
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    for name, pod in pods(case).items():
        labels = pod["metadata"]["labels"]
        assert chooses(deny["spec"]["podSelector"], labels), name
        own = [one for one in policies if chooses(one["spec"]["podSelector"], labels)]
        assert len(own) == 3, name
    for kind in ("Kafka", "KafkaNodePool", "Cluster"):
        for one in of_kind(case, kind):
            assert not chooses(deny["spec"]["podSelector"], one["metadata"]["labels"])


@needs_helm
def test_policies_let_through_to_the_ports_of_brokers_database_and_store() -> None:
    def ports(case: str, component: str) -> set[int | str]:
        (policy,) = (
            one for one in of_kind(case, "NetworkPolicy") if one["metadata"]["name"] == f"r-driftloop-{component}"
        )
        return {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}

    assert ports("default", "predictor") == {9092}
    assert ports("external", "label-ingest") == {9094, 6432}
    assert ports("production", "trainer") == {9093, 9000, 5432, "http"}
    assert ports("production", "drift-monitor") == {9093, 9000, 5432}
    assert ports("operators", "trainer") == {9093, 5432, "http"}


@needs_helm
@pytest.mark.parametrize(("case", "kind"), [("production", "PodMonitor"), ("external", "ServiceMonitor")])
def test_what_monitors_finds_every_component_by_its_name(case: str, kind: str) -> None:
    (monitor,) = of_kind(case, kind)
    assert monitor["spec"]["jobLabel"] == "app.kubernetes.io/component"
    if kind == "PodMonitor":
        found = chosen(case, monitor["spec"]["selector"])
    else:
        services = [
            one for one in of_kind(case, "Service") if chooses(monitor["spec"]["selector"], one["metadata"]["labels"])
        ]
        assert all([port["name"] for port in one["spec"]["ports"]] == ["management"] for one in services)
        found = {name for one in services for name in chosen(case, {"matchLabels": one["spec"]["selector"]})}
    assert found == workloads(case).keys()


@needs_helm
@every_case
def test_a_volume_of_one_node_has_its_pods_on_one_node_and_all_others_are_spread(case: str) -> None:
    for name, pod in workloads(case).items():
        spec, labels = pod["spec"], pod["metadata"]["labels"]
        if case == "default" and not name.endswith("label-ingest"):
            (term,) = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            assert chosen(case, term["labelSelector"]) == workloads(case).keys() - {"r-driftloop-label-ingest"}
        else:
            assert [one["topologyKey"] for one in spec["topologySpreadConstraints"]] == [
                "topology.kubernetes.io/zone",
                "kubernetes.io/hostname",
            ]
            assert all(chooses(one["labelSelector"], labels) for one in spec["topologySpreadConstraints"])


@needs_helm
def test_routes_lead_to_the_services_of_their_models() -> None:
    services = {one["metadata"]["name"]: one for one in of_kind("production", "Service")}
    (ingress,) = of_kind("production", "Ingress")
    led = {rule["host"]: rule["http"]["paths"][0]["backend"]["service"]["name"] for rule in ingress["spec"]["rules"]}
    assert led == {
        "diabetes.example": "r-driftloop-predictor-diabetes",
        "loan.example": "r-driftloop-predictor-loan",
    }
    for one in of_kind("production", "HTTPRoute"):
        (backend,) = one["spec"]["rules"][0]["backendRefs"]
        assert backend["name"] == led[one["spec"]["hostnames"][0]]
        assert backend["port"] in {port["port"] for port in services[backend["name"]]["spec"]["ports"]}


@needs_helm
def test_the_topics_of_strimzi_are_those_of_the_services() -> None:
    made = {one["spec"]["topicName"]: one["spec"] for one in of_kind("operators", "KafkaTopic")}
    assert made.keys() == {topic.name for topic in all_topics()}
    for topic in all_topics():
        assert (made[topic.name]["partitions"], made[topic.name]["config"]) == (topic.partitions, dict(topic.config))
    # Who makes the topics is the operator, and nobody else.
    names = {one["name"] for pod in workloads("operators").values() for one in containers(pod)}
    assert "topics" not in names


@needs_helm
def test_what_holds_data_is_kept_when_the_chart_is_uninstalled() -> None:
    kept = {
        one["kind"]
        for one in rendered("operators")
        if one["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {"PersistentVolumeClaim", "Kafka", "KafkaNodePool", "KafkaTopic", "Cluster"}


@needs_helm
def test_the_secrets_of_the_operators_are_wired_through() -> None:
    trainer = workloads("operators")["r-driftloop-trainer"]
    secrets = {
        (volume["name"], source["secret"]["name"], item["key"], item["path"])
        for volume in trainer["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        for item in source["secret"]["items"]
    }
    assert secrets >= {
        ("kafka", "r-driftloop", "password", "password"),
        ("kafka", "r-driftloop-cluster-ca-cert", "ca.crt", "ca.crt"),
        ("admin", "r-driftloop-postgres-app", "uri", "database-url"),
    }
    (user,) = of_kind("operators", "KafkaUser")
    given = environment(trainer["spec"]["containers"][0])
    assert (given["KAFKA_SASL_USERNAME"], given["PGSSLMODE"]) == (user["metadata"]["name"], "verify-full")


@needs_helm
def test_the_replay_reads_the_claim_that_is_named() -> None:
    (job, _restored) = of_kind("production", "Job")
    (spool,) = (one for one in job["spec"]["template"]["spec"]["volumes"] if one["name"] == "spool")
    assert spool["persistentVolumeClaim"] == {"claimName": "spool-r-driftloop-predictor-diabetes-2"}


@needs_helm
def test_what_follows_a_restore_reaches_database_and_brokers_and_migrates_first() -> None:
    (_replay, job) = of_kind("production", "Job")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["driftloop", "restored"]
    assert [one["name"] for one in pod["initContainers"]] == ["migrate"]
    assert {"DATABASE_URL_FILE", "KAFKA_BOOTSTRAP_SERVERS"} <= environment(container).keys()
    assert "migrations.enabled" in refusal("--set", "migrations.restored=true,migrations.enabled=false")


@needs_helm
def test_a_new_contract_rolls_every_pod_that_reads_it(tmp_path: Path) -> None:
    other = tmp_path / "contract.yaml"
    other.write_text((CHART / "files" / "models" / "diabetes" / "contract.yaml").read_text() + "# another\n")

    def annotations(objects: list[Object]) -> dict[str, str]:
        return {
            one["metadata"]["name"]: one["spec"]["template"]["metadata"]["annotations"]["checksum/model-diabetes"]
            for one in objects
            if one["kind"] in {"StatefulSet", "Deployment"}
        }

    before = annotations(list(rendered("default")))
    after = annotations(template("--set-file", f"models[0].contract={other}", "--set", "models[0].name=diabetes"))
    assert before.keys() == after.keys()
    assert all(before[name] != after[name] for name in before)


@needs_helm
def test_long_names_fit_and_two_that_are_alike_stay_two() -> None:
    model = ["--set", "models[0].name=abcdefghijklmnop,models[0].existingConfigMap=m"]
    names = []
    for end in "xy":
        objects = template(*model, release="a" * 52 + end)
        names.append({one["metadata"]["name"] for one in objects})
        # Its pods carry the name with a hash of ten letters in a label, which may have 63.
        assert all(len(one["metadata"]["name"]) <= 52 for one in objects if one["kind"] == "StatefulSet")
        assert all(len(name) <= 63 for name in names[-1])
    assert names[0] & names[1] == set()


@needs_helm
def test_rules_and_dashboards_go_along_as_they_are_but_for_the_runbooks(tmp_path: Path) -> None:
    chart = tmp_path / "driftloop"
    shutil.copytree(CHART, chart)
    rules = chart / "files" / "rules" / "own_rules.yaml"
    rules.parent.mkdir(exist_ok=True)
    rule = {
        "alert": "Own",
        "expr": "up == 0",
        "annotations": {
            "summary": "{{ $labels.instance }} is away",
            "runbook_url": "https://driftloop.example/docs/operations.md#own",
        },
    }
    rules.write_text(yaml.safe_dump({"groups": [{"name": "own", "rules": [rule]}]}))
    dashboard = chart / "files" / "dashboards" / "own.json"
    dashboard.parent.mkdir(exist_ok=True)
    dashboard.write_text('{"title": "{{ own }}", "url": "https://driftloop.example/docs/operations.md#runbooks"}\n')
    values: list[str | Path] = ["-f", chart / "ci" / "production-values.yaml", "-s", "templates/monitoring.yaml"]
    objects = {one["metadata"]["name"]: one for one in template(*values, chart=chart)}
    found = objects["r-driftloop-own-rules"]["spec"]["groups"][0]["rules"][0]
    assert found["annotations"] == {
        "summary": "{{ $labels.instance }} is away",
        "runbook_url": "https://wiki.example/driftloop/operations.md#own",
    }
    assert objects["r-driftloop-dashboard-own"]["data"]["own.json"] == (
        '{"title": "{{ own }}", "url": "https://wiki.example/driftloop/operations.md#runbooks"}\n'
    )


@needs_helm
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("models[0].name=churn", "churn has no contract: give contract, existingConfigMap or existingClaim"),
        ("models[0].name=churn,models[0].contract=name: churn", "baseline.path names a file beside it"),
        ("ingress.enabled=true,ingress.hosts[0].host=h,ingress.hosts[0].model=churn", "name one of diabetes"),
        ("kafka.securityProtocol=SASL_SSL", "kafka.sasl.mechanism: name one"),
        ("predictor.settings.DRIFTLOOP_RATE_LIMTI=5", "'DRIFTLOOP_RATE_LIMTI' not allowed"),
        ("trainer.settings.DRIFTLOOP_PORT=5", "'DRIFTLOOP_PORT' not allowed"),
        ("replicaCount=3", "'replicaCount' not allowed"),
        (r"commonLabels.driftloop/model=other", "'driftloop/model'"),
    ],
)
def test_what_cannot_be_is_refused_with_a_reason(setting: str, said: str) -> None:
    assert said in refusal("--set", setting)


def levels(values: Object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every map in the values whose keys are the chart's own."""
    yield path
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from levels(value, (*path, key))


def test_a_key_that_is_not_known_is_refused_at_every_level() -> None:
    assert ACCEPTED.is_valid(VALUES)
    for path in levels(VALUES):
        values = json.loads(json.dumps(VALUES))
        place = values
        for key in path:
            place = place[key]
        place["unknownKey"] = 1
        # The inputs of a model have the model's names.
        assert ACCEPTED.is_valid(values) is (path == ("test", "request")), path


def objects(schema: Object, path: str = "$") -> Iterator[tuple[str, Object]]:
    """Every place where a schema speaks of an object."""
    if schema.get("type") == "object":
        yield path, schema
    for key, value in schema.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from objects(part, f"{path}.{key}")


def test_the_schema_has_no_additional_properties_but_where_the_names_are_somebody_elses() -> None:
    free = {path for path, one in objects(SCHEMA) if one.get("additionalProperties") is not False}
    assert free == {
        "$.properties.global",
        "$.properties.test.properties.request",
        "$.$defs.strings",
        "$.$defs.kubernetes",
    }


def leaves(values: Object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every key with its default; what is Kubernetes' own, or a model's, is one."""
    for key, value in values.items():
        if isinstance(value, dict) and value and key not in {"resources", "request", "labels"}:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def test_the_readmes_table_has_every_value_once_with_its_default() -> None:
    rows = re.findall(r"^\| (`[a-z].*?) \| (.*?) \| .*\|$", (CHART / "README.md").read_text(), re.MULTILINE)
    defaults = dict(leaves(VALUES))
    named = [name for names, _ in rows for name in re.findall(r"`([^`]+)`", names)]
    assert sorted(named) == sorted(defaults)
    for names, default in rows:
        keys = re.findall(r"`([^`]+)`", names)
        told = {"" if defaults[key] in ("", {}, []) else f"`{_text(defaults[key])}`" for key in keys}
        # Where several have one row, and not one default, or a long one, the row does not say it.
        assert default == "see values.yaml" or {default} == told, names


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class Answers(BaseHTTPRequestHandler):
    """Ready, and predicts for who has the key."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 503)
        self.end_headers()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200 if (self.headers["x-api-key"], body) == ("k", {"Age": 51}) else 401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def answering() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "key", "status"), [("/readyz", "k", 0), ("/unready", "k", 1), ("/readyz", "other", 1)]
)
def test_the_charts_test_fails_where_one_is_not_ready_or_predicts_not(
    answering: str, tmp_path: Path, path: str, key: str, status: int
) -> None:
    (tmp_path / "key").write_text(f"{key}\n")
    done = subprocess.run(
        [sys.executable, "-c", (CHART / "files" / "ready.py").read_text(), f"--predict={answering}/v1/predict",
         '--body={"Age":51}', f"--key-file={tmp_path / 'key'}", f"{answering}{path}", f"{answering}/readyz"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout
    assert done.stdout.count(answering) == 3
