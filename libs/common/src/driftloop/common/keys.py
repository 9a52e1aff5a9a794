"""Ed25519 keys that sign and verify artifacts, kept as PEM files.

A key id is the first 16 hexadecimal digits of the SHA-256 of the raw public key. A signature carries it, so that
several public keys can be trusted at once while one replaces another.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

PublicKeys = Mapping[str, Ed25519PublicKey]


class KeyFileError(ValueError):
    """A key file cannot be made or used. Names the file and the remedy, and never holds what is in it."""

    def __init__(self, path: Path | None, problem: str) -> None:
        super().__init__(problem if path is None else f"{path}: {problem}")


@dataclass(frozen=True)
class SigningKey:
    """A private key with the id of its public half."""

    key_id: str
    private: Ed25519PrivateKey

    def sign(self, statement: bytes) -> bytes:
        """The Ed25519 signature of `statement`, 64 bytes."""
        return self.private.sign(statement)


def key_id(public: Ed25519PublicKey) -> str:
    """The id by which a signature names its key."""
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


def verified(public: Ed25519PublicKey, signature: bytes, statement: bytes) -> bool:
    """Whether `signature` is this key's over `statement`."""
    try:
        public.verify(signature, statement)
    except InvalidSignature:
        return False
    return True


def generate(private_path: Path, public_path: Path) -> str:
    """Make a key pair, the private file readable by its owner only; returns the key id. Never overwrites a file.

    Folders that are missing are made. Raises KeyFileError.
    """
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    _write_new(private_path, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    try:
        _write_new(public_path, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    except KeyFileError:
        private_path.unlink()  # half a pair is of no use, and would be in the way of the next try
        raise
    return key_id(public)


def load_signing_key(path: Path) -> SigningKey:
    """Read the private key that signs. Raises KeyFileError."""
    data = _read(path)
    try:
        private = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise KeyFileError(path, "is encrypted: give an unencrypted PEM file, protected by its mode") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(path, "is no private key in PEM form: make one with `driftloop keys generate`") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise KeyFileError(path, "is not an Ed25519 key: make one with `driftloop keys generate`")
    return SigningKey(key_id(private.public_key()), private)


def load_public_keys(source: Path | Iterable[Path]) -> PublicKeys:
    """Read the keys that are trusted, by key id. `source` is a file, a folder of `*.pem` files, or several of both.

    Raises KeyFileError, also where there is no key at all: nothing could ever be verified.
    """
    sources = [source] if isinstance(source, Path) else list(source)
    files = [file for path in sources for file in _key_files(path)]
    if not files:
        raise KeyFileError(None, "no trusted key is configured: name a public key file or a folder of them")
    keys = [_load_public_key(file) for file in files]
    return {key_id(key): key for key in keys}


def _key_files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.pem"))
    if not files:
        raise KeyFileError(path, "holds no *.pem file: put the trainer's public key there")
    return files


def _load_public_key(path: Path) -> Ed25519PublicKey:
    data = _read(path)
    if b"PRIVATE KEY" in data:
        raise KeyFileError(path, "holds a private key: give its public half, and keep this file with the trainer alone")
    try:
        public = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(path, "is no public key in PEM form: copy the one that the trainer's key has") from error
    if not isinstance(public, Ed25519PublicKey):
        raise KeyFileError(path, "is not an Ed25519 key: copy the public key that the trainer's key has")
    return public


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise KeyFileError(path, "does not exist: make it with `driftloop keys generate`") from error
    except OSError as error:
        raise KeyFileError(path, f"cannot be read ({error.strerror}): check its mode and owner") from error


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KeyFileError(path, f"its folder cannot be made ({error.strerror}): choose another place") from error
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise KeyFileError(path, "is there already: keys are never overwritten, choose another name") from error
    except OSError as error:
        raise KeyFileError(path, f"cannot be made ({error.strerror}): check its folder's mode and owner") from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink()
        raise KeyFileError(path, f"cannot be written ({error.strerror}): check the space that is left") from error
