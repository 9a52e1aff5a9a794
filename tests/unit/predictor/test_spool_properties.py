"""Whatever is appended, read, done, closed, killed and cut, in any order: what was kept and is not done is read."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from driftloop.predictor.spool import Position, Spool
from tests.unit.predictor.spools import opened, record, segments, taken

BOUND = 4000
STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(st.integers(8, 300), min_size=1, max_size=6)),
    st.tuples(st.just("read"), st.integers(1, 8)),
    st.tuples(st.just("done"), st.integers(0, 8)),
    st.tuples(st.sampled_from(["rewind", "reopen", "kill"]), st.none()),
    st.tuples(st.just("cut"), st.floats(0, 1)),
)


class Model:
    """A spool, and a list that says what must be in it."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self.root = folder
        self.segment_bytes = segment_bytes
        self.folder = folder / "0"
        self.spool = self._open()
        self.kept: list[tuple[Position, int]] = []
        self.read_until = 0
        self.given = 0

    def _open(self) -> Spool:
        return opened(self.folder, BOUND, self.segment_bytes)

    def append(self, sizes: list[int]) -> None:
        group = [record(self.given + index, size) for index, size in enumerate(sizes)]
        positions = self.spool.append(group)
        self.kept += [(position, int(one.key)) for position, one in zip(positions, group, strict=False)]
        self.given += len(group)

    def read(self, limit: int) -> None:
        found = [(position, int(one.key)) for position, one in self.spool.read(limit)]
        assert found == self.kept[self.read_until : self.read_until + limit]
        self.read_until += len(found)

    def done(self, count: int) -> None:
        if count and self.kept:
            last = min(count, len(self.kept))
            self.spool.done(self.kept[last - 1][0])
            self.kept = self.kept[last:]
            self.read_until = max(0, self.read_until - last)

    def rewind(self, _: None) -> None:
        self.spool.rewind()
        self.read_until = 0

    def reopen(self, _: None) -> None:
        self.spool.close()
        self.spool, self.read_until = self._open(), 0

    def kill(self, _: None) -> None:
        """Go on with the files as they are, which is what a killed process leaves."""
        self.folder = shutil.copytree(self.folder, self.root / f"{int(self.folder.name) + 1}")
        self.reopen(None)

    def cut(self, share: float) -> None:
        """Lose the end of the newest segment: what lies before it must not suffer."""
        self.spool.close()
        if files := segments(self.folder):
            number, size = int(files[-1].stem), int(share * files[-1].stat().st_size)
            with files[-1].open("r+b") as file:
                file.truncate(size)
            self.kept = [(at, one) for at, one in self.kept if at.segment < number or at.end <= size]
        self.reopen(None)

    def check(self) -> None:
        assert self.spool.records == len(self.kept)
        assert self.spool.oldest == (self.kept[0][1] if self.kept else None)
        assert self.spool.damaged == 0
        assert taken(self.folder) <= BOUND


@contextmanager
def model(segment_bytes: int) -> Iterator[Model]:
    with TemporaryDirectory() as folder:
        made = Model(Path(folder), segment_bytes)
        yield made
        made.spool.close()


@given(segment_bytes=st.sampled_from([1, 300, 1000, 100_000]), steps=st.lists(STEPS, max_size=40))
@settings(max_examples=200)
def test_what_was_kept_and_is_not_done_is_read_in_order_and_once(
    segment_bytes: int, steps: list[tuple[str, object]]
) -> None:
    with model(segment_bytes) as made:
        for name, argument in steps:
            getattr(made, name)(argument)
            made.check()
        made.reopen(None)
        made.read(1000)
        made.read(1)
