"""What the integration tests share besides the house."""

from collections.abc import Iterator

import pytest

from driftloop.devstack import Stack
from tests.support import monitored
from tests.support import watched as watching
from tests.support.counting import Counting
from tests.support.house import House
from tests.support.label_ingest import Desk, opened
from tests.support.monitored import Monitor
from tests.support.watched import Watched

RNGS = {rng: rng.bit_generator.state for rng in (monitored.RNG, watching.RNG)}


@pytest.fixture(autouse=True)
def rows_of_its_own() -> None:
    """Random rows are the same for a test whatever its worker has run before it."""
    for rng, state in RNGS.items():
        rng.bit_generator.state = state


@pytest.fixture
def counting(house: House) -> Iterator[Counting]:
    """A table of counts, and consumer loops that fill it."""
    counting = Counting(house)
    yield counting
    counting.close()


@pytest.fixture
def monitor(house: House) -> Monitor:
    """A drift monitor's parts on a schema of its own."""
    return Monitor(house, house.pool("drift_monitor", max_size=8))


@pytest.fixture
def watched(house: House) -> Iterator[Watched]:
    """A drift monitor that reads a topic."""
    watched = Watched(house)
    yield watched
    watched.close()


@pytest.fixture(scope="module")
def opened_desk(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, Desk]]:
    """A house with a desk in it, which the tests of a module share; each clears it before it begins."""
    with opened(stack, tmp_path_factory.mktemp("label-ingest")) as both:
        yield both
