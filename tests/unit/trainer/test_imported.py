"""A model from elsewhere as version 1: held to what ours are held to, and judged on rows that it has not seen."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from driftloop.common.contract import ContractError
from driftloop.common.onnx_policy import check_model
from driftloop.common.profile import NumericReference
from driftloop.common.rows import validator
from driftloop.trainer.domain.adapting import ImportRefused, adapted
from driftloop.trainer.domain.card import ModelCard
from driftloop.trainer.domain.card_text import render
from driftloop.trainer.domain.challenger import BaselineData, Challenger, ReferenceRows, challenge
from driftloop.trainer.domain.dataset import LabeledRows, divide
from driftloop.trainer.domain.export import export_onnx, score
from driftloop.trainer.domain.imported import examine, imported_version, seen_rows, unseen_holdout
from driftloop.trainer.domain.training import train
from driftloop.trainer.importing import ImportSource, open_source
from tests.support.models import shipped

SHIPPED = shipped("diabetes")
CONTRACT = SHIPPED.contract
BASELINE = BaselineData.of(CONTRACT, SHIPPED.values, SHIPPED.labels)
HELD = BASELINE.split.holdout
CREATED = datetime(2024, 1, 1, tzinfo=UTC)
WIDTH = len(CONTRACT.features)


@pytest.fixture(scope="module")
def forest() -> bytes:
    rows = BASELINE.split.train
    return export_onnx(train(CONTRACT, SHIPPED.features[rows], SHIPPED.labels[rows]), WIDTH)


@pytest.fixture
def bring(tmp_path: Path, forest: bytes) -> Callable[..., Challenger]:
    def version(trained_on: object = "baseline-train", model: bytes = forest) -> Challenger:
        file = tmp_path / "model.onnx"
        file.write_bytes(model)
        source = ImportSource(file, "onnx", trained_on)  # type: ignore[arg-type]
        opened = open_source(CONTRACT, BASELINE, source, lambda _text: None)
        return imported_version(CONTRACT, BASELINE, opened, 1, CREATED)

    return version


def named(folder: Path, rows: np.ndarray) -> Path:
    """A CSV file with these baseline rows, as someone who trained a model would have it."""
    path = folder / "trained-on.csv"
    lines = [",".join(CONTRACT.feature_names)]
    for row in rows:
        canonical = SHIPPED.rows[int(row)]
        lines.append(",".join("" if value is None else str(value) for value in canonical.values()))
    path.write_text("\n".join(lines) + "\n")
    return path


def linear(weight: float, last: str = "Sigmoid") -> bytes:
    """A model without an imputer, [n, 1] of `last` (weight · Σ features)."""
    ends = {
        "Sigmoid": [helper.make_node("Sigmoid", ["logit"], ["y"])],
        "Identity": [helper.make_node("Identity", ["logit"], ["y"])],
        # Each row's share of the largest in the batch.
        "ReduceMax": [
            helper.make_node("ReduceMax", ["logit"], ["largest"], axes=[0], keepdims=1),
            helper.make_node("Div", ["logit", "largest"], ["y"]),
        ],
        "Reshape": [
            helper.make_node("Sigmoid", ["logit"], ["p"]),
            helper.make_node("Reshape", ["p", "one row"], ["y"]),
        ],
    }
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["logit"]), *ends[last]],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [
            numpy_helper.from_array(np.full((WIDTH, 1), weight, dtype=np.float32), "w"),
            numpy_helper.from_array(np.array([1, 1], dtype=np.int64), "one row"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


# --- the version


def test_it_gets_the_same_card_as_one_of_ours_and_says_where_it_came_from(bring: Callable[..., Challenger]) -> None:
    made = bring()
    card = made.card
    assert card.metrics["baseline_holdout"].rows == len(HELD)
    assert card.inspection is not None
    assert card.inspection.importances
    assert card.imported is not None
    assert (card.imported.source, card.imported.trained_on, card.imported.named_rows) == ("onnx", "baseline-train", 614)
    assert msgspec.json.decode(msgspec.json.encode(card), type=ModelCard) == card
    assert "Made elsewhere and imported from onnx" in render(card)


def test_its_known_answers_are_its_own_and_a_predictor_may_load_it(bring: Callable[..., Challenger]) -> None:
    made = bring()
    check_model(made.model, WIDTH)
    np.testing.assert_allclose(score(made.model, made.known_inputs), made.known_probabilities, atol=1e-6)
    assert np.isnan(made.known_inputs).any()


def test_its_reference_is_the_whole_baseline_and_its_scores_are_those_of_rows_it_has_not_seen(
    bring: Callable[..., Challenger],
) -> None:
    profile = bring().profile
    glucose = profile.features[1]
    assert isinstance(glucose, NumericReference)
    assert sum(glucose.counts) + glucose.missing == 768
    assert sum(profile.scores.counts) == len(HELD)
    assert profile.calibration is not None
    assert (profile.calibration, profile.calibration.rows) == (profile.heldout, len(HELD))


def test_a_model_that_has_seen_no_baseline_row_is_judged_on_all_of_them(bring: Callable[..., Challenger]) -> None:
    made = bring("none")
    assert {name: one.rows for name, one in made.card.metrics.items()} == {
        "baseline_holdout": len(HELD),
        "baseline_unseen": 768,
    }
    assert made.card.training.rows == 0


# --- what it was trained on is never its test


def test_held_out_rows_that_it_was_trained_on_are_in_no_figure(
    tmp_path: Path, bring: Callable[..., Challenger]
) -> None:
    path = named(tmp_path, HELD[:100])
    made = bring(path)
    seen = seen_rows(BASELINE, SHIPPED.values[HELD[:100]])
    assert seen[HELD[:100]].all()
    assert made.card.metrics["baseline_holdout"].rows == len(HELD) - seen[HELD].sum()
    assert made.card.metrics["baseline_unseen"].rows == 768 - seen.sum()
    assert made.profile.heldout is not None
    assert made.profile.heldout.rows == 768 - seen.sum()


def test_rows_are_matched_as_the_contract_reads_them(tmp_path: Path) -> None:
    """0 is the code of a missing value, and an empty cell is one: both are the same row."""
    row = int(np.flatnonzero(np.isnan(SHIPPED.values[:, 2]))[0])
    path = named(tmp_path, np.array([row]))
    text = path.read_text().splitlines()
    cells = text[1].split(",")
    cells[2] = "0"
    compiled = validator(CONTRACT)
    values = compiled.values([compiled.canonicalise(dict(zip(CONTRACT.feature_names, map(float, cells), strict=True)))])
    assert seen_rows(BASELINE, values)[row]


def test_the_same_number_is_the_same_whatever_its_bits_are() -> None:
    """A gap is a gap, and zero has no sign, wherever a row was computed."""
    row = int(np.flatnonzero(np.isnan(SHIPPED.values[:, 2]) & (SHIPPED.values[:, 0] == 0))[0])
    values = SHIPPED.values[[row]].copy()
    values[0, 0] = -0.0
    values[0, 2] = np.copysign(np.nan, -1)
    assert seen_rows(BASELINE, values)[row]


def test_a_later_comparison_leaves_out_what_the_champion_was_trained_on(
    tmp_path: Path, bring: Callable[..., Challenger]
) -> None:
    champion = bring(named(tmp_path, HELD[:100]))
    unseen = unseen_holdout(champion.card, BASELINE)
    assert not unseen[:100].any()
    rows = production()
    made = challenge(
        CONTRACT, BASELINE, divide(rows, 100), ReferenceRows(rows.ids, rows.values), champion.model,
        since=rows.times[0], version=2, created=CREATED, reason="a test", unseen=unseen,
    )  # fmt: skip
    assert made.card.decision is not None
    assert made.card.decision.baseline.rows == unseen.sum()
    assert made.card.metrics["baseline_holdout.champion"].rows == unseen.sum()


def production() -> LabeledRows:
    rng = np.random.default_rng(1)
    chosen = rng.integers(0, 768, 300)
    return LabeledRows(
        ids=np.array([f"p{row:05d}" for row in range(300)]),
        times=np.datetime64("2024-01-01", "s") + np.arange(300).astype("m8[s]"),
        values=SHIPPED.values[chosen],
        labels=SHIPPED.labels[chosen],
        subjects=np.full(300, ""),
    )


def test_a_version_of_ours_has_seen_no_held_out_row(bring: Callable[..., Challenger]) -> None:
    card = msgspec.structs.replace(bring().card, imported=None)
    assert unseen_holdout(card, BASELINE).all()


def test_with_another_baseline_nobody_can_tell_what_it_was_trained_on(
    tmp_path: Path, bring: Callable[..., Challenger]
) -> None:
    card = bring(named(tmp_path, HELD[:20])).card
    other = BaselineData(BASELINE.values + 1, BASELINE.labels, BASELINE.split)
    with pytest.raises(ValueError, match="imported with another baseline"):
        unseen_holdout(card, other)


def test_too_few_unseen_rows_are_refused_with_the_remedy(tmp_path: Path, bring: Callable[..., Challenger]) -> None:
    with pytest.raises(ImportRefused, match=r"trained on all but .* at least 30 .* train it without the held-out rows"):
        bring(named(tmp_path, HELD[:140]))


def test_a_file_of_rows_that_are_not_the_contracts_is_refused(tmp_path: Path, bring: Callable[..., Challenger]) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("Glucose,Age\n100,30\n")
    with pytest.raises(ContractError, match=r"no values for \['Pregnancies', 'BloodPressure', 'BMI'\]"):
        bring(path)


# --- what it must answer


def test_a_model_that_cannot_do_without_a_value_that_may_be_missing_is_refused(
    bring: Callable[..., Challenger],
) -> None:
    with pytest.raises(ImportRefused, match="no probability where Glucose, BloodPressure, BMI is missing"):
        bring(model=linear(0.001))


# A contract in which nothing is ever missing, and such rows.
STRICT = msgspec.structs.replace(
    CONTRACT, features=tuple(msgspec.structs.replace(one, nullable=False, missing=()) for one in CONTRACT.features)
)
WHOLE = np.nan_to_num(SHIPPED.features, nan=70.0)


def test_what_is_never_missing_need_not_be_answered() -> None:
    examine(STRICT, adapted(linear(0.001), WIDTH, CONTRACT.target), WHOLE)


def test_a_model_that_answers_with_logits_is_refused() -> None:
    with pytest.raises(ImportRefused, match="no probabilities of two classes: export it with its sigmoid"):
        examine(STRICT, adapted(linear(0.01, last="Identity"), WIDTH, CONTRACT.target), WHOLE)


def test_a_model_whose_answer_depends_on_the_other_rows_is_refused() -> None:
    with pytest.raises(ImportRefused, match="does not answer the same row the same, alone and among others"):
        examine(STRICT, adapted(linear(0.01, last="ReduceMax"), WIDTH, CONTRACT.target), WHOLE)


def test_a_model_that_takes_one_row_only_is_refused() -> None:
    with pytest.raises(ImportRefused, match=r"open number of rows|cannot compute"):
        examine(STRICT, adapted(linear(0.001, last="Reshape"), WIDTH, CONTRACT.target), WHOLE)
