"""Ids of predictions and pseudonyms of patients."""

from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import RFC_4122, UUID

import msgspec

from driftloop.common.events import PredictionId
from driftloop.common.pseudonyms import pseudonym
from driftloop.predictor.domain.identity import new_prediction_ids

NOW = datetime(2026, 3, 1, 12, 0, 0, 123_000, tzinfo=UTC)


def test_an_id_is_a_uuid_of_version_7() -> None:
    found = UUID(new_prediction_ids(NOW, 1)[0])
    assert (found.version, found.variant) == (7, RFC_4122)


def test_an_id_begins_with_its_millisecond() -> None:
    assert int(new_prediction_ids(NOW, 1)[0][:12], 16) == int(NOW.timestamp() * 1000)


def test_ids_are_ordered_by_time() -> None:
    ids = [*(id_ for number in range(1000) for id_ in new_prediction_ids(NOW + timedelta(milliseconds=number), 1))]
    assert ids == sorted(ids)


def test_ids_of_one_instant_differ() -> None:
    assert len(set(new_prediction_ids(NOW, 10_000))) == 10_000


def test_an_id_is_one_that_events_accept() -> None:
    assert msgspec.convert(new_prediction_ids(NOW, 1)[0], Annotated[str, PredictionId])


def test_a_pseudonym_is_the_same_for_the_same_patient_and_key() -> None:
    assert pseudonym(b"key", "MRN-1") == pseudonym(b"key", "MRN-1")


def test_a_pseudonym_depends_on_the_patient_and_on_the_key() -> None:
    found = {pseudonym(key, patient) for key in (b"key", b"other") for patient in ("MRN-1", "MRN-2")}
    assert len(found) == 4


def test_a_pseudonym_is_128_bits() -> None:
    assert len(bytes.fromhex(pseudonym(b"key", "MRN-1"))) == 16
