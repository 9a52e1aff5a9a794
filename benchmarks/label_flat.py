"""What an outcome costs with ten thousand, a million and five million predictions outstanding: is it the same?

Outcomes go in as the HTTP door hands them in: `Intake.take`, 500 in a transaction, in this process, so that the cost is
that of the join and its database and of no broker. They name predictions chosen uniformly at random, each once: the
worst case for caches, for laboratories answer what is a few weeks old. All three installations live in one database
server, whose shared buffers are smaller than the indexes of the largest, and are measured in turns, so that a busy
moment strikes all. Each turn begins without labels, and with outcomes that are not measured.
"""

import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import psycopg
from psycopg import Connection, conninfo

from benchmarks.harness import Figure, Value, conditions, record, say
from benchmarks.support.service import CONTRACT
from driftloop import devstack
from driftloop.common.clock import utc_now
from driftloop.common.contract import load_contract
from driftloop.common.events import OutcomeReported
from driftloop.common.postgres import migrations
from driftloop.common.postgres.pool import open_pool
from driftloop.common.settings import Secret
from driftloop.common.topics import Namespace
from driftloop.label_ingest.domain.outcomes import Terms
from driftloop.label_ingest.intake import Intake

SERVICE = "label_ingest"
SIZES = (10_000, 1_000_000, 5_000_000)
DAYS = 90
OUTCOMES, WARM_UP, BATCH, ROUNDS = 8_000, 2_000, 500, 15
RATIO = 1.3

# The nth prediction of so many that spread over the days, and its id: of the predictor's form, a UUID of version 7, but
# its random digits can be told again from n.
_NUMBERED = """
SELECT n, at, lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8'
    || substr(md5(n::text), 4, 15) AS id
FROM (SELECT n, %(first)s::timestamptz + n * %(every)s::interval AS at FROM {numbers} AS n) AS timed
"""
_LOAD = (
    """
    INSERT INTO joins (prediction_id, model_name, model_version, predicted_at)
    SELECT id, %(model)s, 1, at FROM ({made}) AS made
    """,
    """
    INSERT INTO predictions (prediction_id, model_name, model_version, predicted_at, score, prediction, variant,
        features)
    SELECT id, %(model)s, 1, at, n %% 997 / 997.0, n %% 997 > 498, 'champion', jsonb_build_object(
        'Pregnancies', n %% 15, 'Glucose', 60 + n %% 140 + 0.5, 'BloodPressure', 50 + n %% 60 + 0.1,
        'BMI', 18 + n %% 30 + 0.3, 'Age', 21 + n %% 60)
    FROM ({made}) AS made
    """,
)


class Cost(NamedTuple):
    """Of one outcome: all seconds, those of them that this process was busy, and the bytes of the database's log."""

    seconds: float
    busy: float
    log_bytes: float


@dataclass(frozen=True)
class Outstanding:
    """An installation's join with so many predictions that have no outcome."""

    size: int
    intake: Intake
    database: Connection
    first: datetime

    @property
    def numbering(self) -> dict[str, object]:
        """What makes the same predictions of the same numbers."""
        return {"first": self.first, "every": timedelta(days=DAYS) / self.size}

    def load(self, model: str) -> None:
        """Make the predictions, and leave the database as it is an hour later."""
        month = self.first.date().replace(day=1)
        while month <= datetime.now(UTC).date():
            self.database.execute("SELECT keep_month(%s)", [month])
            month = date(month.year + month.month // 12, month.month % 12 + 1, 1)
        made = _NUMBERED.format(numbers="generate_series(0, %(size)s - 1)")
        for statement in _LOAD:
            arguments = self.numbering | {"size": self.size, "model": model}
            self.database.execute(statement.format(made=made).encode(), arguments)
        for statement in ("VACUUM (ANALYZE) joins, predictions", "CHECKPOINT"):
            self.database.execute(statement.encode())

    def cost(self) -> Cost:
        """What an outcome costs, from no labels on."""
        self.database.execute("TRUNCATE results, labels, outbox")
        outcomes = self._outcomes(WARM_UP + OUTCOMES)
        self._take(outcomes[:WARM_UP])
        log, start, busy = self._log_position(), time.perf_counter(), time.process_time()
        self._take(outcomes[WARM_UP:])
        took, worked = time.perf_counter() - start, time.process_time() - busy
        return Cost(took / OUTCOMES, worked / OUTCOMES, (self._log_position() - log) / OUTCOMES)

    def _outcomes(self, count: int) -> list[OutcomeReported]:
        numbers = random.sample(range(self.size), count)
        asked = self.numbering | {"numbers": numbers}
        rows = self.database.execute(_NUMBERED.format(numbers="unnest(%(numbers)s::int[])").encode(), asked).fetchall()
        now = utc_now()
        return [
            OutcomeReported(prediction_id=id_, label=n % 2, result_id=f"R-{n}", observed_at=now) for n, _at, id_ in rows
        ]

    def _take(self, outcomes: Sequence[OutcomeReported]) -> None:
        for start in range(0, len(outcomes), BATCH):
            answers = self.intake.take(outcomes[start : start + BATCH])
            if any(one.status != "joined" for one in answers):
                raise RuntimeError(f"outcomes were answered {sorted({one.status for one in answers})}")

    def _log_position(self) -> int:
        row = self.database.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
        return int(row[0]) if row else 0

    def megabytes(self) -> tuple[float, float]:
        """The tables of predictions and their join rows on disk, and their indexes."""
        row = self.database.execute(
            "SELECT sum(pg_table_size(c.oid)) / 2^20, sum(pg_indexes_size(c.oid)) / 2^20 FROM pg_class AS c "
            "WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' "
            "AND (c.relname = 'joins' OR c.relname LIKE 'predictions_%')"
        ).fetchone()
        assert row is not None
        return float(row[0]), float(row[1])


def main() -> None:
    """Load the three sizes; measure them in turns."""
    sizes = tuple(map(int, sys.argv[1:])) or SIZES
    with _server() as url, _all_outstanding(url, sizes) as installations:
        for one in installations:
            say(f"{one.size:,} predictions are made")
            one.load(load_contract(CONTRACT).name)
        rounds = [_turn(installations) for _ in range(ROUNDS)]
        found: dict[str, Value] = {}
        for one, costs in zip(installations, zip(*rounds, strict=True), strict=True):
            found |= _described(one, costs)
        buffers = installations[0].database.execute("SHOW shared_buffers").fetchone()
    medians = [statistics.median(cost.seconds for cost in costs) for costs in zip(*rounds, strict=True)]
    record(
        Figure(
            figure=f"cost of an outcome, {sizes[-1]:,} predictions outstanding against {sizes[0]:,}",
            ours=medians[-1] / medians[0],
            target=f"<= {RATIO:g}",
            met=medians[-1] / medians[0] <= RATIO,
            conditions=conditions(
                "msgspec", "psycopg",
                outcomes=OUTCOMES, warm_up=WARM_UP, batch=BATCH, rounds=ROUNDS, days=DAYS,
                shared_buffers=str(buffers[0]) if buffers else "",
                statistic="median of s an outcome of Intake.take in process; fsync on",
            ) | found,
        )
    )  # fmt: skip


def _turn(installations: Sequence[Outstanding]) -> list[Cost]:
    costs = [one.cost() for one in installations]
    for one, cost in zip(installations, costs, strict=True):
        say(
            f"{one.size:>9,}: {1e6 * cost.seconds:.0f} µs an outcome, {1e6 * cost.busy:.0f} of them here, "
            f"{cost.log_bytes:,.0f} bytes of write-ahead log"
        )
    return costs


def _described(one: Outstanding, costs: Sequence[Cost]) -> dict[str, Value]:
    tables, indexes = one.megabytes()
    return {
        f"{one.size}_us": 1e6 * statistics.median(cost.seconds for cost in costs),
        f"{one.size}_us_client": 1e6 * statistics.median(cost.busy for cost in costs),
        f"{one.size}_wal_bytes": statistics.median(cost.log_bytes for cost in costs),
        f"{one.size}_tables_mb": tables,
        f"{one.size}_indexes_mb": indexes,
    }


@contextmanager
def _server() -> Iterator[str]:
    """A database server's URL; its data go with the block."""
    with tempfile.TemporaryDirectory(prefix="driftloop-bench-") as name:
        folder = Path(name)
        # PostgreSQL, which does not run as root, must be able to get there.
        folder.chmod(0o755)
        try:
            yield devstack.start(folder / "stack").database_url
        finally:
            devstack.stop(folder / "stack", purge=True)


@contextmanager
def _all_outstanding(url: str, sizes: Sequence[int]) -> Iterator[list[Outstanding]]:
    """An installation for each size, still without predictions."""
    contract = load_contract(CONTRACT)
    terms = Terms({contract.name: contract.labels})
    first = datetime.now(UTC) - timedelta(days=DAYS)
    pools, made = [], []
    for size in sizes:
        namespace, password = Namespace(f"b{size}"), Secret(secrets.token_urlsafe(16))
        migrations.migrate(url, namespace, dict.fromkeys(migrations.services(), password))
        schema = namespace.schema(SERVICE)
        own = conninfo.make_conninfo(url, user=namespace.role(SERVICE), password=password.value)
        pools.append(open_pool(own, schema, "bench"))
        database = psycopg.connect(url, autocommit=True, options=f"-c search_path={schema} -c timezone=UTC")
        made.append(Outstanding(size, Intake(pools[-1], terms, utc_now, lambda: None), database, first))
    try:
        yield made
    finally:
        for pool in pools:
            pool.close()


if __name__ == "__main__":
    main()
