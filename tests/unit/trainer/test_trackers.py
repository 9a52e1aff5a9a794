"""Which trackers the standard variables ask for, and what of a card is a metric or a parameter."""

import math
import sys
from pathlib import Path

import pytest

from driftloop.common.settings import SettingsError
from driftloop.trainer.trackers import open_trackers
from driftloop.trainer.tracking import flat, numbers
from tests.support.trackers import tracked

URI = "http://someone:a-password@mlflow"


@pytest.mark.parametrize("environ", [{}, {"MLFLOW_TRACKING_URI": ""}, {"WANDB_MODE": "disabled", "WANDB_API_KEY": "k"}])
def test_a_tracker_that_nobody_asks_for_is_not_opened(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert open_trackers(environ) == ()
    assert caplog.records == []


@pytest.mark.parametrize(
    ("environ", "extra"),
    [
        ({"MLFLOW_TRACKING_URI": URI}, "mlflow"),
        ({"WANDB_MODE": "offline"}, "wandb"),
        ({"WANDB_API_KEY": "a-password"}, "wandb"),
    ],
)
def test_a_tracker_whose_package_is_missing_is_left_out_with_the_remedy(
    environ: dict[str, str], extra: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, extra, None)
    assert open_trackers(environ) == ()
    (record,) = caplog.records
    assert f"install driftloop-trainer[{extra}]" in record.message
    assert next(iter(environ)) in record.message
    assert "a-password" not in str(record.__dict__)


def test_the_address_may_be_in_a_file_and_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="MLFLOW_TRACKING_URI_FILE"):
        open_trackers({"MLFLOW_TRACKING_URI_FILE": str(tmp_path / "missing")})


def test_values_are_named_by_their_place_and_lists_are_left_out() -> None:
    assert flat({"a": 1, "b": {"c": "x", "d": None, "e": [1, 2]}}) == {"a": 1, "b.c": "x"}


def test_a_metric_is_a_finite_number() -> None:
    tree = {"rows": 300, "promoted": True, "auc": None, "newest": {"accuracy": 0.5, "loss": math.inf, "name": "x"}}
    assert numbers(tree) == {"rows": 300.0, "newest.accuracy": 0.5}


def test_what_is_told_shows_no_model_when_it_is_printed() -> None:
    assert "read_model" not in repr(tracked(1))
