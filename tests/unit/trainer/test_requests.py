"""When the next training may begin, and when a schedule is due."""

from datetime import UTC, datetime, timedelta

import pytest

from driftloop.common.contract import Retraining
from driftloop.trainer.domain.requests import BEFORE, ENDED, next_run, next_training, waiting_for

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_the_first_training_may_begin_at_once() -> None:
    assert next_training(Retraining(), None, [], NOW) == (NOW, "")


def test_after_a_retraining_there_is_a_cool_down() -> None:
    earliest, reason = next_training(Retraining(cooldown_seconds=7200), NOW - HOUR, [], NOW)
    assert earliest == NOW + HOUR
    assert reason == "the cool-down of 7200 s after the last retraining"


def test_a_cool_down_that_is_over_is_not_waited_for() -> None:
    assert next_training(Retraining(cooldown_seconds=3600), NOW - HOUR, [], NOW) == (NOW, "")


def test_a_full_day_is_waited_for_until_its_oldest_training_is_a_day_old() -> None:
    begun = [NOW - 3 * HOUR, NOW - 20 * HOUR, NOW - 10 * HOUR, NOW - 30 * HOUR]
    earliest, reason = next_training(Retraining(daily_limit=3), None, begun, NOW)
    assert earliest == NOW + 4 * HOUR
    assert reason == "the daily limit of 3 trainings"


def test_of_more_trainings_than_the_limit_allows_all_but_so_many_are_waited_for() -> None:
    begun = [NOW - hours * HOUR for hours in (1, 2, 3, 4)]
    assert next_training(Retraining(daily_limit=2), None, begun, NOW)[0] == NOW + 22 * HOUR


def test_the_later_of_both_holds() -> None:
    earliest, reason = next_training(Retraining(cooldown_seconds=86_400, daily_limit=1), NOW, [NOW - HOUR], NOW)
    assert (earliest, reason.partition(" of")[0]) == (NOW + 24 * HOUR, "the cool-down")


def test_a_request_says_how_much_of_what_it_waits_for() -> None:
    assert waiting_for({"labels": 3, "reference_rows": 0}, None) == "waiting for 3 more labels of the new population"
    assert waiting_for({"labels": 3, "reference_rows": 2}, NOW) == (
        "waiting for 3 more labels and 2 more reference rows of the new population: "
        "only rows predicted after 2026-03-01 12:00:00 UTC judge, older ones have done so"
    )


def test_what_a_clock_noted_that_had_jumped_a_year_ahead_is_not_waited_for() -> None:
    jumped = NOW + 365 * 24 * HOUR
    assert next_training(Retraining(daily_limit=1), None, [jumped], NOW) == (NOW, "")


def test_a_clock_that_was_set_back_a_little_shortens_no_wait() -> None:
    soon = NOW + timedelta(seconds=1)
    assert next_training(Retraining(cooldown_seconds=60), soon, [], NOW)[0] == soon + timedelta(seconds=60)
    assert next_training(Retraining(daily_limit=1), None, [soon], NOW)[0] == soon + 24 * HOUR


@pytest.mark.parametrize(
    ("schedule", "due"),
    [
        ("0 3 * * *", datetime(2026, 3, 2, 3, tzinfo=UTC)),
        ("0 12 * * *", datetime(2026, 3, 2, 12, tzinfo=UTC)),
        ("*/15 * * * *", datetime(2026, 3, 1, 12, 15, tzinfo=UTC)),
        ("0 0 29 2 *", datetime(2028, 2, 29, tzinfo=UTC)),
    ],
)
def test_a_schedule_is_due_at_its_next_instant_in_utc(schedule: str, due: datetime) -> None:
    assert next_run(schedule, NOW) == due


def test_nothing_follows_an_end() -> None:
    assert not ENDED & {before for befores in BEFORE.values() for before in befores}
