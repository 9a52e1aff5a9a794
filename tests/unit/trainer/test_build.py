"""What the trainer's settings must say before it starts."""

from pathlib import Path

import msgspec
import pytest

from driftloop.common.kafka.settings import KafkaSettings
from driftloop.common.settings import Secret, SettingsError
from driftloop.label_ingest.doors import MAX_ROWS
from driftloop.trainer.build import open_artifacts, set_files
from driftloop.trainer.settings import Settings
from tests.unit.trainer.test_backends import settings

SETTINGS = Settings(
    kafka=KafkaSettings(kafka_bootstrap_servers="nowhere"),
    database_url=Secret("nowhere"),
    contracts=(),
    artifacts="file:///var/lib/artifacts",
    signing_key=Path("none"),
    trusted_keys=Path("none"),
)


@pytest.mark.parametrize("uri", ["s3://user:password@bucket", "/var/lib/password", "ftp://host/password"])
def test_a_store_that_is_none_ends_the_start_and_is_not_shown(uri: str) -> None:
    with pytest.raises(SettingsError, match=r"^DRIFTLOOP_ARTIFACTS: an? ") as refused:
        open_artifacts(msgspec.structs.replace(SETTINGS, artifacts=uri))
    assert "password" not in str(refused.value)
    with pytest.raises(SettingsError, match=r"^DRIFTLOOP_TRAINING_SETS: an? "):
        set_files(msgspec.structs.replace(SETTINGS, training_sets=uri))


def test_training_sets_are_beside_the_artifacts_unless_they_have_a_place_of_their_own() -> None:
    assert set_files(SETTINGS).root == "file:///var/lib/artifacts/.training-sets"
    bucket = msgspec.structs.replace(SETTINGS, artifacts="s3://models/prod/")
    assert set_files(bucket).root == "s3://models/prod/.training-sets"
    assert set_files(msgspec.structs.replace(bucket, training_sets="s3://rows")).root == "s3://rows"


def test_no_more_rows_are_asked_for_than_label_ingest_gives() -> None:
    """It would refuse each request of a trainer that was set to more."""
    assert settings(MAX_ROWS=str(MAX_ROWS)).max_rows == MAX_ROWS
    for rows in (MAX_ROWS + 1, 0):
        with pytest.raises(SettingsError, match=f"DRIFTLOOP_MAX_ROWS='{rows}'"):
            settings(MAX_ROWS=str(rows))
