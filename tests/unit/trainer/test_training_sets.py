"""A training set as a file: what was learnt from comes back exactly, and goes without a trace."""

import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from driftloop.common import registry
from driftloop.common.contract import Recipe
from driftloop.common.registry import ArtifactMissing, ArtifactTooLarge, DigestMismatch, StoreUnavailable
from driftloop.trainer import training_sets
from driftloop.trainer.domain.card import TrainingData, training_data
from driftloop.trainer.domain.challenger import BaselineData
from driftloop.trainer.domain.dataset import LabeledRows, training_set
from driftloop.trainer.label_rows import ProductionRows
from driftloop.trainer.set_store import KeptSet
from driftloop.trainer.training_sets import SetFiles, decode, earliest, encode, rebuilt, verify
from tests.support.models import shipped

LOAN = shipped("loan", trees=5)
BASELINE = BaselineData.of(LOAN.contract, LOAN.values, LOAN.labels)
D = len(LOAN.contract.features)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)
DIGEST = "ab" * 32
KEPT = KeptSet("loan", DIGEST, stored=True)


def labeled(values: NDArray[np.float64], subjects: list[str] | None = None) -> LabeledRows:
    """A row a microsecond, labels in turn."""
    n = len(values)
    return LabeledRows(
        ids=np.array([f"p-{row}" for row in range(n)], dtype=np.str_),
        times=np.datetime64("2026-03-01T12:00", "us") + np.arange(n),
        values=values,
        labels=(np.arange(n) % 2).astype(np.int8),
        subjects=np.array(subjects or [""] * n, dtype=np.str_),
    )


def summed_up(rows: LabeledRows) -> TrainingData:
    return training_data(training_set(BASELINE.values, BASELINE.labels, BASELINE.split, rows))


numbers = st.one_of(st.floats(), st.just(float("nan")))


@given(st.lists(st.lists(numbers, min_size=D, max_size=D), min_size=1, max_size=20))
def test_a_set_is_rebuilt_from_its_file_and_the_baseline(values: list[list[float]]) -> None:
    rows = labeled(np.array(values), ["", "a" * 32] * (len(values) // 2) + ["b" * 32] * (len(values) % 2))
    data = summed_up(rows)
    found = decode(LOAN.contract, encode(LOAN.contract, data, rows))
    for column in ("ids", "times", "values", "labels", "subjects"):
        np.testing.assert_array_equal(getattr(found, column), getattr(rows, column))
    assert rebuilt(LOAN.contract, BASELINE, data.digest, found).digest == data.digest


def test_a_first_version_is_rebuilt_from_the_baseline_alone() -> None:
    data = training_data(training_set(BASELINE.values, BASELINE.labels, BASELINE.split))
    assert len(rebuilt(LOAN.contract, BASELINE, data.digest, None).labels) == data.rows


def test_a_weighted_set_is_rebuilt_by_the_recipe_that_it_was_made_by() -> None:
    contract = msgspec.structs.replace(LOAN.contract, training=Recipe(half_life_days=1e-12, balance="balanced"))
    rows = labeled(LOAN.values[:4])
    data = training_set(BASELINE.values, BASELINE.labels, BASELINE.split, rows, contract.training)
    found = rebuilt(contract, BASELINE, data.digest, decode(contract, encode(contract, training_data(data), rows)))
    np.testing.assert_array_equal(found.weights, data.weights)
    with pytest.raises(DigestMismatch):
        rebuilt(LOAN.contract, BASELINE, data.digest, rows)


def test_other_rows_than_those_that_were_learnt_from_are_refused() -> None:
    rows = labeled(LOAN.values[:4])
    with pytest.raises(DigestMismatch, match="with the contract and the baseline of its time"):
        rebuilt(LOAN.contract, BASELINE, summed_up(rows).digest, rows.take(np.array([0, 1, 3])))


def test_a_file_says_what_it_is() -> None:
    rows = labeled(LOAN.values[:4])
    data = summed_up(rows)
    with pa.ipc.open_file(encode(LOAN.contract, data, rows)) as reader:
        metadata = reader.schema.metadata
    assert metadata[b"driftloop.model"] == b"loan"
    assert metadata[b"driftloop.digest"] == data.digest.encode()


# --- files


@pytest.fixture
def files(tmp_path: Path) -> SetFiles:
    return SetFiles((tmp_path / "sets").as_uri())


def test_a_file_is_read_by_its_owner_only(files: SetFiles, tmp_path: Path) -> None:
    files.write("loan", DIGEST, b"rows")
    path = tmp_path / "sets" / "loan" / f"{DIGEST}.arrow"
    assert path.read_bytes() == files.read("loan", DIGEST) == b"rows"
    assert [one.stat().st_mode & 0o777 for one in (path, path.parent, path.parent.parent)] == [0o600, 0o700, 0o700]


def test_a_deleted_file_leaves_nothing_not_even_what_a_writer_that_died_had_begun(
    files: SetFiles, tmp_path: Path
) -> None:
    files.write("loan", DIGEST, b"rows")
    folder = tmp_path / "sets" / "loan"
    (folder / f".unfinished-{DIGEST}.arrow").write_bytes(b"ro")
    files.delete(KEPT)
    assert os.listdir(folder) == [".lock"]
    files.delete(KEPT)


# --- manifests


def kept_set(files: SetFiles, tmp_path: Path, model: str = "loan") -> tuple[str, Path]:
    """A set that was written: its digest, and where its file is."""
    rows = labeled(LOAN.values[:4], ["a" * 32, "", "b" * 32, ""])
    data = summed_up(rows)
    files.write(model, data.digest, encode(LOAN.contract, data, rows))
    return data.digest, tmp_path / "sets" / model / f"{data.digest}.arrow"


def sha256sum(file: Path) -> subprocess.CompletedProcess[str]:
    """The system's own word on a file by its manifest."""
    return subprocess.run(
        ["sha256sum", "--check", "--strict", f"{file.name}.sha256"],
        cwd=file.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed: install coreutils")
def test_sha256sum_verifies_a_file_by_its_manifest(files: SetFiles, tmp_path: Path) -> None:
    _, file = kept_set(files, tmp_path)
    assert sha256sum(file).stdout == f"{file.name}: OK\n"
    file.write_bytes(file.read_bytes()[:-1])
    assert sha256sum(file).returncode != 0


def test_a_set_that_is_whole_is_verified_and_its_rows_are_read(files: SetFiles, tmp_path: Path) -> None:
    digest, _ = kept_set(files, tmp_path)
    assert decode(LOAN.contract, verify(files, "loan", digest)).subjects.tolist() == ["a" * 32, "", "b" * 32, ""]


def test_a_file_with_one_bit_changed_is_not_verified(files: SetFiles, tmp_path: Path) -> None:
    digest, file = kept_set(files, tmp_path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(DigestMismatch, match=f"is not what its manifest {file.name}.sha256 says: restore both"):
        verify(files, "loan", digest)


def test_a_manifest_of_another_file_says_nothing_of_this_one(files: SetFiles, tmp_path: Path) -> None:
    digest, file = kept_set(files, tmp_path)
    manifest = file.with_name(f"{file.name}.sha256")
    manifest.write_text(manifest.read_text().replace(digest, DIGEST))
    with pytest.raises(DigestMismatch, match="is not what its manifest"):
        verify(files, "loan", digest)


@pytest.mark.parametrize("model", ["loan", "other"])
def test_the_file_of_another_set_is_not_verified_though_its_manifest_fits(
    files: SetFiles, tmp_path: Path, model: str
) -> None:
    digest, file = kept_set(files, tmp_path)
    claimed = DIGEST if model == "loan" else digest
    files.write(model, claimed, file.read_bytes())
    with pytest.raises(DigestMismatch, match="is the file of another training set"):
        verify(files, model, claimed)


def test_what_is_no_file_of_a_set_is_not_verified(files: SetFiles) -> None:
    files.write("loan", DIGEST, b"rows")
    with pytest.raises(DigestMismatch, match="is no file of a training set"):
        verify(files, "loan", DIGEST)


@pytest.mark.parametrize("ending", ["", ".sha256"])
def test_a_set_of_which_a_part_is_missing_is_not_verified(files: SetFiles, tmp_path: Path, ending: str) -> None:
    digest, file = kept_set(files, tmp_path)
    file.with_name(file.name + ending).unlink()
    with pytest.raises(ArtifactMissing):
        verify(files, "loan", digest)


def test_who_dies_between_a_file_and_its_manifests_is_followed_by_one_who_writes_them(
    files: SetFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = registry.write_object

    def dying(root: str, model: str, name: str, data: bytes) -> None:
        if name.endswith(".sha256"):
            raise StoreUnavailable("no space left")
        write(root, model, name, data)

    with monkeypatch.context() as dies, pytest.raises(StoreUnavailable):
        dies.setattr(registry, "write_object", dying)
        kept_set(files, tmp_path)
    digest, _ = kept_set(files, tmp_path)
    assert verify(files, "loan", digest)


def test_a_file_that_cannot_be_deleted_keeps_its_manifests(files: SetFiles, tmp_path: Path) -> None:
    """Nobody must take what is still there for gone."""
    digest, file = kept_set(files, tmp_path)
    file.unlink()
    file.mkdir()
    with pytest.raises(StoreUnavailable):
        files.delete(KeptSet("loan", digest, stored=True))
    assert file.with_name(f"{file.name}.sha256").exists()


def test_a_set_of_another_model_with_the_same_digest_stays(files: SetFiles) -> None:
    files.write("loan", DIGEST, b"rows")
    files.write("other", DIGEST, b"rows")
    files.delete(KEPT)
    assert files.read("other", DIGEST) == b"rows"


def test_what_was_stored_on_a_volume_that_is_away_is_not_taken_for_deleted(files: SetFiles) -> None:
    with pytest.raises(ArtifactMissing):
        files.delete(KEPT)


def test_what_was_never_stored_needs_no_volume(files: SetFiles) -> None:
    files.delete(KeptSet("loan", DIGEST, stored=False))


def test_a_file_that_is_too_long_is_refused(files: SetFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_sets, "SIZE_LIMIT", 3)
    files.write("loan", DIGEST, b"rows")
    with pytest.raises(ArtifactTooLarge):
        files.read("loan", DIGEST)


def test_of_each_subject_the_earliest_row_is_known_and_nobody_else() -> None:
    rows = labeled(LOAN.values[:5], ["anna", "", "bert", "anna", "bert"]).take(np.array([3, 4, 1, 0, 2]))
    assert earliest(rows) == {"anna": START, "bert": START + timedelta(microseconds=2)}
    assert earliest(labeled(LOAN.values[:2])) == {}


# --- rows of erased subjects


def test_rows_of_an_erased_subject_are_left_out_as_far_as_they_are_older() -> None:
    n = 4
    rows = ProductionRows(
        ids=np.array([f"p-{row}" for row in range(n)]),
        times=np.datetime64("2026-03-01T12:00", "us") + np.arange(n).astype("m8[m]"),
        values=np.zeros((n, D)),
        labels=np.zeros(n, dtype=np.int8),
        subjects=np.array(["anna", "bert", "", "anna"]),
        labeled_at=np.full(n, "NaT", dtype="M8[us]"),
    )
    left = rows.without({"anna": START + timedelta(minutes=3)})
    assert left.ids.tolist() == ["p-1", "p-2", "p-3"]
    assert rows.without({}) is rows
