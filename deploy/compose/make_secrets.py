"""Makes the keys and passwords of a Compose installation: what is missing, and nothing anew that is there.

`python make_secrets.py FOLDER` fills one folder for each of those who read them, which is a volume of its own:

- `admin/`: the database administrator's password and URL, and the password of each service's role
- `label-ingest/`, `drift-monitor/`, `trainer/`: the URL with which the service's own role connects
- `trainer/signing.pem`: the private key that signs models; `trusted/<key id>.pem`: its public half
- `predictor/`, which label-ingest reads, too: `pseudonym`, the key that makes pseudonyms of the ids of patients and
  orders, and `api-keys.json`: who may call, as hashes
- `client/api-key`: the key of a client on this machine, which is shown once, when it is made; `client/operator-key`: of
  who may order retrainings, promotions and roll-backs; `trainer/label-ingest-key`: of the trainer, who reads rows
- `grafana/admin-password`: of Grafana's user `admin`

Where `admin/database-url` is there already, the services' URLs lead to the database that it names.

A file appears whole under its name or not at all, and of two that make it at once the first one's stays.
"""

import os
import secrets
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from driftloop.common import keys
from driftloop.common.access import Scope
from driftloop.common.access.issuing import keep_key
from driftloop.common.access.keyfile import ApiKeyFileError
from driftloop.common.clock import utc_now
from driftloop.common.folders import sync_folder
from driftloop.common.topics import Namespace

CURL = """\
curl -s localhost:8000/v1/predict -H 'content-type: application/json' \\
    -H "x-api-key: $(docker compose run --rm -T secrets cat /secrets/client/api-key)" \\
    -d '{"Pregnancies": 2, "Glucose": 165, "BloodPressure": 72, "BMI": 33.6, "Age": 51}'
"""
SERVICES = ("label_ingest", "drift_monitor", "trainer")
API_KEYS = "predictor/api-keys.json"
TRAINER_API_KEYS, OPERATOR_KEY = "trainer/api-keys.json", "client/operator-key"
# Who has an API key from the start: where it is, and what it opens.
CLIENT_KEY = "client/api-key"
CALLERS: dict[str, tuple[str, list[Scope]]] = {
    "client": (CLIENT_KEY, ["predict", "label", "rows", "admin"]),
    "trainer": ("trainer/label-ingest-key", ["rows"]),
}
DATABASE = "postgres:5432/driftloop"
# Database server and Grafana, which run as other users, read their passwords, too; nobody else has these volumes.
SHARED, PRIVATE = 0o444, 0o400


class DatabaseUrlError(ValueError):
    """The administrator's URL cannot be one for others."""


def main() -> int:
    """Make what is missing and say what was made."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: make_secrets.py FOLDER\n")
        return 2
    try:
        made = make(Path(sys.argv[1]))
    except (OSError, keys.KeyFileError, ApiKeyFileError, DatabaseUrlError) as error:
        sys.stderr.write(f"make_secrets.py: {error}\n")
        return 1
    sys.stdout.write(f"made {', '.join(made)}\n" if made else "every key and password is there\n")
    if CLIENT_KEY in made:
        key = (Path(sys.argv[1]) / CLIENT_KEY).read_text()
        sys.stdout.write(f"a client's API key, which is shown only now: {key}\n")
    sys.stdout.write(f"the predictors answer on this machine:\n{CURL}\n")
    return 0


def make(folder: Path) -> list[str]:
    """Make what is missing in `folder`; returns the files made.

    Raises OSError, KeyFileError, ApiKeyFileError, DatabaseUrlError.
    """
    made: list[str] = []

    def keep(name: str, data: bytes, mode: int = PRIVATE) -> bytes:
        if write_new(folder / name, data, mode):
            made.append(name)
        return (folder / name).read_bytes()

    password = keep("admin/postgres-password", _random(), SHARED).decode()
    admin = keep("admin/database-url", f"postgresql://postgres:{password}@{DATABASE}".encode()).decode().strip()
    for service in SERVICES:
        password = keep(f"admin/{service}-password", _random()).decode()
        url = _url_of(admin, Namespace().role(service), password)
        keep(f"{service.replace('_', '-')}/database-url", url.encode())
    keep("predictor/pseudonym", _random())
    for name, (file, scopes) in CALLERS.items():
        if keep_key(folder / API_KEYS, name, scopes, folder / file, utc_now()):
            made.append(file)
    if keep_key(folder / TRAINER_API_KEYS, "operator", ["admin"], folder / OPERATOR_KEY, utc_now()):
        made.append(OPERATOR_KEY)
    keep("grafana/admin-password", _random(), SHARED)
    keep("trainer/signing.pem", _private_key())
    signing = keys.load_signing_key(folder / "trainer" / "signing.pem")
    public = signing.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # Named by its id: after a new signing key was made, what the old one signed is still trusted.
    keep(f"trusted/{signing.key_id}.pem", public, SHARED)
    return made


def write_new(path: Path, data: bytes, mode: int) -> bool:
    """Write a file that appears whole and durable; False, and nothing done, if there is one of that name."""
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    sync_folder(path.parent)
    return True


def _url_of(admin: str, user: str, password: str) -> str:
    """Where the administrator's URL leads, for another user. Raises DatabaseUrlError."""
    parts = urlsplit(admin)
    if parts.scheme not in ("postgresql", "postgres"):
        raise DatabaseUrlError("admin/database-url: write it as postgresql://user:password@host:port/database")
    return parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


def _random() -> bytes:
    return secrets.token_urlsafe(32).encode()


def _private_key() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        keys.generate(Path(folder) / "private.pem", Path(folder) / "public.pem")
        return (Path(folder) / "private.pem").read_bytes()


if __name__ == "__main__":
    sys.exit(main())
