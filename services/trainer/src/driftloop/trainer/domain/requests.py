"""The life of a retraining request: its states, which may follow which, and when the next training may begin."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from cronsim import CronSim

from driftloop.common.contract import Retraining

State = Literal[
    "awaiting-labels", "training", "evaluated", "canary", "promoted", "rejected", "rolled-back", "withdrawn"
]
Cause = Literal["drift", "schedule", "manual", "follow-up"]
# What a drift alarm asks for, at once or after an attempt that came to nothing.
BY_DRIFT: tuple[Cause, ...] = ("drift", "follow-up")

# What a request may have been before it becomes this. A training that ended badly waits anew, or is rejected.
BEFORE: Mapping[State, tuple[State, ...]] = {
    "awaiting-labels": ("training",),
    "training": ("awaiting-labels",),
    "evaluated": ("training",),
    "canary": ("evaluated",),
    "promoted": ("evaluated", "canary"),
    "rejected": ("awaiting-labels", "training", "evaluated"),
    "rolled-back": ("canary",),
    "withdrawn": ("awaiting-labels", "training", "evaluated", "canary"),
}
ENDED: frozenset[State] = frozenset({"promoted", "rejected", "rolled-back", "withdrawn"})

# A training that was killed, ran out of memory or of time is tried once more.
TRIES = 2
DAY = timedelta(days=1)
# Clocks of trainers and predictors differ, and are set back, by less.
CLOCK_ERROR = timedelta(minutes=5)


def next_training(
    retraining: Retraining, last_ended: datetime | None, begun: Sequence[datetime], now: datetime
) -> tuple[datetime, str]:
    """When the next training of a model may begin, and what it waits for until then ("" for nothing).

    `last_ended` is when the model's last request that had been trained ended, `begun` when its trainings of the last
    day began. So a storm of alarms trains no more than a quiet day does. A training that a clock that went wrong has
    noted more than CLOCK_ERROR ahead of `now` does not count.
    """
    earliest, reason = now, ""
    if last_ended is not None:
        rested = last_ended + timedelta(seconds=retraining.cooldown_seconds)
        if rested > earliest:
            earliest, reason = rested, f"the cool-down of {retraining.cooldown_seconds:g} s after the last retraining"
    today = sorted(time for time in begun if now - DAY < time <= now + CLOCK_ERROR)
    if len(today) >= retraining.daily_limit:
        free = today[-retraining.daily_limit] + DAY
        if free > earliest:
            earliest, reason = free, f"the daily limit of {retraining.daily_limit} trainings"
    return earliest, reason


def waiting_for(lacking: Mapping[str, int], judges_after: datetime | None) -> str:
    """What a request waits for in words: how many more of what, and from when on where older rows have judged."""
    told = [f"{rows} more {name.replace('_', ' ')}" for name, rows in lacking.items() if rows]
    text = "waiting for " + " and ".join(told) + " of the new population"
    if judges_after is None:
        return text
    return f"{text}: only rows predicted after {judges_after:%Y-%m-%d %H:%M:%S} UTC judge, older ones have done so"


def next_run(schedule: str, after: datetime) -> datetime:
    """When a cron expression (five fields, UTC) is due next after an instant."""
    return next(CronSim(schedule, after.astimezone(UTC)))
