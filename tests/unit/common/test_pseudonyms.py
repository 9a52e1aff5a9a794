"""The key of pseudonyms: one for the predictor and label-ingest, never short, never shown."""

import pytest

from driftloop.common.pseudonyms import key_bytes
from driftloop.common.settings import Secret, SettingsError


def test_a_key_is_taken_as_it_is() -> None:
    assert key_bytes(Secret("sixteen letters.")) == b"sixteen letters."


def test_a_short_key_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError, match=r"DRIFTLOOP_PSEUDONYM_KEY has 5 characters") as refused:
        key_bytes(Secret("short"))
    assert "short" not in str(refused.value)
