"""Which prediction a result belongs to, and what label the results make: by order, by patient, in both unit systems."""

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from driftloop.common.events import LabelRetracted, OutcomeReported, PredictionLabeled, PredictionMade
from driftloop.label_ingest.reports import Answer
from tests.support.house import House
from tests.support.label_histories import CONFIRMING, CONTRACTS
from tests.support.label_ingest import DIABETES, Desk
from tests.support.laboratory import day, glucose, hba1c, seen
from tests.support.predictions import START


@pytest.fixture
def desk(opened_desk: tuple[House, Desk]) -> Desk:
    """A desk on which nothing lies, of two models: one labels after one abnormal result, one after two."""
    desk = Desk(opened_desk[1].pool, contracts=CONTRACTS)
    desk.clear()
    return desk


def labels(desk: Desk) -> dict[str, int]:
    """The labels that hold, by prediction."""
    with desk.pool.connection() as connection:
        rows = connection.execute("SELECT prediction_id, label FROM labels WHERE label IS NOT NULL").fetchall()
    return dict(rows)


def story(desk: Desk, prediction_id: str) -> list[tuple[int | None, int | None, int]]:
    """What was published of a prediction: the label (None: taken back), the label before, the revision."""
    found: list[tuple[int | None, int | None, int]] = []
    for event in desk.events():
        if isinstance(event, PredictionLabeled) and event.prediction_id == prediction_id:
            found.append((event.label, event.previous_label, event.label_revision))
        elif isinstance(event, LabelRetracted) and event.prediction_id == prediction_id:
            found.append((None, event.previous_label, event.label_revision))
    return found


def statuses(answers: Sequence[Answer]) -> list[str]:
    return [one.status for one in answers]


# --- by order


def test_a_result_of_an_order_labels_the_prediction_that_was_made_for_it(desk: Desk) -> None:
    desk.take([seen("p", order="A-1"), seen("q", order="A-2")])
    assert desk.take(outcomes=[hba1c(order_id="A-1")]) == [Answer("joined")]
    assert labels(desk) == {"p": 1}


def test_a_result_of_an_order_waits_for_its_prediction(desk: Desk) -> None:
    assert desk.take(outcomes=[hba1c(order_id="A-1")]) == [Answer("parked")]
    desk.take([seen("p", order="A-1")])
    assert labels(desk) == {"p": 1}


def test_a_result_and_the_prediction_for_its_order_may_come_together(desk: Desk) -> None:
    assert desk.take([seen("p", order="A-1")], [hba1c(order_id="A-1")]) == [Answer("joined")]
    assert labels(desk) == {"p": 1}


def test_all_predictions_of_an_order_get_the_label(desk: Desk) -> None:
    desk.take([seen("p", 0, order="A-1"), seen("q", 5, order="A-1")], [hba1c(on=1, order_id="A-1")])
    desk.take([seen("r", 9, order="A-1")])
    assert labels(desk) == {"p": 1, "q": 1, "r": 1}


def test_a_measurement_belongs_only_to_models_that_read_it(desk: Desk) -> None:
    two_hours = OutcomeReported(analyte="1518-0", value=250.0, unit="mg/dL", order_id="A-1", observed_at=day(1))
    desk.take([seen("p", order="A-1"), seen("q", order="A-1", model=CONFIRMING.name)], [two_hours])
    assert labels(desk) == {"p": 1}


def test_a_stated_label_belongs_only_to_the_model_that_it_names(desk: Desk) -> None:
    desk.take([seen("p", order="A-1"), seen("q", order="A-1", model=CONFIRMING.name)])
    desk.take(outcomes=[OutcomeReported(order_id="A-1", label=0, model_name=CONFIRMING.name)])
    assert labels(desk) == {"q": 0}


# --- by patient and time


def test_a_patients_result_belongs_to_the_nearest_earlier_prediction(desk: Desk) -> None:
    desk.take([seen("old", 0, patient="ann"), seen("near", 10, patient="ann"), seen("after", 30, patient="ann")])
    assert desk.take(outcomes=[hba1c(on=20, patient_id="ann")]) == [Answer("joined")]
    assert labels(desk) == {"near": 1}


def test_a_prediction_at_the_very_instant_of_the_specimen_counts_as_earlier(desk: Desk) -> None:
    desk.take([seen("p", 5, patient="ann")], [hba1c(on=5, patient_id="ann")])
    assert labels(desk) == {"p": 1}


def test_a_policy_may_give_the_label_to_all_predictions_of_its_time(desk: Desk) -> None:
    made = [seen(f"p{on}", on, patient="ann", model=CONFIRMING.name) for on in (0, 5, 10, 22)]
    desk.take(made, [hba1c(5.0, on=21, patient_id="ann")])
    # p0 is older than the policy's 20 days, and p22 was made after the specimen.
    assert labels(desk) == {"p5": 0, "p10": 0}


def test_each_model_has_a_nearest_prediction_of_its_own(desk: Desk) -> None:
    desk.take([seen("p", 0, patient="ann"), seen("q", 5, patient="ann", model=CONFIRMING.name)])
    desk.take(outcomes=[hba1c(5.0, on=6, patient_id="ann")])
    assert labels(desk) == {"p": 0, "q": 0}


@pytest.mark.parametrize(("on", "status"), [(365, "joined"), (365.001, "parked")])
def test_a_prediction_that_is_too_old_is_not_proven(desk: Desk, on: float, status: str) -> None:
    desk.now = day(400)
    desk.take([seen("p", 0, patient="ann")])
    assert statuses(desk.take(outcomes=[hba1c(on=on, patient_id="ann")])) == [status]


def test_a_prediction_made_after_the_specimen_is_not_proven(desk: Desk) -> None:
    desk.take([seen("p", 2, patient="ann")])
    assert desk.take(outcomes=[hba1c(on=1, patient_id="ann")]) == [Answer("parked")]


def test_another_patients_prediction_is_not_proven(desk: Desk) -> None:
    desk.take([seen("p", patient="bob"), seen("nobody's")])
    assert desk.take(outcomes=[hba1c(patient_id="ann")]) == [Answer("parked")]


def test_a_nearer_prediction_that_comes_late_takes_the_label_over(desk: Desk) -> None:
    desk.take([seen("far", 0, patient="ann")], [hba1c(on=10, patient_id="ann")])
    desk.take([seen("near", 9, patient="ann")])
    assert labels(desk) == {"near": 1}
    assert story(desk, "far") == [(1, None, 1), (None, 1, 2)]


# --- by both


def test_an_order_counts_before_the_patient(desk: Desk) -> None:
    desk.take([seen("ordered", 0, patient="ann", order="A-1"), seen("nearer", 5, patient="ann")])
    desk.take(outcomes=[hba1c(on=6, order_id="A-1", patient_id="ann")])
    assert labels(desk) == {"ordered": 1}


def test_where_nothing_was_predicted_for_the_order_the_patient_counts(desk: Desk) -> None:
    desk.take([seen("p", patient="ann")])
    assert desk.take(outcomes=[hba1c(order_id="A-1", patient_id="ann")]) == [Answer("joined")]
    assert labels(desk) == {"p": 1}


def test_the_orders_prediction_takes_the_label_from_the_patients_when_it_comes(desk: Desk) -> None:
    desk.take([seen("p", patient="ann")], [hba1c(order_id="A-1", patient_id="ann")])
    desk.take([seen("ordered", 30, patient="ann", order="A-1")])
    assert labels(desk) == {"ordered": 1}
    assert story(desk, "p") == [(1, None, 1), (None, 1, 2)]


# --- corrections


def test_a_corrected_time_of_the_specimen_moves_the_label(desk: Desk) -> None:
    desk.take([seen("p", 0, patient="ann"), seen("q", 10, patient="ann")], [hba1c(on=12, patient_id="ann")])
    desk.take(outcomes=[hba1c(on=5, patient_id="ann", result_version=2, status="corrected")])
    assert labels(desk) == {"p": 1}
    assert story(desk, "q") == [(1, None, 1), (None, 1, 2)]


def test_a_corrected_value_changes_the_label(desk: Desk) -> None:
    desk.take([seen("p", order="A-1")], [hba1c(7.0, order_id="A-1", result_id="L-1")])
    desk.take(outcomes=[hba1c(5.0, order_id="A-1", result_id="L-1", result_version=2, status="corrected")])
    assert story(desk, "p") == [(1, None, 1), (0, 1, 2)]


def test_of_one_version_the_report_that_was_issued_last_holds(desk: Desk) -> None:
    desk.take([seen("p", order="A-1")], [hba1c(7.0, order_id="A-1", reported_at=day(3))])
    assert statuses(desk.take(outcomes=[hba1c(5.0, order_id="A-1", reported_at=day(2))])) == ["superseded"]
    desk.take(outcomes=[hba1c(5.0, order_id="A-1", reported_at=day(4))])
    assert labels(desk) == {"p": 0}


def test_a_patient_that_is_corrected_moves_the_label(desk: Desk) -> None:
    desk.take([seen("p", patient="ann"), seen("q", patient="bob")])
    desk.take(outcomes=[hba1c(order_id="A-1", patient_id="ann")])
    desk.take(outcomes=[hba1c(order_id="A-1", patient_id="bob", result_version=2, status="corrected")])
    assert labels(desk) == {"q": 1}
    assert story(desk, "p") == [(1, None, 1), (None, 1, 2)]


# --- retractions


@pytest.mark.parametrize("status", ["cancelled", "entered-in-error"])
def test_a_result_that_is_taken_back_takes_its_label_along(desk: Desk, status: str) -> None:
    desk.take([seen("p", order="A-1")], [hba1c(order_id="A-1")])
    gone = msgspec.convert({"order_id": "A-1", "result_version": 2, "status": status}, OutcomeReported)
    assert desk.take(outcomes=[gone]) == [Answer("retracted")]
    assert labels(desk) == {}
    event = desk.events()[-1]
    assert isinstance(event, LabelRetracted)
    assert (event.prediction_id, event.previous_label, event.label_revision) == ("p", 1, 2)


def test_a_label_that_was_taken_back_may_come_again_with_the_next_revision(desk: Desk) -> None:
    desk.take([seen("p", order="A-1")], [hba1c(order_id="A-1")])
    desk.take(outcomes=[OutcomeReported(order_id="A-1", result_version=2, status="cancelled")])
    desk.take(outcomes=[hba1c(5.0, order_id="A-1", result_version=3, status="corrected")])
    assert story(desk, "p") == [(1, None, 1), (None, 1, 2), (0, None, 3)]


def test_a_result_that_was_taken_back_before_its_prediction_came_labels_nothing(desk: Desk) -> None:
    desk.take(outcomes=[hba1c(order_id="A-1"), OutcomeReported(order_id="A-1", result_version=2, status="cancelled")])
    desk.take([seen("p", order="A-1")])
    assert desk.events() == []


def test_a_retraction_that_comes_before_what_it_takes_back_holds(desk: Desk) -> None:
    desk.take([seen("p", order="A-1")], [OutcomeReported(order_id="A-1", result_version=2, status="cancelled")])
    assert statuses(desk.take(outcomes=[hba1c(order_id="A-1")])) == ["superseded"]
    assert desk.events() == []


def test_a_patients_result_is_taken_back_without_the_time_of_its_specimen(desk: Desk) -> None:
    desk.take([seen("p", patient="ann")], [hba1c(patient_id="ann")])
    gone = OutcomeReported(patient_id="ann", result_version=2, status="entered-in-error")
    assert desk.take(outcomes=[gone]) == [Answer("retracted")]
    assert labels(desk) == {}


def test_another_result_goes_on_proving_what_one_that_is_taken_back_proved(desk: Desk) -> None:
    desk.take([seen("p", order="A-1")], [hba1c(order_id="A-1", result_id=one) for one in ("L-1", "L-2")])
    desk.take(outcomes=[OutcomeReported(order_id="A-1", result_id="L-2", result_version=2, status="cancelled")])
    assert story(desk, "p") == [(1, None, 1)]


# --- what does not count yet


def test_a_preliminary_result_waits(desk: Desk) -> None:
    desk.take([seen("p", order="A-1")])
    answer = desk.take(outcomes=[hba1c(order_id="A-1", status="preliminary")])
    assert answer == [Answer("waiting", "there is no label yet: this waits for a final result")]
    assert desk.events() == []


def test_a_preliminary_result_becomes_final_in_the_same_version(desk: Desk) -> None:
    desk.take([seen("p", order="A-1")], [hba1c(5.0, order_id="A-1", status="preliminary")])
    assert desk.take(outcomes=[hba1c(7.0, order_id="A-1")]) == [Answer("joined")]
    assert story(desk, "p") == [(1, None, 1)]


def test_a_policy_may_wait_for_a_second_abnormal_result(desk: Desk) -> None:
    desk.take([seen("p", order="A-1", model=CONFIRMING.name)])
    first = hba1c(on=1, order_id="A-1", result_id="L-1")
    waits = "there is no label yet: this waits for a second abnormal result within 12 days"
    assert desk.take(outcomes=[first]) == [Answer("waiting", waits)]
    assert desk.take(outcomes=[hba1c(on=13, order_id="A-1", result_id="L-2")]) == [Answer("joined")]
    assert story(desk, "p") == [(1, None, 1)]


def test_a_second_abnormal_result_that_is_too_late_confirms_nothing(desk: Desk) -> None:
    desk.take([seen("p", order="A-1", model=CONFIRMING.name)])
    for on, name in ((1, "L-1"), (13.01, "L-2")):
        answers = desk.take(outcomes=[hba1c(on=on, order_id="A-1", result_id=name)])
        assert statuses(answers) == ["waiting"]


def test_a_normal_result_after_an_abnormal_one_is_a_label(desk: Desk) -> None:
    desk.take([seen("p", order="A-1", model=CONFIRMING.name)])
    desk.take(outcomes=[hba1c(7.0, on=1, order_id="A-1", result_id="L-1")])
    desk.take(outcomes=[hba1c(5.0, on=2, order_id="A-1", result_id="L-2")])
    assert labels(desk) == {"p": 0}


def test_a_label_that_must_be_confirmed_anew_is_taken_back(desk: Desk) -> None:
    desk.take([seen("p", order="A-1", model=CONFIRMING.name)], [hba1c(5.0, on=1, order_id="A-1", result_id="L-1")])
    desk.take(outcomes=[hba1c(7.0, on=2, order_id="A-1", result_id="L-2")])
    desk.take(outcomes=[hba1c(7.0, on=3, order_id="A-1", result_id="L-3")])
    assert story(desk, "p") == [(0, None, 1), (None, 0, 2), (1, None, 3)]


@pytest.mark.parametrize("arrival", list(itertools.permutations(range(3))))
def test_results_confirm_each_other_in_whatever_order_they_arrive(desk: Desk, arrival: Sequence[int]) -> None:
    results = [hba1c(7.0, 1, order_id="A-1", result_id="a"), hba1c(7.0, 20, order_id="A-1", result_id="b"),
               hba1c(5.0, 10, order_id="A-1", result_id="c")]  # fmt: skip
    desk.take([seen("p", order="A-1", model=CONFIRMING.name)])
    for place in arrival:
        desk.take(outcomes=[results[place]])
    # Abnormal twice, but not near enough; the latest is abnormal and still waits.
    assert labels(desk) == {}


def test_one_specimen_does_not_confirm_itself_however_often_it_is_reported(desk: Desk) -> None:
    desk.take([seen("p", order="A-1", model=CONFIRMING.name)])
    desk.take(outcomes=[hba1c(7.0, 1, order_id="A-1", result_id=name) for name in ("by-fhir", "by-hl7")])
    assert labels(desk) == {}
    desk.take(outcomes=[glucose(150, "mg/dL", 1, order_id="A-1", result_id="another test of it")])
    assert labels(desk) == {"p": 1}


def test_an_order_of_another_patient_is_not_this_one(desk: Desk) -> None:
    desk.take([seen("p", order="A-1", patient="ann")])
    assert desk.take(outcomes=[hba1c(order_id="A-1", patient_id="bob")]) == [Answer("parked")]
    assert desk.take(outcomes=[hba1c(order_id="A-1", patient_id="ann", result_id="hers")])[0].status == "joined"


def test_an_order_number_that_comes_again_is_not_the_old_one(desk: Desk) -> None:
    desk.take([seen("old", order="A-1")])
    assert desk.take(outcomes=[hba1c(on=700, order_id="A-1")]) == [Answer("parked")]


def test_a_withdrawal_that_says_no_time_is_the_last_of_its_version(desk: Desk) -> None:
    desk.take([seen("p", order="A-1")], [hba1c(order_id="A-1", reported_at=day(2))])
    withdrawn = OutcomeReported(order_id="A-1", status="entered-in-error")
    assert [one.status for one in desk.take(outcomes=[withdrawn])] == ["retracted"]
    assert labels(desk) == {}


def test_a_withdrawal_that_names_another_prediction_leaves_nothing_at_the_one_before(desk: Desk) -> None:
    named: dict[str, Any] = {"source": "north", "result_id": "L"}
    desk.take([seen("p", order="A-1")], [hba1c(order_id="A-1", **named)])
    withdrawn = OutcomeReported(prediction_id="q", status="entered-in-error", **named)
    assert desk.take(outcomes=[withdrawn]) == [Answer("parked")]
    with desk.pool.connection() as connection:
        assert connection.execute("SELECT * FROM matches").fetchall() == []


def test_a_label_of_another_model_says_so_and_does_not_count(desk: Desk) -> None:
    desk.take([seen("p")])
    (answer,) = desk.take(outcomes=[OutcomeReported(prediction_id="p", label=1, model_name=CONFIRMING.name)])
    assert (answer.status, "the prediction is of diabetes" in (answer.detail or "")) == ("waiting", True)
    assert labels(desk) == {}


# --- what is measured


@pytest.mark.parametrize(
    ("result", "label"),
    [
        (hba1c(6.5, order_id="A-1"), 1), (hba1c(6.4, order_id="A-1"), 0),
        (hba1c(48, unit="mmol/mol", order_id="A-1"), 1), (hba1c(47, unit="mmol/mol", order_id="A-1"), 0),
        (hba1c(14, comparator=">", order_id="A-1"), 1), (hba1c(4, comparator="<", order_id="A-1"), 0),
        (glucose(126, "mg/dL", order_id="A-1"), 1), (glucose(125.9, "mg/dL", order_id="A-1"), 0),
        (glucose(7.0, "mmol/L", order_id="A-1"), 1), (glucose(6.9, "mmol/L", order_id="A-1"), 0),
        (glucose(1.26, "g/L", order_id="A-1"), 1),
    ],
)  # fmt: skip
def test_a_measurement_is_judged_in_its_own_unit_system(desk: Desk, result: OutcomeReported, label: int) -> None:
    desk.take([seen("p", order="A-1")], [result])
    assert labels(desk) == {"p": label}


def test_a_label_says_which_policy_made_it_and_a_stated_one_says_none(desk: Desk) -> None:
    made = [seen("p", order="A-1"), seen("q", order="A-2", model=CONFIRMING.name), seen("r", order="A-3")]
    stated = OutcomeReported(order_id="A-3", label=1, model_name=DIABETES.name)
    desk.take(made, [hba1c(order_id="A-1"), hba1c(5.0, order_id="A-2"), stated])
    assert {one.prediction_id: one.policy_version for one in desk.published()} == {"p": 1, "q": 7, "r": None}


def test_what_a_laboratory_states_goes_before_what_it_measured(desk: Desk) -> None:
    stated = OutcomeReported(prediction_id="p", label=0)
    desk.take([seen("p")], [hba1c(9.0, on=5, prediction_id="p", result_id="L-1"), stated])
    assert labels(desk) == {"p": 0}


# --- conflicts


def test_a_version_with_two_contents_is_a_conflict_and_the_answer_says_what_holds(desk: Desk) -> None:
    desk.take([seen("p", order="A-1")], [hba1c(5.0, order_id="A-1")])
    (answer,) = desk.take(outcomes=[hba1c(7.0, order_id="A-1")])
    assert answer == Answer("conflict", "version 1 was reported with two contents: label 1 holds until a newer one")
    assert desk.summary(DIABETES.name)["conflicts"] == 1


def test_a_newer_version_settles_a_conflict(desk: Desk) -> None:
    desk.take([seen("p", order="A-1")], [hba1c(5.0, order_id="A-1"), hba1c(7.0, order_id="A-1")])
    assert desk.take(outcomes=[hba1c(5.0, order_id="A-1", result_version=2)]) == [Answer("joined")]
    assert desk.summary(DIABETES.name)["conflicts"] == 0


# --- the same again


@pytest.mark.parametrize(
    ("prediction", "names"),
    [
        (seen("p"), {"prediction_id": "p"}), (seen("p", order="A-1"), {"order_id": "A-1"}),
        (seen("p", patient="ann"), {"patient_id": "ann"}),
        (seen("p", patient="ann"), {"order_id": "A-1", "patient_id": "ann"}),
    ],
)  # fmt: skip
def test_the_same_result_again_is_a_duplicate_by_whatever_it_is_named(
    desk: Desk, prediction: PredictionMade, names: dict[str, Any]
) -> None:
    desk.take([prediction], [hba1c(**names)])
    assert desk.take(outcomes=[hba1c(**names)]) == [Answer("duplicate")]
    assert story(desk, "p") == [(1, None, 1)]


def test_a_retracted_label_has_no_features_in_its_event(desk: Desk) -> None:
    desk.take([seen("p", patient="ann")], [OutcomeReported(prediction_id="p", label=1)])
    desk.take(outcomes=[OutcomeReported(prediction_id="p", result_version=2, status="cancelled")])
    event = desk.events()[-1]
    assert msgspec.structs.asdict(event) == {
        "prediction_id": "p", "model_name": DIABETES.name, "model_version": 1, "predicted_at": START, "score": 0.25,
        "prediction": False, "variant": "champion", "previous_label": 1, "label_revision": 2, "retracted_at": desk.now,
        "subject": seen("p", patient="ann").subject,
    }  # fmt: skip
