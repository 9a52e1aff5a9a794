"""The registry of artifacts: write, sign, fetch and verify the versions of models.

What is fetched is verified in this order, and nothing is parsed before it was: the signature over model name, version
and manifest digest; the manifest's digest; each file's size and digest. So a version that was signed cannot be changed,
nor passed off as another model or as another version.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from driftloop.common import keys
from driftloop.common.events import ArtifactRef
from driftloop.common.registry.bundle import (
    MANIFEST,
    MANIFEST_LIMIT,
    SIZE_LIMIT,
    Bundle,
    KnownAnswers,
    Manifest,
    check_size,
    checked,
    from_files,
    plain,
    read_manifest,
    sha256,
    to_files,
    version_uri,
)
from driftloop.common.registry.errors import (
    ArtifactConflict,
    ArtifactError,
    ArtifactMalformed,
    ArtifactMissing,
    ArtifactTooLarge,
    DigestMismatch,
    SignatureInvalid,
    StoreForbidden,
    StoreUnavailable,
)
from driftloop.common.registry.files import (
    check_folder,
    delete_file,
    drop_folder,
    highest_folder,
    keep_file,
    kept_file,
    list_files,
    read_file,
    write_folder,
)
from driftloop.common.registry.objects import (
    SCHEMES,
    check_place,
    delete_kept_object,
    drop_objects,
    highest_objects,
    keep_object,
    kept_object,
    list_kept_objects,
    read_version_object,
    write_objects,
)

__all__ = [
    "SIZE_LIMIT",
    "ArtifactConflict",
    "ArtifactError",
    "ArtifactMalformed",
    "ArtifactMissing",
    "ArtifactRef",
    "ArtifactTooLarge",
    "Bundle",
    "DigestMismatch",
    "KnownAnswers",
    "SignatureInvalid",
    "StoreForbidden",
    "StoreUnavailable",
    "check_uri",
    "delete_object",
    "delete_version",
    "fetch_bundle",
    "highest_version",
    "list_objects",
    "read_object",
    "version_uri",
    "write_bundle",
    "write_object",
]

URI_LIMIT = 2000


class Store(NamedTuple):
    """How one URI scheme keeps versions, and single files that may be deleted: see `files` for what each must do."""

    check: Callable[[str], None]
    write: Callable[[str, str, int, Mapping[str, bytes]], str]
    read: Callable[[str, str, int, str, str, int], bytes]
    highest: Callable[[str, str], int]
    drop: Callable[[str, str, int], None]
    keep: Callable[[str, str, str, bytes], None]
    kept: Callable[[str, str, str, int], bytes]
    names: Callable[[str, str], dict[str, datetime]]
    delete: Callable[[str, str, str], None]


FOLDER = Store(
    check_folder, write_folder, read_file, highest_folder, drop_folder, keep_file, kept_file, list_files, delete_file
)
OBJECTS = Store(
    check_place,
    write_objects,
    read_version_object,
    highest_objects,
    drop_objects,
    keep_object,
    kept_object,
    list_kept_objects,
    delete_kept_object,
)
STORES: Mapping[str, Store] = {"file": FOLDER} | dict.fromkeys(SCHEMES, OBJECTS)


def check_uri(root_uri: str) -> None:
    """Raises ArtifactMalformed where nothing can be kept under a URI because of how it is written."""
    _store(root_uri).check(root_uri)


def write_bundle(root_uri: str, bundle: Bundle, key: keys.SigningKey, *, size_limit: int = SIZE_LIMIT) -> ArtifactRef:
    """Keep a version at `<root_uri>/<model>/<version>` for ever, and sign it. The same bundle again is no error.

    Raises ArtifactError: ArtifactConflict (the version exists with other content), ArtifactTooLarge (more than
    `size_limit` bytes), ArtifactMalformed, StoreUnavailable.
    """
    store = _store(root_uri)
    files = to_files(bundle)
    check_size(read_manifest(files[MANIFEST], bundle.model_name, bundle.model_version), size_limit)
    uri = store.write(root_uri, bundle.model_name, bundle.model_version, files)
    digest = sha256(files[MANIFEST])
    signature = key.sign(_statement(bundle.model_name, bundle.model_version, digest))
    return ArtifactRef(uri=uri, sha256=digest, signature=base64.b64encode(signature).decode("ascii"), key_id=key.key_id)


def fetch_bundle(
    ref: ArtifactRef, model: str, version: int, public_keys: keys.PublicKeys, *, size_limit: int = SIZE_LIMIT
) -> Bundle:
    """Fetch one version of one model and verify it, as the module says, by the keys that are trusted.

    Raises ArtifactError, whose `reason` is one of signature, digest, missing, too_large, format, unavailable.
    """
    _verify_signature(ref, model, version, public_keys)
    store = _store(ref.uri)
    manifest = _fetch_manifest(store, ref, model, version)
    check_size(manifest, size_limit)
    # One byte more than there may be shows a file that is too long.
    files = {
        name: checked(manifest, name, store.read(ref.uri, model, version, name, entry.sha256, entry.size + 1))
        for name, entry in manifest.files.items()
    }
    return from_files(manifest, files)


def highest_version(root_uri: str, model: str) -> int:
    """The highest number in whose place something is, whole or not; 0 for none. Raises ArtifactError."""
    return _store(root_uri).highest(root_uri, model)


def delete_version(uri: str, model: str, version: int) -> None:
    """Delete the files of a version at `uri`, so that no half of it is ever read; again is no error.

    Raises ArtifactError: ArtifactMissing where the root or bucket itself is not there, StoreUnavailable.
    """
    _store(uri).drop(uri, model, version)


def write_object(root_uri: str, folder: str, name: str, data: bytes) -> None:
    """Keep `data` as `<root_uri>/<folder>/<name>`, unsigned, until it is replaced or deleted. Raises ArtifactError."""
    _object_store(root_uri, folder, name).keep(root_uri, folder, name, data)


def read_object(root_uri: str, folder: str, name: str, *, size_limit: int = SIZE_LIMIT) -> bytes:
    """What `write_object` kept. Raises ArtifactError: ArtifactMissing, ArtifactTooLarge, StoreUnavailable."""
    data = _object_store(root_uri, folder, name).kept(root_uri, folder, name, size_limit + 1)
    if len(data) > size_limit:
        raise ArtifactTooLarge(f"{folder}/{name} in {root_uri!r} has more than {size_limit} bytes: raise the limit")
    return data


def list_objects(root_uri: str, folder: str) -> dict[str, datetime]:
    """What `write_object` kept in a folder, or left half written, and when. Raises ArtifactError."""
    return _object_store(root_uri, folder).names(root_uri, folder)


def delete_object(root_uri: str, folder: str, name: str) -> None:
    """Delete what `write_object` kept, and what it left half written; again is no error. Raises ArtifactError."""
    _object_store(root_uri, folder, name).delete(root_uri, folder, name)


def _store(uri: str) -> Store:
    if len(uri) > URI_LIMIT:
        raise ArtifactMalformed(f"an artifact URI has {len(uri)} characters, at most {URI_LIMIT} are read: shorten it")
    scheme, separator, _ = uri.partition("://")
    store = STORES.get(scheme.lower()) if separator else None
    if store is None:
        # The rest of an address may hold a password.
        shown = repr(scheme[:20]) if separator else "no"
        supported = ", ".join(f"{name}://" for name in sorted(STORES))
        raise ArtifactMalformed(f"an artifact URI with {shown} scheme: supported are {supported}")
    return store


def _object_store(root_uri: str, *names: str) -> Store:
    for one in names:
        if not plain(one):
            raise ArtifactMalformed(f"{one!r} is no name of a file or folder: use letters, digits and . _ = + , ~ -")
    return _store(root_uri)


def _statement(model: str, version: int, digest: str) -> bytes:
    """What is signed. The first line keeps a signature from meaning anything elsewhere."""
    return f"driftloop artifact v1\nmodel {model}\nversion {version}\nsha256 {digest}\n".encode()


def _verify_signature(ref: ArtifactRef, model: str, version: int, public_keys: keys.PublicKeys) -> None:
    title = f"version {version} of model {model!r}"
    public = public_keys.get(ref.key_id)
    if public is None:
        trusted = ", ".join(sorted(public_keys)) or "none"
        raise SignatureInvalid(
            f"{title} is signed by key {ref.key_id[:32]!r}, trusted are {trusted}: if it is yours, add its"
            " public key to the trusted ones"
        )
    try:
        signature = base64.b64decode(ref.signature, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SignatureInvalid(f"{title}: its signature is not base64: register it anew") from error
    if not keys.verified(public, signature, _statement(model, version, ref.sha256)):
        raise SignatureInvalid(
            f"{title}: key {ref.key_id} did not sign this name, version and digest: do not use it, and find out who"
            " published it"
        )


def _fetch_manifest(store: Store, ref: ArtifactRef, model: str, version: int) -> Manifest:
    data = store.read(ref.uri, model, version, MANIFEST, ref.sha256, MANIFEST_LIMIT + 1)
    if len(data) > MANIFEST_LIMIT:
        raise ArtifactTooLarge(f"{ref.uri!r}: {MANIFEST} has more than {MANIFEST_LIMIT} bytes: restore it")
    if sha256(data) != ref.sha256:
        raise DigestMismatch(f"{ref.uri!r}: {MANIFEST} is not the one that was signed: restore it, or roll back")
    return read_manifest(data, model, version)
