"""Each image holds what its service needs, a list of it, and nothing to build, install or write with."""

import json
import subprocess
from typing import Any

import pytest

from tests.support.compose import IMAGES, TAG, Containers

SERVICES = ("predictor", "label-ingest", "drift-monitor", "trainer")
CONFINED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none")
TOOLS = ("gcc", "cc", "c++", "g++", "clang", "ld", "as", "make", "pip", "pip3", "uv", "conda", "git", "curl", "wget")
LISTED = """
import importlib.metadata, json
bill = json.load(open("/opt/driftloop/sbom.cdx.json"))
parts = [bill["metadata"]["component"], *bill["components"]]
named = sorted({(one["name"].lower(), one["version"]) for one in parts})
there = sorted({(one.metadata["Name"].lower(), one.version) for one in importlib.metadata.distributions()})
print(json.dumps([bill["bomFormat"], named, there]))
"""

every_image = pytest.mark.parametrize("image", IMAGES)
every_service = pytest.mark.parametrize("image", SERVICES)


@pytest.fixture(autouse=True)
def _images(built: Containers) -> None:
    """They have been built."""


def inside(image: str, *command: str) -> str:
    """What a command writes in a fresh container, which is as confined as Compose's."""
    done = subprocess.run(
        ["docker", "run", "--rm", *CONFINED, f"driftloop/{image}:{TAG}", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def config(image: str) -> dict[str, Any]:
    """What a container of an image is told, which not every engine shows of the image itself."""
    create = ["docker", "create", f"driftloop/{image}:{TAG}"]
    container = subprocess.run(create, capture_output=True, text=True, check=True).stdout.strip()
    found = subprocess.run(["docker", "inspect", container], capture_output=True, text=True, check=True)
    subprocess.run(["docker", "rm", container], capture_output=True, check=True)
    settings: dict[str, Any] = json.loads(found.stdout)[0]["Config"]
    return settings


@every_image
def test_an_image_has_nothing_to_build_or_install_with(image: str) -> None:
    look = f"for one in {' '.join(TOOLS)}; do command -v $one; done; for one in pip ensurepip setuptools; do python -c "
    look += "'import importlib.util as u, sys; u.find_spec(sys.argv[1]) and print(sys.argv[1])' $one; done; echo looked"
    assert inside(image, "sh", "-c", look) == "looked\n"


@every_image
def test_an_image_can_write_to_its_memory_alone(image: str) -> None:
    look = "find / -xdev -writable ! -type l ! -path '/proc*' ! -path '/dev*' ! -path '/sys*' 2>/dev/null; id -u"
    # These are in memory; podman gives the second one, too.
    assert set(inside(image, "sh", "-c", look).split()) - {"/tmp", "/var/tmp"} == {"10001"}


@every_image
def test_an_image_lists_exactly_what_is_installed_in_it(image: str) -> None:
    kind, named, there = json.loads(inside(image, "python", "-c", LISTED))
    assert kind == "CycloneDX"
    assert named == there


@every_image
def test_an_image_says_what_it_is_and_runs_as_nobody(image: str) -> None:
    found = config(image)
    assert found["User"] == "10001:10001"
    labels = {f"org.opencontainers.image.{one}" for one in ("title", "description", "licenses", "version", "revision")}
    assert labels <= found["Labels"].keys()
    assert found["Labels"]["org.opencontainers.image.title"] == f"driftloop-{image}"


@every_service
def test_a_services_image_says_how_its_health_is_asked(image: str) -> None:
    assert "/healthz" in config(image)["Healthcheck"]["Test"][-1]


@pytest.mark.parametrize("image", ["predictor", "drift-monitor", "trainer"])
def test_an_image_can_still_talk_to_s3(image: str) -> None:
    make = "import botocore.session as b; s = b.get_session(); [s.create_client(n, 'eu-west-1') for n in ('s3', 'sts')]"
    assert inside(image, "python", "-c", f"{make}; print('made')") == "made\n"


@pytest.mark.parametrize("module", ["psycopg", "sklearn", "pandas", "joblib"])
def test_the_predictors_image_lacks_what_trains(module: str) -> None:
    look = f"import importlib.util as u; print(u.find_spec('{module}'))"
    assert inside("predictor", "python", "-c", look) == "None\n"
