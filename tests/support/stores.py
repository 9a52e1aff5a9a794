"""What every kind of store must do, as tests: a class of tests for a fixture `place`, and the places for it."""

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import msgspec
import pytest

from driftloop.common import registry
from driftloop.common.events import ArtifactRef
from driftloop.common.keys import PublicKeys, SigningKey, generate, load_public_keys, load_signing_key
from driftloop.common.registry import ArtifactError, Bundle
from tests.support.artifacts import small_bundle
from tests.support.models import shipped

CONTRACT = shipped("diabetes").contract
BUNDLE = small_bundle(CONTRACT)
CONTENTS = ("model.onnx", "card.json", "profile.json", "known_answers.json")
FILES = (*CONTENTS, "manifest.json")


class Files(Protocol):
    """What is in a store, past the registry: names relative to its root."""

    def names(self) -> list[str]:
        """All files, sorted."""

    def get(self, name: str) -> bytes:
        """One file."""

    def put(self, name: str, data: bytes) -> None:
        """Replace one file."""

    def remove(self, name: str) -> None:
        """Remove one file."""


@dataclass(frozen=True)
class FolderFiles:
    """A folder on this machine."""

    root: Path

    def names(self) -> list[str]:
        """All files, sorted, but the locks."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("[!.]*") if path.is_file())

    def get(self, name: str) -> bytes:
        """One file."""
        return (self.root / name).read_bytes()

    def put(self, name: str, data: bytes) -> None:
        """Replace one file."""
        (self.root / name).write_bytes(data)

    def remove(self, name: str) -> None:
        """Remove one file."""
        (self.root / name).unlink()


@dataclass(frozen=True)
class ObjectFiles:
    """Objects below a path that one of fsspec's drivers knows."""

    driver: Any
    root: str

    def names(self) -> list[str]:
        """All objects, sorted."""
        return sorted(key.lstrip("/").removeprefix(f"{self.root}/") for key in self.driver.find(self.root))

    def get(self, name: str) -> bytes:
        """One object."""
        return bytes(self.driver.cat_file(f"{self.root}/{name}"))

    def put(self, name: str, data: bytes) -> None:
        """Replace one object."""
        self.driver.pipe_file(f"{self.root}/{name}", data)

    def remove(self, name: str) -> None:
        """Remove one object."""
        self.driver.rm_file(f"{self.root}/{name}")


@dataclass(frozen=True)
class Place:
    """A registry's root, what is in it, the key that signs and the keys that are trusted."""

    root: str
    files: Files
    key: SigningKey
    trusted: PublicKeys

    @staticmethod
    def of(root: str, files: Files, folder: Path) -> "Place":
        """A place with keys of its own, which are kept in a folder."""
        generate(folder / "signing.key", folder / "trusted" / "signing.pem")
        return Place(root, files, load_signing_key(folder / "signing.key"), load_public_keys(folder / "trusted"))

    def write(self, bundle: Bundle = BUNDLE) -> ArtifactRef:
        """Sign and keep a version."""
        return registry.write_bundle(self.root, bundle, self.key)

    def fetch(self, ref: ArtifactRef, version: int = 1, **limits: int) -> Bundle:
        """A version, verified."""
        return registry.fetch_bundle(ref, "diabetes", version, self.trusted, **limits)

    def file(self, name: str, version: int = 1) -> str:
        """Where in the store a file of a version is."""
        (found,) = (one for one in self.files.names() if one.startswith(f"diabetes/{version}/") and one.endswith(name))
        return found

    def reason(self, ref: ArtifactRef, **arguments: int) -> str:
        """Why a version is refused."""
        with pytest.raises(ArtifactError) as refused:
            self.fetch(ref, **arguments)
        return refused.value.reason

    def resigned(self, ref: ArtifactRef) -> ArtifactRef:
        """What a signer would publish for the manifest that is there now."""
        digest = hashlib.sha256(self.files.get(self.file("manifest.json"))).hexdigest()
        statement = f"driftloop artifact v1\nmodel diabetes\nversion 1\nsha256 {digest}\n".encode()
        return msgspec.structs.replace(
            ref, sha256=digest, signature=base64.b64encode(self.key.sign(statement)).decode()
        )


class StoreContract:
    """What the registry promises over any store."""

    def test_what_is_written_is_fetched(self, place: Place) -> None:
        ref = place.write()
        assert place.fetch(ref) == BUNDLE
        assert ref.uri == f"{place.root}/diabetes/1"

    def test_a_version_is_five_files(self, place: Place) -> None:
        place.write()
        assert sorted(name.rpartition("/")[2] for name in place.files.names()) == sorted(FILES)

    def test_writing_the_same_again_changes_nothing(self, place: Place) -> None:
        first, before = place.write(), place.files.names()
        assert place.write() == first
        assert place.files.names() == before

    def test_a_version_never_changes(self, place: Place) -> None:
        ref = place.write()
        with pytest.raises(registry.ArtifactConflict, match="version 1 of model 'diabetes' is there already"):
            place.write(small_bundle(CONTRACT, weight=0.2))
        assert place.fetch(ref) == BUNDLE

    def test_versions_and_models_live_side_by_side(self, place: Place) -> None:
        loan = small_bundle(shipped("loan").contract)
        first, tenth, other = place.write(), place.write(small_bundle(CONTRACT, version=10)), place.write(loan)
        assert [place.fetch(first).model_version, place.fetch(tenth, version=10).model_version] == [1, 10]
        assert registry.fetch_bundle(other, "loan", 1, place.trusted) == loan

    @pytest.mark.parametrize("name", CONTENTS)
    def test_an_incomplete_version_is_neither_used_nor_mended_in_silence(self, place: Place, name: str) -> None:
        ref = place.write()
        place.files.remove(place.file(name))
        with pytest.raises(registry.ArtifactMissing, match=r"is not there: check.*files_deleted_at") as refused:
            place.fetch(ref)
        assert refused.value.transient
        with pytest.raises(registry.ArtifactConflict, match="other or incomplete content"):
            place.write()

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize(
        "tamper",
        [
            lambda data: bytes([data[0] ^ 1]) + data[1:],
            lambda data: data[:-1],
            lambda data: data + b"\n",
            lambda data: b"",
        ],
        ids=["flipped", "truncated", "extended", "emptied"],
    )
    def test_a_changed_file_is_refused(self, place: Place, name: str, tamper: Callable[[bytes], bytes]) -> None:
        ref = place.write()
        where = place.file(name)
        place.files.put(where, tamper(place.files.get(where)))
        assert place.reason(ref) == "digest"

    def test_a_missing_store_may_come_later(self, place: Place) -> None:
        ref = place.write()
        for name in place.files.names():
            place.files.remove(name)
        assert place.reason(ref) == "missing"

    def test_more_than_the_limit_is_refused(self, place: Place) -> None:
        assert place.reason(place.write(), size_limit=100) == "too_large"

    def test_an_endless_manifest_is_not_read_to_its_end(self, place: Place) -> None:
        ref = place.write()
        place.files.put(place.file("manifest.json"), bytes(10**6))
        assert place.reason(ref) == "too_large"

    def test_a_manifest_cannot_name_a_file_elsewhere(self, place: Place) -> None:
        ref = place.write()
        where = place.file("manifest.json")
        manifest = msgspec.json.decode(place.files.get(where))
        manifest["files"]["../../../../etc/passwd"] = manifest["files"].pop("card.json")
        place.files.put(where, msgspec.json.encode(manifest))
        assert place.reason(place.resigned(ref)) == "format"

    def test_a_uri_that_is_not_the_versions_own_is_refused(self, place: Place) -> None:
        ref = place.write()
        for uri in (place.root, f"{place.root}/diabetes", f"{place.root}/diabetes/2", f"{place.root}/loan/1"):
            assert place.reason(msgspec.structs.replace(ref, uri=uri)) == "format"

    def test_the_highest_version_is_that_of_one_model_and_an_incomplete_one_counts(self, place: Place) -> None:
        assert registry.highest_version(place.root, "diabetes") == 0
        place.write(small_bundle(CONTRACT, version=10))
        place.write(small_bundle(CONTRACT, version=9))
        place.write(small_bundle(shipped("loan").contract, version=11))
        assert registry.highest_version(place.root, "diabetes") == 10
        place.files.remove(place.file("card.json", 10))
        assert registry.highest_version(place.root, "diabetes") == 10

    def test_what_is_no_number_of_a_version_is_none(self, place: Place) -> None:
        place.write()
        for name in ("12345678901", "x", "007", "2.5"):
            registry.write_object(place.root, "diabetes", name, b"")
        assert registry.highest_version(place.root, "diabetes") == 1

    def test_a_version_is_where_its_uri_says(self, place: Place) -> None:
        assert place.write().uri == registry.version_uri(place.root, "diabetes", 1)

    # --- deleting versions

    def test_a_deleted_version_is_missing_and_its_neighbours_are_there(self, place: Place) -> None:
        ref, tenth = place.write(), place.write(small_bundle(CONTRACT, version=10))
        registry.delete_version(ref.uri, "diabetes", 1)
        assert place.reason(ref) == "missing"
        assert not [name for name in place.files.names() if name.startswith("diabetes/1/")]
        assert place.fetch(tenth, version=10).model_version == 10

    def test_what_is_deleted_again_is_no_error(self, place: Place) -> None:
        ref = place.write()
        for _ in range(2):
            registry.delete_version(ref.uri, "diabetes", 1)
        place.write(small_bundle(CONTRACT, version=2))
        registry.delete_version(f"{place.root}/loan/1", "loan", 1)

    def test_a_deletion_that_died_is_ended_by_the_next(self, place: Place) -> None:
        ref = place.write()
        place.files.remove(place.file("manifest.json"))
        assert place.reason(ref) == "missing"
        registry.delete_version(ref.uri, "diabetes", 1)
        assert place.files.names() == []

    def test_only_the_version_that_a_uri_names_is_deleted(self, place: Place) -> None:
        ref = place.write()
        with pytest.raises(registry.ArtifactMalformed, match="must end so"):
            registry.delete_version(place.root, "diabetes", 1)
        assert place.fetch(ref) == BUNDLE

    # --- single files, which may be deleted

    def test_an_object_is_replaced_read_and_deleted(self, place: Place) -> None:
        for data in (b"first", b"second, longer", b""):
            registry.write_object(place.root, "loan", "a.arrow", data)
            assert registry.read_object(place.root, "loan", "a.arrow") == data
        for _ in range(2):
            registry.delete_object(place.root, "loan", "a.arrow")
        with pytest.raises(registry.ArtifactMissing):
            registry.read_object(place.root, "loan", "a.arrow")

    def test_objects_are_listed_by_folder_with_when_they_were_written(self, place: Place) -> None:
        assert registry.list_objects(place.root, "loan") == {}
        begun = datetime.now(UTC)
        for folder, name in (("loan", "a"), ("loan", "b"), ("other", "c")):
            registry.write_object(place.root, folder, name, b"data")
        found = registry.list_objects(place.root, "loan")
        assert sorted(found) == ["a", "b"]
        # Servers say it to the second.
        assert all(abs(time - begun) < timedelta(minutes=1) for time in found.values())

    def test_an_object_that_is_too_long_is_not_read(self, place: Place) -> None:
        registry.write_object(place.root, "loan", "a.arrow", b"1234")
        assert registry.read_object(place.root, "loan", "a.arrow", size_limit=4) == b"1234"
        with pytest.raises(registry.ArtifactTooLarge):
            registry.read_object(place.root, "loan", "a.arrow", size_limit=3)

    @pytest.mark.parametrize(
        ("folder", "name"),
        [
            ("..", "a"),
            (".", "a"),
            ("", "a"),
            ("a/b", "c"),
            ("a", "../b"),
            ("a", "b\0"),
            ("a", "b?versionId=1"),
            ("a", "*"),
        ],
    )
    def test_a_name_that_leads_elsewhere_is_refused(self, place: Place, folder: str, name: str) -> None:
        use: tuple[Callable[[], object], ...] = (
            lambda: registry.write_object(place.root, folder, name, b"ours"),
            lambda: registry.read_object(place.root, folder, name),
            lambda: registry.delete_object(place.root, folder, name),
        )
        for one in use:
            with pytest.raises(registry.ArtifactMalformed, match="no name of a file or folder"):
                one()
