"""The card tells the whole story, of older releases' versions, too; and a person can read it."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import jsonschema
import msgspec
import numpy as np
import pytest

from driftloop.trainer.domain.card import LabelDelay, ModelCard, card_schema, code_version, label_delays
from driftloop.trainer.domain.card_text import render
from driftloop.trainer.domain.challenger import BaselineData, Challenger, first_version
from driftloop.trainer.domain.dataset import LabeledRows
from tests.support.models import shipped
from tests.support.paths import ROOT

LOAN = shipped("loan", trees=5)
BASELINE = BaselineData.of(LOAN.contract, LOAN.values, LOAN.labels)
SCHEMA = ROOT / "docs" / "model-card.schema.json"
ADDED = ("inspection", "code", "imported")
ADDED_FIGURES = ("mean_score", "calibration_error", "intervals")


@pytest.fixture(scope="module")
def first() -> Challenger:
    return first_version(LOAN.contract, BASELINE, 1, datetime(2024, 1, 1, tzinfo=UTC))


def as_of_old(card: ModelCard) -> ModelCard:
    """What a release before intervals and inspections wrote of the same version."""
    written = msgspec.json.decode(msgspec.json.encode(card))
    for name in ADDED:
        del written[name]
    for figures in written["metrics"].values():
        for name in ADDED_FIGURES:
            del figures[name]
    return msgspec.json.decode(msgspec.json.encode(written), type=ModelCard)


def test_a_card_of_an_older_release_is_read(first: Challenger) -> None:
    old = as_of_old(first.card)
    assert (old.inspection, old.code) == (None, None)
    assert old.metrics["baseline_holdout"].intervals == {}


def test_the_page_of_an_older_card_leaves_out_what_it_does_not_say(first: Challenger) -> None:
    page = render(as_of_old(first.card))
    assert "What it goes by" not in page
    assert "| accuracy |" in page


def test_the_first_version_is_inspected_on_the_rows_that_no_version_ever_trains_on(first: Challenger) -> None:
    found = first.card.inspection
    assert found is not None
    assert (found.slice, found.rows) == ("baseline_holdout", len(BASELINE.split.holdout))
    assert {one.feature for one in found.importances} == set(LOAN.contract.feature_names)
    assert found.prediction_sets is not None
    assert found.prediction_sets.rows == len(BASELINE.split.holdout)


def test_the_same_version_made_again_has_the_same_card(first: Challenger) -> None:
    assert first_version(LOAN.contract, BASELINE, 1, first.card.created).card == first.card


def published() -> str:
    return json.dumps(card_schema(), indent=1) + "\n"


def test_the_published_schema_is_that_of_the_code() -> None:
    """Where it is not: `python -m tests.unit.trainer.test_card` writes it anew."""
    assert SCHEMA.read_text() == published()


def test_a_card_keeps_to_the_published_schema(first: Challenger) -> None:
    written = json.loads(msgspec.json.encode(first.card))
    jsonschema.Draft202012Validator(card_schema()).validate(written)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(card_schema()).validate(written | {"model_version": "one"})


def test_the_page_has_every_part(first: Challenger) -> None:
    page = render(first.card)
    for part in (
        "# loan, version 1",
        "Made 2024-01-01 00:00 UTC",
        "## Trained on\n\n320 rows",
        first.card.training.digest,
        "### baseline_holdout: 80 rows",
        "always the commoner class",
        "## What it goes by",
        "## Where it is weakest",
        "## Prediction sets\n\nLevel 90%, made from 80 rows",
        "driftloop-trainer 0.1.0",
    ):
        assert part in page


def test_the_page_says_how_late_labels_came(first: Challenger) -> None:
    delays = {"newest": LabelDelay(rows=300, p50_seconds=5_400, p90_seconds=12.5 * 86_400)}
    page = render(msgspec.structs.replace(first.card, label_delays=delays))
    said = "Labels of newest, 300: half of them came within 1.5 hours of the prediction, nine of ten within 12.5 days."
    assert said in page


def test_how_late_labels_came_is_summed_up_as_far_as_it_is_known() -> None:
    n = 11
    times = np.datetime64("2026-03-01", "us") + np.arange(n).astype("m8[s]")
    rows = LabeledRows(
        np.array([f"p-{row}" for row in range(n)]), times, np.zeros((n, 1)), np.zeros(n, np.int8), np.full(n, "")
    )
    late = times + (np.arange(n) * 10).astype("m8[s]")
    late[0] = "NaT"
    known = replace(rows, labeled_at=late)
    assert label_delays({"training": known, "newest": rows}) == {
        "training": LabelDelay(rows=10, p50_seconds=55.0, p90_seconds=91.0)
    }


def test_the_card_says_which_commit_the_image_was_built_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLOOP_REVISION", "0123abc")
    assert code_version().commit == "0123abc"


@pytest.mark.parametrize("told", ["", "unknown"])
def test_an_installation_that_does_not_know_its_commit_says_none(monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv("DRIFTLOOP_REVISION", told)
    assert code_version().commit is None
    assert code_version().version


if __name__ == "__main__":
    SCHEMA.write_text(published())
