"""What an artifact is made of, and its form as files.

A bundle is a folder of four content files and a manifest that lists their sizes and digests. The manifest's own digest
is what gets signed, so it vouches for all the others.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from driftloop.common.contract import ModelName
from driftloop.common.profile import ReferenceProfile
from driftloop.common.registry.errors import ArtifactMalformed, ArtifactTooLarge, DigestMismatch

FORMAT_VERSION = 1
# A larger forest is a mistake in its parameters, and would have to be loaded by every replica.
SIZE_LIMIT = 200_000_000
MANIFEST_LIMIT = 64 * 1024

MANIFEST = "manifest.json"
MODEL = "model.onnx"
CARD = "card.json"
PROFILE = "profile.json"
KNOWN_ANSWERS = "known_answers.json"
CONTENTS = (MODEL, CARD, PROFILE, KNOWN_ANSWERS)

ModelVersion = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
T = TypeVar("T")

_PLAIN = re.compile(r"[A-Za-z0-9._=+,~-]{1,255}")


class KnownAnswers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Inputs [n, d], None where missing, and the P(label = 1) [n] that the model must give for them ± `tolerance`."""

    inputs: Annotated[tuple[Annotated[tuple[float | None, ...], Meta(min_length=1)], ...], Meta(min_length=1)]
    probabilities: Annotated[tuple[Annotated[float, Meta(ge=0, le=1)], ...], Meta(min_length=1)]
    tolerance: Annotated[float, Meta(gt=0, le=1e-3)] = 1e-5


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one model: ONNX bytes, model card (JSON bytes), reference profile and known answers."""

    model_name: ModelName
    model_version: ModelVersion
    model: bytes
    card: bytes
    profile: ReferenceProfile
    known_answers: KnownAnswers
    contract_digest: Sha256
    created: Annotated[datetime, Meta(tz=True)]


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One content file: the SHA-256 of its bytes (hex), and how many there are."""

    sha256: Sha256
    size: Annotated[int, Meta(ge=0)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle holds. `files` has exactly the names in `CONTENTS`."""

    format_version: int
    model_name: ModelName
    model_version: ModelVersion
    contract_digest: Sha256
    created: Annotated[datetime, Meta(tz=True)]
    files: dict[str, FileEntry]


def sha256(data: bytes) -> str:
    """The digest as manifests and references write it."""
    return hashlib.sha256(data).hexdigest()


def highest_number(names: Iterable[str]) -> int:
    """The highest version among the names of folders, 0 where there is none."""
    # More digits than any version has are no version.
    return max((int(name) for name in names if re.fullmatch("[1-9][0-9]{0,8}", name)), default=0)


def version_uri(root_uri: str, model: str, version: int) -> str:
    """Where a version is kept, below its store's root."""
    return f"{root_uri.rstrip('/')}/{model}/{version}"


def plain(name: str) -> bool:
    """Whether a name means one file or folder, below any other, and the same to every kind of store."""
    return _PLAIN.fullmatch(name) is not None and name not in (".", "..")


def to_files(bundle: Bundle) -> dict[str, bytes]:
    """The bundle as file names and bytes, the manifest last; equal bundles give equal bytes.

    Raises ArtifactMalformed where what would be written could not be read again.
    """
    files = {
        MODEL: bundle.model,
        CARD: bundle.card,
        PROFILE: msgspec.json.encode(bundle.profile),
        KNOWN_ANSWERS: msgspec.json.encode(bundle.known_answers),
    }
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        model_name=bundle.model_name,
        model_version=bundle.model_version,
        contract_digest=bundle.contract_digest,
        created=bundle.created,
        files={name: FileEntry(sha256(data), len(data)) for name, data in files.items()},
    )
    files[MANIFEST] = msgspec.json.encode(manifest, order="deterministic")
    again = from_files(read_manifest(files[MANIFEST], bundle.model_name, bundle.model_version), files)
    if again != bundle:
        # JSON has no NaN and no infinity: they come back as null.
        raise ArtifactMalformed(f"{_title(manifest)} holds a value that JSON cannot: write finite numbers, or None")
    return files


def read_manifest(data: bytes, model: str, version: int) -> Manifest:
    """Decode a manifest and check that it is this version's. Raises ArtifactMalformed."""
    title = f"version {version} of model {model!r}"
    # The version first: another format need not have these fields.
    found = _decode(data, _FormatVersion, title, MANIFEST).format_version
    if found != FORMAT_VERSION:
        raise ArtifactMalformed(
            f"{title} has format {found}, only {FORMAT_VERSION} is known here: upgrade this service"
        )
    manifest = _decode(data, Manifest, title, MANIFEST)
    if (manifest.model_name, manifest.model_version) != (model, version):
        raise ArtifactMalformed(f"{title}: its manifest is that of {_title(manifest)}: register it anew")
    if set(manifest.files) != set(CONTENTS):
        raise ArtifactMalformed(f"{title}: its manifest must list {', '.join(CONTENTS)} and nothing else")
    return manifest


def check_size(manifest: Manifest, limit: int) -> None:
    """Raises ArtifactTooLarge where the content files together exceed `limit` bytes."""
    size = sum(entry.size for entry in manifest.files.values())
    if size > limit:
        raise ArtifactTooLarge(
            f"{_title(manifest)} has {size} bytes, the limit is {limit}: train a smaller model (fewer or shallower"
            " trees), or raise the limit here and in every predictor"
        )


def checked(manifest: Manifest, name: str, data: bytes) -> bytes:
    """The bytes of one content file if they are those that the manifest lists. Raises DigestMismatch."""
    entry = manifest.files[name]
    if len(data) != entry.size or sha256(data) != entry.sha256:
        raise DigestMismatch(
            f"{_title(manifest)}: {name} is not the file that was signed ({len(data)} bytes, {entry.size} expected):"
            " restore it, or roll back to another version"
        )
    return data


def from_files(manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Decode a bundle from its checked files. Raises ArtifactMalformed."""
    title = _title(manifest)
    _decode(files[CARD], dict[str, Any], title, CARD)
    profile = _decode(files[PROFILE], ReferenceProfile, title, PROFILE)
    if (profile.model_name, profile.model_version) != (manifest.model_name, manifest.model_version):
        raise ArtifactMalformed(f"{title}: {PROFILE} is another version's: register it anew")
    known = _decode(files[KNOWN_ANSWERS], KnownAnswers, title, KNOWN_ANSWERS)
    if len(known.inputs) != len(known.probabilities) or len({len(row) for row in known.inputs}) != 1:
        raise ArtifactMalformed(f"{title}: {KNOWN_ANSWERS} needs rows of one width, and one probability for each")
    return Bundle(
        model_name=manifest.model_name,
        model_version=manifest.model_version,
        model=files[MODEL],
        card=files[CARD],
        profile=profile,
        known_answers=known,
        contract_digest=manifest.contract_digest,
        created=manifest.created,
    )


class _FormatVersion(msgspec.Struct, frozen=True):
    format_version: int


def _title(manifest: Manifest) -> str:
    return f"version {manifest.model_version} of model {manifest.model_name!r}"


def _decode(data: bytes, kind: Callable[..., T], title: str, name: str) -> T:
    try:
        decoded: T = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise ArtifactMalformed(f"{title}: {name} cannot be read ({error}): register it anew") from error
    return decoded
