"""What was signed is what is fetched, whole; anything else is refused with its reason. Here: in a folder.

What every store must do is asked in tests/contract/test_store.py.
"""

import base64
import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from driftloop.common import registry
from driftloop.common.events import ArtifactRef
from driftloop.common.keys import PublicKeys, SigningKey, generate, load_public_keys, load_signing_key
from driftloop.common.registry import ArtifactError, Bundle, KnownAnswers, fetch_bundle, write_bundle
from tests.support.artifacts import small_bundle
from tests.support.models import shipped

CONTRACT = shipped("diabetes").contract
BUNDLE = small_bundle(CONTRACT)
FILES = ("model.onnx", "card.json", "profile.json", "known_answers.json", "manifest.json")


class Place(NamedTuple):
    """A registry's root, the key that signs and the keys that are trusted."""

    root: Path
    key: SigningKey
    trusted: PublicKeys

    def write(self, bundle: Bundle = BUNDLE) -> ArtifactRef:
        return write_bundle(self.root.as_uri(), bundle, self.key)

    def fetch(self, ref: ArtifactRef, version: int = 1, **limits: int) -> Bundle:
        return fetch_bundle(ref, "diabetes", version, self.trusted, **limits)

    def folder(self, version: int = 1) -> Path:
        return self.root / "diabetes" / str(version)

    def reason(self, ref: ArtifactRef, **arguments: int) -> str:
        with pytest.raises(ArtifactError) as refused:
            self.fetch(ref, **arguments)
        return refused.value.reason

    def resigned(self, ref: ArtifactRef) -> ArtifactRef:
        """What a signer would publish for the manifest that is there now."""
        digest = hashlib.sha256((self.folder() / "manifest.json").read_bytes()).hexdigest()
        statement = f"driftloop artifact v1\nmodel diabetes\nversion 1\nsha256 {digest}\n".encode()
        signature = base64.b64encode(self.key.sign(statement)).decode()
        return msgspec.structs.replace(ref, sha256=digest, signature=signature)


def signer(folder: Path) -> tuple[SigningKey, PublicKeys]:
    generate(folder / "signing.key", folder / "trusted" / "signing.pem")
    return load_signing_key(folder / "signing.key"), load_public_keys(folder / "trusted")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path / "artifacts", *signer(tmp_path / "keys"))


# Writing


def test_a_version_is_five_files_and_nothing_is_left_beside_it(place: Place) -> None:
    place.write()
    assert sorted(os.listdir(place.folder())) == sorted(FILES)
    assert [name for name in os.listdir(place.folder().parent) if not name.startswith(".")] == ["1"]
    assert not list(place.root.rglob(".unfinished*"))


def test_the_reference_is_the_digest_of_the_manifest_which_has_those_of_the_files(place: Place) -> None:
    ref = place.write()
    manifest = (place.folder() / "manifest.json").read_bytes()
    assert hashlib.sha256(manifest).hexdigest() == ref.sha256
    for name, entry in msgspec.json.decode(manifest)["files"].items():
        data = (place.folder() / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}


def test_the_reference_is_one_that_an_event_may_carry(place: Place) -> None:
    ref = place.write()
    assert msgspec.json.decode(msgspec.json.encode(ref), type=ArtifactRef) == ref


def test_writing_the_same_again_changes_nothing(place: Place) -> None:
    first = place.write()
    before = (place.folder() / "model.onnx").stat().st_mtime_ns
    assert place.write() == first
    assert (place.folder() / "model.onnx").stat().st_mtime_ns == before


def test_what_a_writer_that_died_left_is_discarded(place: Place) -> None:
    half = place.root / "diabetes" / ".unfinished-1"
    half.mkdir(parents=True)
    (half / "model.onnx").write_bytes(BUNDLE.model[:10])
    assert place.fetch(place.write()) == BUNDLE
    assert not half.exists()


def test_a_disk_that_fails_in_the_middle_leaves_no_version(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(registry.StoreUnavailable, match="No space left on device: check the volume") as refused:
            place.write()
    assert refused.value.transient
    assert not place.folder().exists()
    assert place.fetch(place.write()) == BUNDLE


def test_writers_at_once_agree_on_one_version(place: Place) -> None:
    with ThreadPoolExecutor(8) as pool:
        refs = list(pool.map(lambda _: place.write(), range(24)))
    assert set(refs) == {refs[0]}
    assert place.fetch(refs[0]) == BUNDLE


def test_of_different_writers_at_once_one_wins_and_the_others_are_told(place: Place) -> None:
    def attempt(weight: float) -> ArtifactRef | str:
        try:
            return place.write(small_bundle(CONTRACT, weight=weight))
        except ArtifactError as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(attempt, [0.1 + 0.01 * i for i in range(8)]))
    winners = [outcome for outcome in outcomes if isinstance(outcome, ArtifactRef)]
    assert sorted(outcome for outcome in outcomes if isinstance(outcome, str)) == ["conflict"] * 7
    assert place.fetch(winners[0]).model_version == 1


def test_what_every_predictor_would_refuse_is_not_written(place: Place) -> None:
    with pytest.raises(registry.ArtifactTooLarge, match="the limit is 100: train a smaller model"):
        write_bundle(place.root.as_uri(), BUNDLE, place.key, size_limit=100)
    assert not place.root.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model_name": "../escape"},
        {"model_name": "Diabetes\nversion 2"},
        {"model_name": "another"},
        {"model_version": 0},
        {"model_version": 2},
        {"card": b"[]"},
        {"card": b"garbage"},
        {"contract_digest": "none"},
        {"created": BUNDLE.created.replace(tzinfo=None)},
        {"known_answers": KnownAnswers(inputs=((float("nan"),),), probabilities=(0.5,))},
        {"known_answers": KnownAnswers(inputs=((1.0,),), probabilities=(1.5,))},
        {"known_answers": KnownAnswers(inputs=((1.0,), (1.0, 2.0)), probabilities=(0.5, 0.5))},
        {"known_answers": KnownAnswers(inputs=((1.0,),), probabilities=(0.5, 0.5))},
        {"known_answers": KnownAnswers(inputs=(), probabilities=())},
        {"known_answers": KnownAnswers(inputs=((1.0,),), probabilities=(0.5,), tolerance=1.0)},
    ],
    ids=str,
)
def test_what_could_not_be_read_again_is_not_written(place: Place, change: dict[str, Any]) -> None:
    with pytest.raises(registry.ArtifactMalformed):
        place.write(msgspec.structs.replace(BUNDLE, **change))
    assert not place.root.exists()


# Signatures


def test_an_unknown_key_is_refused_with_the_ids(place: Place, tmp_path: Path) -> None:
    ref = place.write()
    _, others = signer(tmp_path / "other")
    with pytest.raises(
        registry.SignatureInvalid, match=rf"signed by key '{ref.key_id}', trusted are {next(iter(others))}"
    ):
        fetch_bundle(ref, "diabetes", 1, others)


def test_the_id_of_a_trusted_key_does_not_help_a_forger(place: Place, tmp_path: Path) -> None:
    forger, _ = signer(tmp_path / "forger")
    ref = write_bundle(place.root.as_uri(), BUNDLE, forger)
    assert place.reason(msgspec.structs.replace(ref, key_id=place.key.key_id)) == "signature"


def test_during_a_rotation_both_keys_are_trusted(place: Place, tmp_path: Path) -> None:
    new, others = signer(tmp_path / "new")
    old_ref, new_ref = place.write(), write_bundle(place.root.as_uri(), small_bundle(CONTRACT, version=2), new)
    both = {**place.trusted, **others}
    assert fetch_bundle(old_ref, "diabetes", 1, both).model_version == 1
    assert fetch_bundle(new_ref, "diabetes", 2, both).model_version == 2


def test_an_old_version_cannot_be_replayed_as_a_new_one(place: Place) -> None:
    ref = place.write()
    shutil.copytree(place.folder(1), place.folder(2))
    moved = msgspec.structs.replace(ref, uri=place.folder(2).as_uri())
    assert place.reason(moved, version=2) == "signature"


def test_a_version_cannot_be_passed_off_as_another_models(place: Place) -> None:
    ref = place.write()
    with pytest.raises(registry.SignatureInvalid, match="did not sign this name, version and digest"):
        fetch_bundle(ref, "loan", 1, place.trusted)


@pytest.mark.parametrize("signature", ["", "?", "é", "AAAA", base64.b64encode(bytes(64)).decode()])
def test_anything_but_the_signature_is_refused(place: Place, signature: str) -> None:
    assert place.reason(msgspec.structs.replace(place.write(), signature=signature)) == "signature"


def test_nothing_is_opened_before_the_signature_was_verified(place: Place, tmp_path: Path) -> None:
    ref = place.write()
    shutil.rmtree(place.root)
    forged = msgspec.structs.replace(ref, sha256="0" * 64)
    assert place.reason(forged) == "signature"


# Content


@pytest.mark.parametrize("name", FILES)
def test_a_signed_file_of_another_version_is_none_of_this_one(place: Place, name: str) -> None:
    """Of one signer, of the same form, and it would decode: a profile, say, that hides a drift."""
    ref = place.write()
    place.write(msgspec.structs.replace(small_bundle(CONTRACT, version=2, weight=0.2), card=b'{"reason": "another"}'))
    shutil.copy(place.folder(2) / name, place.folder(1) / name)
    assert place.reason(ref) == "digest"


def test_another_models_signed_bundle_in_its_place_is_refused(place: Place) -> None:
    loan = small_bundle(shipped("loan").contract)
    ref, theirs = place.write(), place.write(loan)
    shutil.rmtree(place.folder())
    shutil.copytree(place.root / "loan" / "1", place.folder())
    assert place.reason(ref) == "digest"
    assert place.reason(msgspec.structs.replace(theirs, uri=ref.uri)) == "signature"


def test_a_signer_cannot_give_a_version_anothers_profile(place: Place) -> None:
    ref = place.write()
    profile = msgspec.json.encode(small_bundle(CONTRACT, version=2).profile)
    (place.folder() / "profile.json").write_bytes(profile)
    manifest = msgspec.json.decode((place.folder() / "manifest.json").read_bytes())
    manifest["files"]["profile.json"] = {"sha256": hashlib.sha256(profile).hexdigest(), "size": len(profile)}
    (place.folder() / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(registry.ArtifactMalformed, match=r"profile.json is another version's"):
        place.fetch(place.resigned(ref))


def test_exactly_the_limit_is_accepted(place: Place) -> None:
    ref = place.write()
    size = sum((place.folder() / name).stat().st_size for name in FILES if name != "manifest.json")
    assert place.fetch(ref, size_limit=size) == BUNDLE
    assert place.reason(ref, size_limit=size - 1) == "too_large"


def test_an_endless_manifest_is_not_read_to_its_end(place: Place) -> None:
    ref = place.write()
    with (place.folder() / "manifest.json").open("wb") as file:
        file.truncate(2**40)
    assert place.reason(ref) == "too_large"


def test_an_endless_model_is_not_read_to_its_end(place: Place) -> None:
    ref = place.write()
    with (place.folder() / "model.onnx").open("r+b") as file:
        file.truncate(2**40)
    assert place.reason(ref) == "digest"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "has format 2, only 1 is known here: upgrade this service"),
        ({"model_version": 2}, "its manifest is that of version 2"),
        ({"model_name": "another"}, "its manifest is that of version 1 of model 'another'"),
        ({"files": {}}, "must list model.onnx, card.json"),
        ({"surprise": 1}, "cannot be read"),
    ],
)
def test_a_signed_manifest_of_another_form_is_refused(place: Place, change: dict[str, Any], message: str) -> None:
    ref = place.write()
    path = place.folder() / "manifest.json"
    path.write_bytes(msgspec.json.encode(msgspec.json.decode(path.read_bytes()) | change))
    with pytest.raises(registry.ArtifactMalformed, match=message):
        place.fetch(place.resigned(ref))


# Places


@pytest.mark.parametrize("part", ["diabetes", "diabetes/1", *(f"diabetes/1/{name}" for name in FILES)])
def test_a_symbolic_link_below_the_root_is_not_followed(place: Place, tmp_path: Path, part: str) -> None:
    ref = place.write()
    moved = tmp_path / "moved"
    (place.root / part).rename(moved)
    (place.root / part).symlink_to(moved)
    assert place.reason(ref) == "format"


def test_a_link_in_a_models_place_is_not_written_through(place: Place, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    place.root.mkdir()
    (place.root / "diabetes").symlink_to(outside)
    with pytest.raises(registry.ArtifactMalformed, match="symbolic link"):
        place.write()
    assert not list(outside.iterdir())


def test_the_root_itself_may_be_a_link(place: Place, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    place.root.symlink_to(tmp_path / "volume")
    assert place.fetch(place.write()) == BUNDLE


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_in_a_files_place_holds_nobody(place: Place, name: str) -> None:
    ref = place.write()
    (place.folder() / name).unlink()
    os.mkfifo(place.folder() / name)
    assert place.reason(ref) == "format"


def test_a_folder_in_a_files_place_is_refused(place: Place) -> None:
    ref = place.write()
    (place.folder() / "card.json").unlink()
    (place.folder() / "card.json").mkdir()
    assert place.reason(ref) == "format"


@pytest.mark.parametrize(
    "uri",
    [
        "file:///{root}/diabetes/2/../1",
        "file:///{root}/diabetes/2/%2e%2e/1",
        "file:///{root}/x/..%2Fdiabetes/1",
        "file:///{root}/./diabetes/1",
        "file:///{root}/diabetes/1%00",
        "file:///{root}/diabetes/1?x=1",
        "file:///{root}/diabetes/1#x",
        "file://elsewhere/{root}/diabetes/1",
        "file://[/diabetes/1",
        "file:///%ff/diabetes/1",
        "file://",
        "file:///{root}/diabetes",
        "file:///{root}/diabetes/2",
        "file:///{root}/loan/1",
        "file:///" + "a" * 3000 + "/diabetes/1",
        "diabetes/1",
        "/{root}/diabetes/1",
    ],
)
def test_a_uri_that_is_not_the_versions_own_is_refused(place: Place, uri: str) -> None:
    ref = msgspec.structs.replace(place.write(), uri=uri.format(root=str(place.root).lstrip("/")))
    assert place.reason(ref) == "format"


@pytest.mark.parametrize("uri", ["artifacts", "file://artifacts", "file:///a/../b", "", "/var/artifacts"])
def test_a_root_that_is_no_absolute_uri_is_refused(place: Place, uri: str) -> None:
    with pytest.raises(registry.ArtifactMalformed):
        write_bundle(uri, BUNDLE, place.key)


def test_an_unknown_scheme_lists_those_supported_and_shows_no_password(place: Place) -> None:
    ref = msgspec.structs.replace(place.write(), uri="ftp://user:password@bucket/diabetes/1")
    with pytest.raises(registry.ArtifactMalformed, match="'ftp' scheme: supported are abfs://, file://") as refused:
        place.fetch(ref)
    assert "password" not in str(refused.value)


def test_a_root_with_spaces_and_accents_is_found_again(place: Place, tmp_path: Path) -> None:
    place = place._replace(root=tmp_path / "modèles de 100 % #1?")
    assert place.fetch(place.write()) == BUNDLE


def test_a_root_that_is_a_file_is_refused(place: Place) -> None:
    place.root.write_text("")
    with pytest.raises(ArtifactError, match="version 1 of model 'diabetes'"):
        place.write()


# --- single files, which may be deleted


def test_a_link_leads_no_object_out_of_its_folder(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.arrow").write_bytes(b"not ours")
    root = tmp_path / "objects"
    root.mkdir()
    (root / "loan").symlink_to(elsewhere)
    use: tuple[Callable[[], object], ...] = (
        lambda: registry.write_object(root.as_uri(), "loan", "a.arrow", b"ours"),
        lambda: registry.read_object(root.as_uri(), "loan", "a.arrow"),
        lambda: registry.delete_object(root.as_uri(), "loan", "a.arrow"),
    )
    for one in use:
        with pytest.raises(registry.ArtifactMalformed):
            one()
    assert (elsewhere / "a.arrow").read_bytes() == b"not ours"


def test_a_link_in_the_place_of_an_object_is_deleted_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"not ours")
    root = tmp_path / "objects"
    (root / "loan").mkdir(parents=True)
    for name in ("a.arrow", ".unfinished-a.arrow"):
        (root / "loan" / name).symlink_to(other)
    with pytest.raises(registry.ArtifactMalformed):
        registry.write_object(root.as_uri(), "loan", "a.arrow", b"ours")
    registry.delete_object(root.as_uri(), "loan", "a.arrow")
    assert (os.listdir(root / "loan"), other.read_bytes()) == ([".lock"], b"not ours")


def test_where_nothing_was_ever_kept_nothing_is_there_to_delete(tmp_path: Path) -> None:
    registry.delete_object(tmp_path.as_uri(), "loan", "a.arrow")
    with pytest.raises(registry.ArtifactMissing):
        registry.delete_object((tmp_path / "nowhere").as_uri(), "loan", "a.arrow")
