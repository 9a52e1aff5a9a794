"""What the integration tests share besides the house."""

from collections.abc import Iterator

import pytest

from tests.support.counting import Counting
from tests.support.house import House


@pytest.fixture
def counting(house: House) -> Iterator[Counting]:
    """A table of counts, and consumer loops that fill it."""
    counting = Counting(house)
    yield counting
    counting.close()
