"""The Helm chart, rendered by the real Helm."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.support.paths import ROOT

CHART = ROOT / "deploy" / "helm" / "driftloop"
HELM = shutil.which("helm") or shutil.which("helm", path=Path.home() / "go" / "bin")
# What the control plane of the installation's own test is.
KUBERNETES = "1.37.0"
Object = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(HELM), *map(str, arguments)], capture_output=True, text=True, check=False)


def template(*arguments: str | Path, release: str = "r", chart: Path = CHART) -> list[Object]:
    done = helm("template", release, chart, "--kube-version", KUBERNETES, *arguments)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one]
