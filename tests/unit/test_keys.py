"""Key files: made once, read strictly, several trusted at a time."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from driftloop.common.keys import KeyFileError, generate, load_public_keys, load_signing_key, verified


def pair(folder: Path, name: str = "a") -> tuple[Path, Path]:
    private, public = folder / f"{name}.key", folder / "trusted" / f"{name}.pem"
    generate(private, public)
    return private, public


def test_the_public_half_verifies_what_the_private_half_signed(tmp_path: Path) -> None:
    private, public = pair(tmp_path)
    key = load_signing_key(private)
    trusted = load_public_keys(public)
    assert verified(trusted[key.key_id], key.sign(b"statement"), b"statement")
    assert not verified(trusted[key.key_id], key.sign(b"statement"), b"another")


def test_only_the_owner_may_read_the_private_key(tmp_path: Path) -> None:
    private, _ = pair(tmp_path)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_generate_returns_the_id_that_the_files_have(tmp_path: Path) -> None:
    made = generate(tmp_path / "a.key", tmp_path / "a.pem")
    assert made == load_signing_key(tmp_path / "a.key").key_id
    assert list(load_public_keys(tmp_path / "a.pem")) == [made]
    assert len(made) == 16


def test_an_existing_private_key_is_never_overwritten(tmp_path: Path) -> None:
    private, _ = pair(tmp_path)
    before = private.read_bytes()
    with pytest.raises(KeyFileError, match="is there already: keys are never overwritten"):
        generate(private, tmp_path / "other.pem")
    assert private.read_bytes() == before
    assert not (tmp_path / "other.pem").exists()


def test_an_existing_public_key_is_never_overwritten_and_no_half_pair_stays(tmp_path: Path) -> None:
    _, public = pair(tmp_path)
    before = public.read_bytes()
    with pytest.raises(KeyFileError, match="is there already"):
        generate(tmp_path / "other.key", public)
    assert public.read_bytes() == before
    assert not (tmp_path / "other.key").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyFileError, match="its folder cannot be made"):
        generate(tmp_path / "file" / "a.key", tmp_path / "a.pem")


def test_a_folder_trusts_every_key_in_it(tmp_path: Path) -> None:
    keys = [load_signing_key(pair(tmp_path, name)[0]) for name in "ab"]
    (tmp_path / "trusted" / "README").write_text("not a key")
    assert set(load_public_keys(tmp_path / "trusted")) == {key.key_id for key in keys}


def test_several_files_and_folders_may_be_named(tmp_path: Path) -> None:
    keys = [load_signing_key(pair(tmp_path / name, name)[0]) for name in "abc"]
    sources = [tmp_path / "a" / "trusted", tmp_path / "b" / "trusted", tmp_path / "c" / "trusted" / "c.pem"]
    assert set(load_public_keys(sources)) == {key.key_id for key in keys}


def test_no_trusted_key_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"holds no \*.pem file"):
        load_public_keys(tmp_path)
    with pytest.raises(KeyFileError, match="no trusted key is configured"):
        load_public_keys([])


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    for load in (load_signing_key, load_public_keys):
        with pytest.raises(KeyFileError, match=r"absent: does not exist: make it with `driftloop keys generate`"):
            load(tmp_path / "absent")


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    private, _ = pair(tmp_path)
    with pytest.raises(KeyFileError, match="holds a private key") as refused:
        load_public_keys(private)
    assert private.read_text().splitlines()[1] not in str(refused.value)


def test_a_public_key_cannot_sign(tmp_path: Path) -> None:
    _, public = pair(tmp_path)
    with pytest.raises(KeyFileError, match="is no private key in PEM form"):
        load_signing_key(public)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_garbage_is_no_key(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "garbage.pem"
    path.write_bytes(data)
    with pytest.raises(KeyFileError, match="is no public key in PEM form"):
        load_public_keys(path)
    with pytest.raises(KeyFileError, match="is no private key in PEM form"):
        load_signing_key(path)


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    private, _ = pair(tmp_path)
    encrypted = load_signing_key(private).private.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
    )
    private.write_bytes(encrypted)
    with pytest.raises(KeyFileError, match="is encrypted: give an unencrypted PEM file"):
        load_signing_key(private)


def test_keys_of_another_kind_are_refused(tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    private, public = tmp_path / "ec.key", tmp_path / "ec.pem"
    private.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(other.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(KeyFileError, match="is not an Ed25519 key"):
        load_signing_key(private)
    with pytest.raises(KeyFileError, match="is not an Ed25519 key"):
        load_public_keys(public)
