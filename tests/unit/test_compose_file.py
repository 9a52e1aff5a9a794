"""docker-compose.yml and the Dockerfiles keep their promises: confined, bound to this machine, complete."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from driftloop.common.settings import single_settings, variable
from driftloop.devstack import docker
from driftloop.drift_monitor.settings import Settings as DriftMonitorSettings
from driftloop.label_ingest.settings import Settings as LabelIngestSettings
from driftloop.predictor.settings import Settings as PredictorSettings
from driftloop.trainer.settings import Settings as TrainerSettings
from tests.support.paths import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
JOBS = ("secrets", "migrate", "topics", "first-model")
DOCKERFILES = sorted([*ROOT.glob("services/*/Dockerfile"), *ROOT.glob("libs/*/Dockerfile")])
SETTINGS: dict[str, type[msgspec.Struct]] = {
    "predictor-1": PredictorSettings,
    "predictor-2": PredictorSettings,
    "label-ingest": LabelIngestSettings,
    "drift-monitor": DriftMonitorSettings,
    "trainer": TrainerSettings,
    "first-model": TrainerSettings,
}

every_service = pytest.mark.parametrize("name", SERVICES)
every_dockerfile = pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)


def needs(name: str) -> set[str]:
    """All that must be there before a service starts, and what those need."""
    direct = set(SERVICES[name].get("depends_on", {}))
    return direct.union(*(needs(other) for other in direct)) if direct else set()


def final_stage(path: Path) -> list[str]:
    """The instructions of the stage that is shipped."""
    text = path.read_text().replace("\\\n", " ")
    return text[text.rindex("\nFROM ") :].splitlines()


@every_service
def test_nothing_has_a_capability_or_gains_one(name: str) -> None:
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]


@every_service
def test_only_the_broker_can_write_beside_its_programs(name: str) -> None:
    assert SERVICES[name].get("read_only", False) is (name != "kafka")


@every_service
def test_everything_has_a_limit_of_memory_and_processors(name: str) -> None:
    assert re.fullmatch(r"\d+[mg]", SERVICES[name]["mem_limit"])
    assert 0 < SERVICES[name]["cpus"] <= 2


@every_service
def test_what_runs_on_is_started_again_and_a_job_is_not(name: str) -> None:
    assert SERVICES[name]["restart"] == ("no" if name in (*JOBS, "demo") else "unless-stopped")


@every_service
def test_ports_are_published_on_this_machine_alone_unless_told_otherwise(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert port.startswith("${DRIFTLOOP_BIND:-127.0.0.1}:")


@pytest.mark.parametrize("job", JOBS)
def test_a_job_is_waited_for_so_that_its_failure_stops_the_start(job: str) -> None:
    # It is also what keeps `up --wait` from taking a job's end for a failure.
    waiting = [one["depends_on"][job]["condition"] for one in SERVICES.values() if job in one.get("depends_on", {})]
    assert set(waiting) == {"service_completed_successfully"}


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {*JOBS, "demo"}))
def test_what_runs_on_says_when_it_is_ready(name: str) -> None:
    # A string: a shell's command means the same to every engine.
    assert isinstance(SERVICES[name]["healthcheck"]["test"], str)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_required_setting_is_given(name: str) -> None:
    given = SERVICES[name]["environment"].keys()
    required = {variable(field.name) for field in single_settings(SETTINGS[name]) if field.required}
    assert {one for one in required if one not in given and f"{one}_FILE" not in given} == set()


@pytest.mark.parametrize("name", SETTINGS)
def test_what_needs_topics_and_schemas_starts_after_they_were_made(name: str) -> None:
    assert {"secrets", "migrate", "topics", "kafka", "postgres"} <= needs(name)


def test_the_key_that_signs_is_seen_by_the_trainer_alone() -> None:
    seeing = {
        name for name, one in SERVICES.items() if any(v.startswith("trainer-secrets:") for v in one.get("volumes", []))
    }
    assert seeing == {"secrets", "first-model", "trainer"}


def test_the_callers_and_pseudonyms_of_predictors_and_label_ingest_are_the_same() -> None:
    shared = ("DRIFTLOOP_API_KEYS", "DRIFTLOOP_PSEUDONYM_KEY_FILE")
    doors = [SERVICES[name] for name in ("predictor-1", "predictor-2", "label-ingest")]
    assert len({tuple(one["environment"][name] for name in shared) for one in doors}) == 1
    assert all("predictor-secrets:/secrets/predictor:ro" in one["volumes"] for one in doors)


def test_the_trainer_has_a_key_of_label_ingest() -> None:
    assert SERVICES["trainer"]["environment"]["DRIFTLOOP_LABEL_INGEST_KEY_FILE"] == "/secrets/trainer/label-ingest-key"


def test_keys_and_contracts_are_read_only_but_for_the_job_that_makes_keys() -> None:
    mounts = [
        (name, volume)
        for name, one in SERVICES.items()
        for volume in one.get("volumes", [])
        if ":/secrets/" in volume or ":/models" in volume
    ]
    assert {name for name, volume in mounts if not volume.endswith(":ro")} == {"secrets"}


def test_models_are_written_by_the_trainer_alone() -> None:
    folder = "artifacts:/var/lib/driftloop/artifacts"
    writing = {name for name, one in SERVICES.items() if folder in one.get("volumes", [])}
    assert writing == {"first-model", "trainer"}


def test_the_servers_are_those_that_the_tests_run_on() -> None:
    assert SERVICES["kafka"]["image"] == docker.KAFKA_IMAGE
    assert SERVICES["postgres"]["image"] == docker.POSTGRES_IMAGE


def test_every_setting_of_the_compose_file_is_described_with_its_default() -> None:
    used = set(re.findall(r"\$\{(\w+):-([^}]*)\}", (ROOT / "docker-compose.yml").read_text()))
    described = set(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used == described


@every_dockerfile
def test_an_image_runs_as_a_user_with_a_number(path: Path) -> None:
    assert [line for line in final_stage(path) if line.startswith("USER ")] == ["USER 10001:10001"]


@every_dockerfile
def test_an_image_starts_its_program_without_a_shell(path: Path) -> None:
    assert [line for line in final_stage(path) if re.fullmatch(r'CMD \["[^]]+"\]', line)]


@every_dockerfile
def test_an_image_needs_no_particular_builder(path: Path) -> None:
    assert not re.search(r"--mount|--link|<<|^# *syntax", path.read_text(), re.MULTILINE)


@every_dockerfile
def test_an_image_installs_nothing_without_its_hash_or_from_elsewhere(path: Path) -> None:
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) (.*)", path.read_text())
    assert len(installs) == 4
    assert all("--require-hashes" in one or "--no-index --no-deps" in one for one in installs)


@pytest.mark.parametrize("package", ["psycopg", "scikit-learn", "pandas", "joblib", "skl2onnx", "hatchling"])
def test_the_predictors_image_lacks_what_a_predictor_does_not_need(package: str) -> None:
    pins = (ROOT / "requirements" / "predictor.txt").read_text()
    assert not re.search(rf"^{package}(-\w+)?==", pins, re.MULTILINE)


@pytest.mark.parametrize("name", ["predictor", "label-ingest", "drift-monitor", "trainer", "cli", "demo", "build"])
def test_images_get_the_versions_that_the_tests_ran_with(name: str) -> None:
    def pinned(file: str) -> set[str]:
        return set(re.findall(r"^\S+==\S+", (ROOT / "requirements" / file).read_text(), re.MULTILINE))

    assert pinned(f"{name}.txt") - pinned("dev.txt") == set()


def test_the_demo_comes_only_when_asked_for_and_when_all_doors_are_open() -> None:
    demo = SERVICES["demo"]
    assert demo["profiles"] == ["demo"]
    doors = ("predictor-1", "predictor-2", "label-ingest", "drift-monitor", "trainer")
    assert demo["depends_on"] == {name: {"condition": "service_healthy"} for name in doors}
    assert not any("profiles" in one for name, one in SERVICES.items() if name != "demo")


@pytest.mark.parametrize("name", ["prometheus", "alertmanager", "grafana"])
def test_what_watches_has_a_version_and_keeps_its_data(name: str) -> None:
    assert re.fullmatch(r"(prom|grafana)/[a-z]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])
    assert any(one.startswith(f"{name}-data:") for one in SERVICES[name]["volumes"])


def test_grafana_lets_nobody_in_without_a_password_and_tells_nobody_outside() -> None:
    settings = SERVICES["grafana"]["environment"]
    assert settings["GF_SECURITY_ADMIN_PASSWORD__FILE"] == "/secrets/grafana/admin-password"
    assert settings["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    outside = ("REPORTING_ENABLED", "CHECK_FOR_UPDATES", "CHECK_FOR_PLUGIN_UPDATES", "FEEDBACK_LINKS_ENABLED")
    assert {settings[f"GF_ANALYTICS_{name}"] for name in outside} == {"false"}


def test_grafana_finds_the_dashboards_and_the_data_source_that_it_is_told_of() -> None:
    told = ROOT / "deploy" / "grafana" / "provisioning"
    mounts = dict(one.removesuffix(":ro").split(":")[::-1] for one in SERVICES["grafana"]["volumes"])
    for provider in yaml.safe_load((told / "dashboards" / "driftloop.yaml").read_text())["providers"]:
        assert list((ROOT / mounts[provider["options"]["path"]]).glob("*.json"))
    for source in yaml.safe_load((told / "datasources" / "prometheus.yaml").read_text())["datasources"]:
        assert source["url"].removeprefix("http://").partition(":")[0] in SERVICES
