"""Processes are killed and disks refuse: what was told to be kept is there, and what is not kept is told."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from driftloop.predictor.spool import SpoolFailed, SpoolInUse
from tests.unit.predictor.spools import append, numbers, opened, record, segments, taken

# Each runs in a process of its own: the folder is its first argument.
BEGIN = """
import itertools, sys
from pathlib import Path
from driftloop.predictor.spool import Spool, SpooledRecord, SpoolFailed

def record(number, size=40):
    value = f"{number}:".encode().ljust(size, b"v")
    return SpooledRecord("predictions", number % 3, str(number).encode(), value, (("ce_id", b"%d" % number),), number)

folder = Path(sys.argv[1])
"""
# Says after each append, and after each done, what is true from then on.
APPENDING = (
    BEGIN
    + """
spool = Spool.open(folder, 8 << 20, 20_000)
number = int(sys.argv[2])
for turn in itertools.count():
    group = [record(number + index, 40 + 13 * (turn % 50)) for index in range(1 + turn % 9)]
    if len(spool.append(group)) != len(group):
        break
    number += len(group)
    print("kept", number, flush=True)
    if turn % 4 == 3:
        found = spool.read(10)
        spool.done(found[-1][0])
        print("done", int(found[-1][1].key), flush=True)
"""
)
HOLDING = (
    BEGIN
    + """
spool = Spool.open(folder, 1 << 20)
spool.append([record(1)])
print("held", flush=True)
sys.stdin.read()
"""
)
# Appends until it is refused twice, then says how many were kept, of how many, why not, and what a successor reads.
REFUSED = (
    BEGIN
    + """
import errno, resource
if len(sys.argv) > 2:
    limit = int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
spool = Spool.open(folder, 64 << 20, 1 << 20)
kept, refusals, given = [], [], 0
while len(refusals) < 3:
    group = [record(given + index, 700) for index in range(7)]
    given += 7
    try:
        kept += [int(one.key) for one in group[: len(spool.append(group))]]
    except SpoolFailed as error:
        refusals.append(str(error))
read = [int(one.key) for _, one in spool.read(100_000)]
spool.close()
spool = Spool.open(folder, 64 << 20, 1 << 20)
later = spool.read(100_000)
replayed = [int(one.key) for _, one in later]
spool.done(later[-1][0])
again = len(spool.append([record(1, 700)]))
print(len(kept), read == kept, replayed == kept, spool.damaged, again, refusals[0], sep="|")
"""
)


def child(code: str, folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def killed(code: str, folder: Path, first: int, lines: int) -> dict[str, int]:
    """Run a child until it has said so many lines, kill it, and return the last of what it said."""
    with child(code, folder, str(first)) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        assert process.wait() == -signal.SIGKILL
    # The kill may have cut the last line.
    return {words[0]: int(words[1]) for line in said if line.endswith("\n") and (words := line.split())}


# --- processes


def test_killed_in_the_middle_of_its_work_it_leaves_all_that_it_said_to_have_kept(tmp_path: Path) -> None:
    first, done = 0, -1
    for lines in (30, 61, 112, 203):
        told = killed(APPENDING, tmp_path, first, lines)
        spool = opened(tmp_path, 8 << 20)
        found = [int(one.key) for _position, one in spool.read(100_000)]
        # What was written, or done, right before the kill may not have been told.
        done = max(done, told.get("done", -1))
        assert found == list(range(found[0], found[-1] + 1))
        assert done + 1 <= found[0] <= done + 11
        assert told["kept"] - 1 <= found[-1] < told["kept"] + 10
        assert spool.damaged == 0
        first, done = found[-1] + 1, found[0] - 1
        spool.close()


def test_a_folder_belongs_to_one_process_at_a_time_and_is_free_when_that_is_killed(tmp_path: Path) -> None:
    with child(HOLDING, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(SpoolInUse, match="another live process"):
            opened(tmp_path)
        process.kill()
        process.wait()
    spool = opened(tmp_path)
    assert numbers(spool) == [1]
    spool.close()


# --- real refusals


def told_by(process: "subprocess.Popen[str]") -> list[str]:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return said.strip().split("|")


def test_where_a_file_may_not_grow_what_was_kept_is_replayed_and_what_was_not_is_told(tmp_path: Path) -> None:
    kept, *facts, refusal = told_by(child(REFUSED, tmp_path, "20000"))
    assert facts == ["True", "True", "0", "1"]
    # More than one file holds: another one is begun.
    assert int(kept) * 700 > 20000
    assert "EFBIG: raise the process's limit" in refusal
    assert str(tmp_path) in refusal


def test_on_a_full_volume_what_was_kept_is_replayed_and_what_was_not_is_told(tmp_path: Path) -> None:
    alone = ["unshare", "--user", "--map-root-user", "--mount"]
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(tmp_path)]
    try:
        possible = subprocess.run([*alone, *mount], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        possible = False
    if not possible:
        pytest.skip("a small volume cannot be mounted here")
    script = 'mount -t tmpfs -o size=256k none "$1" && exec "$2" -c "$3" "$1/spool"'
    process = subprocess.Popen(
        [*alone, "sh", "-c", script, "sh", str(tmp_path), sys.executable, REFUSED], stdout=subprocess.PIPE, text=True
    )
    kept, *facts, refusal = told_by(process)
    assert facts == ["True", "True", "0", "1"]
    assert int(kept) > 200
    assert "ENOSPC: make room on the volume" in refusal


# --- refusals that no disk here can be brought to


def failing(monkeypatch: pytest.MonkeyPatch, call: str, number: int = errno.EIO) -> Callable[[], None]:
    """The kernel's refusal is put in the place of one call's answer; returns what ends that."""
    real = getattr(os, call)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, refuse)
    return lambda: monkeypatch.setattr(os, call, real)


def half_written(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Of each write the first half is done, then the disk is full."""
    real, calls = os.pwrite, [0]

    def pwrite(file: int, data: bytes, offset: int) -> int:
        calls[0] += 1
        if calls[0] % 2 == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    return lambda: monkeypatch.setattr(os, "pwrite", real)


def test_after_a_failed_fsync_none_counts_and_the_next_goes_into_another_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path, segment_bytes=1 << 20)
    kept = append(spool, [1, 2])
    heal = failing(monkeypatch, "fdatasync")
    with pytest.raises(SpoolFailed, match=f"{tmp_path}: EIO: see to the volume"):
        spool.append([record(3), record(4)])
    heal()
    assert spool.records == 2
    [later] = spool.append([record(5)])
    assert later.segment > kept[-1].segment
    assert numbers(spool) == [1, 2, 5]
    spool.close()
    spool = opened(tmp_path)
    assert numbers(spool) == [1, 2, 5]
    assert spool.damaged == 0
    spool.close()


def test_a_half_written_group_is_cut_off_and_the_file_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path, segment_bytes=1 << 20)
    [kept] = append(spool, [1])
    heal = half_written(monkeypatch)
    with pytest.raises(SpoolFailed, match="ENOSPC: make room"):
        spool.append([record(2), record(3)])
    heal()
    assert spool.size == segments(tmp_path)[0].stat().st_size == kept.end
    [later] = spool.append([record(4)])
    assert later.segment == kept.segment
    assert numbers(spool) == [1, 4]
    spool.close()


@pytest.mark.parametrize("fault", [half_written, lambda patch: failing(patch, "fdatasync")])
def test_where_it_cannot_be_cut_off_either_nothing_that_was_kept_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[pytest.MonkeyPatch], Callable[[], None]]
) -> None:
    spool = opened(tmp_path, segment_bytes=1 << 20)
    append(spool, [1])
    heal, heal_too = fault(monkeypatch), failing(monkeypatch, "ftruncate")
    with pytest.raises(SpoolFailed):
        spool.append([record(2), record(3)])
    heal()
    heal_too()
    assert spool.size >= segments(tmp_path)[0].stat().st_size
    append(spool, [4])
    assert numbers(spool) == [1, 4]
    spool.close()
    spool = opened(tmp_path)
    # A refused request may be in the log.
    assert [number for number in numbers(spool) if number not in (2, 3)] == [1, 4]
    assert spool.damaged == 0
    spool.close()


@pytest.mark.parametrize("call", ["fsync", "fdatasync", "pwrite"])
def test_a_disk_that_refuses_for_long_does_not_fill_with_empty_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    spool = opened(tmp_path)
    heal = failing(monkeypatch, call, errno.ENOSPC)
    for _ in range(20):
        with pytest.raises(SpoolFailed, match="ENOSPC"):
            spool.append([record(1)])
    assert len(segments(tmp_path)) <= 1
    heal()
    append(spool, [2])
    assert numbers(spool) == [2]
    assert len(segments(tmp_path)) == 1
    spool.close()


def test_without_a_note_of_the_progress_the_replay_goes_on_and_is_repeated_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool = opened(tmp_path, segment_bytes=1 << 20)
    positions = append(spool, range(10))
    heal = failing(monkeypatch, "pwrite", errno.EROFS)
    for position in positions[:5]:
        spool.done(position)
    heal()
    assert numbers(spool) == list(range(5, 10))
    assert [line.levelname for line in caplog.records] == ["WARNING"]
    spool.close()
    spool = opened(tmp_path)
    assert numbers(spool) == list(range(10))
    spool.close()


def test_a_segment_that_cannot_be_deleted_counts_until_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)
    positions = append(spool, range(20))
    heal = failing(monkeypatch, "unlink", errno.EROFS)
    spool.done(positions[-1])
    assert (spool.records, spool.size) == (0, sum(one.stat().st_size for one in segments(tmp_path)))
    heal()
    append(spool, [20])
    assert len(segments(tmp_path)) == 1
    assert spool.size == segments(tmp_path)[0].stat().st_size
    spool.close()


def test_what_a_killed_process_had_yet_to_delete_counts_as_well_until_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = opened(tmp_path)
    positions = append(spool, range(20))
    heal = failing(monkeypatch, "unlink", errno.EROFS)
    spool.done(positions[-1])
    spool.close()
    spool = opened(tmp_path)
    assert spool.size == sum(one.stat().st_size for one in segments(tmp_path)) > 0
    assert numbers(spool) == []
    heal()
    spool.append([])
    assert (spool.size, segments(tmp_path)) == (0, [])
    spool.close()


def test_a_folder_whose_name_cannot_be_made_durable_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heal = failing(monkeypatch, "fsync")
    with pytest.raises(SpoolFailed, match="EIO"):
        opened(tmp_path / "spool")
    heal()


@pytest.mark.parametrize(("call", "number"), [("scandir", errno.EACCES), ("pread", errno.EBADF)])
def test_a_folder_that_cannot_be_read_is_refused_and_free_for_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    spool = opened(tmp_path)
    append(spool, range(3))
    spool.close()
    heal = failing(monkeypatch, call, number)
    with pytest.raises(SpoolFailed, match=rf"{tmp_path}.*: {errno.errorcode[number]}: "):
        opened(tmp_path)
    heal()
    spool = opened(tmp_path)
    assert numbers(spool) == [0, 1, 2]
    spool.close()


def test_what_the_process_cannot_read_now_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = opened(tmp_path)
    append(spool, range(12))
    assert numbers(spool, 3) == [0, 1, 2]
    heal = failing(monkeypatch, "pread", errno.ENOMEM)
    with pytest.raises(SpoolFailed, match="ENOMEM"):
        spool.read(100)
    heal()
    assert numbers(spool) == list(range(3, 12))
    assert spool.damaged == 0
    assert taken(tmp_path) == spool.size
    spool.close()
