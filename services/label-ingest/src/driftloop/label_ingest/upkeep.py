"""Upkeep: months are ready before their first prediction, old ones go, and what waits too long is set aside."""

import logging
import threading
from datetime import UTC, date, datetime, timedelta

import psycopg

from driftloop.common import metrics
from driftloop.common.clock import Clock
from driftloop.common.postgres.pool import Pool, repeat
from driftloop.label_ingest.keeping import Keeper, Place

logger = logging.getLogger(__name__)

BATCH = 2_000
# Months that are kept ready: the one before, this one, and those after.
BEFORE, AFTER = 1, 2
_FIRST: Place = ("", datetime(1, 1, 1, tzinfo=UTC), "")
_EVER = datetime(1, 1, 1, tzinfo=UTC)


class Upkeep:
    """Looks after what is stored. Several replicas may do it at once.

    `retention` is how long predictions are kept at least, and all that was joined to them: whole months go. `parked` is
    how long a result waits for its prediction; once it has expired it is kept for `retention`, too.
    """

    name = "upkeep"

    def __init__(
        self, *, pool: Pool, retention: timedelta, parked: timedelta, clock: Clock, every_seconds: float = 60.0
    ) -> None:
        self._pool = pool
        self._retention = retention
        self._parked = parked
        self._clock = clock
        self._every = every_seconds

    def run(self, stop: threading.Event) -> None:
        """Do it every now and then until told to stop; a database that is away is waited for."""
        repeat(self.round, stop, self._every, self.name)

    def round(self, stop: threading.Event) -> None:
        """All of it once."""
        now = self._clock()
        for month in _around(now):
            self._have_ready(month)
        self._expire(now, stop)
        self._forget_empty(stop)
        self._forget(now - self._retention, stop)
        with self._pool.connection() as connection:
            waiting, oldest = Keeper(connection).parked()
        metrics.PARKED_OUTCOMES.set(waiting)
        metrics.OLDEST_PARKED_OUTCOME.set(0 if oldest is None else max(0.0, (now - oldest).total_seconds()))

    def _have_ready(self, month: date) -> None:
        try:
            with self._pool.connection() as connection:
                if Keeper(connection).keep_month(month):
                    logger.info("a month is ready", extra={"month": month.isoformat()[:7]})
        except psycopg.errors.LockNotAvailable:
            # Somebody reads. What comes meanwhile is kept with what lies in no month, and moved later.
            logger.info("a month waits until nobody reads", extra={"month": month.isoformat()[:7]})

    def _expire(self, now: datetime, stop: threading.Event) -> None:
        moved = BATCH
        while moved == BATCH and not stop.is_set():
            with self._pool.connection() as connection:
                moved = Keeper(connection).expire(now - self._parked, now, BATCH)
            metrics.EXPIRED_OUTCOMES.inc(moved)
            if moved:
                logger.warning("outcomes waited too long for their prediction", extra={"outcomes": moved})

    def _forget_empty(self, stop: threading.Event) -> None:
        """Rows that were made for a result which turned out to name another prediction."""
        after = ""
        while not stop.is_set():
            with self._pool.connection() as connection:
                looked_at = Keeper(connection).forget_empty(after, BATCH)
            if len(looked_at) < BATCH:
                return
            after = looked_at[-1]

    def _forget(self, before: datetime, stop: threading.Event) -> None:
        """Drop the months that ended before then, after all that was joined to their predictions."""
        with self._pool.connection() as connection:
            months = Keeper(connection).months()
        for month in months:
            if _after(month) <= before and self._forget_joins(_start(month), _after(month), stop, predictions=False):
                self._drop(month)
        with self._pool.connection() as connection:
            Keeper(connection).forget_expired(before)
        # What lies in no month of its own.
        self._forget_joins(_EVER, _start(before.astimezone(UTC).date().replace(day=1)), stop, predictions=True)

    def _drop(self, month: date) -> None:
        try:
            with self._pool.connection() as connection:
                Keeper(connection).drop_month(month)
        except psycopg.errors.LockNotAvailable:
            logger.info("a month stays until nobody reads", extra={"month": month.isoformat()[:7]})
        else:
            logger.info("a month was dropped", extra={"month": month.isoformat()[:7]})

    def _forget_joins(self, since: datetime, until: datetime, stop: threading.Event, *, predictions: bool) -> bool:
        """Whether all of them are gone."""
        after = _FIRST
        while not stop.is_set():
            with self._pool.connection() as connection:
                keeper = Keeper(connection)
                places = keeper.old_predictions(since, until, after, BATCH)
                if not places:
                    return True
                keeper.forget(places, predictions=predictions)
            after = places[-1]
        return False


def _around(now: datetime) -> list[date]:
    """The months to keep ready."""
    first = now.astimezone(UTC).date().replace(day=1)
    months = first.year * 12 + first.month - 1
    return [date(one // 12, one % 12 + 1, 1) for one in range(months - BEFORE, months + AFTER + 1)]


def _start(month: date) -> datetime:
    return datetime(month.year, month.month, 1, tzinfo=UTC)


def _after(month: date) -> datetime:
    """The end of a month."""
    return _start((month.replace(day=28) + timedelta(days=4)).replace(day=1))
