"""How many rows a second does one worker answer in batches of 1,000, each row logged durably?"""

import itertools
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Figure, conditions, record, say
from benchmarks.support import wrk
from benchmarks.support.peers import ask
from benchmarks.support.predictors import Serving, complete_rows, installed, serving
from driftloop.common.rows import Row

ROWS, BODIES = 1_000, 20
# As many batches at once as the shipped limit of inferences in flight lets in, less one for what is just answered.
CONNECTIONS, SECONDS, ROUNDS = 4, 8, 5
RATE = 40_000
PATH = "/v1/predict/batch"


def main() -> None:
    """Rounds of batches, the first of which does not count; then the log is counted."""
    with installed() as installation, tempfile.TemporaryDirectory() as name:
        bodies = _write(Path(name) / "bodies", complete_rows())
        with serving(installation, installation.predictors[0]) as predictor:
            before, answered = predictor.logged(), _check(predictor, bodies)
            loads = []
            for _ in range(1 + ROUNDS):
                one = wrk.load(predictor.url + PATH, bodies, CONNECTIONS, SECONDS, predictor.headers)
                say(f"{ROWS * one.rate:,.0f} rows/s, p50 {one.p50:.0f} ms, p99 {one.p99:.0f} ms a batch")
                loads.append(one)
            answered += ROWS * sum(one.requests for one in loads)
            _check_logged(predictor, answered, before)
            spooled = predictor.metric("driftloop_inferences_spooled_total")
    found = wrk.median(loads[1:])
    record(
        Figure(
            figure=f"rows/s in batches of {ROWS:,}, each row logged durably, one worker",
            ours=ROWS * found.rate,
            target=f">= {RATE:,}",
            met=ROWS * found.rate >= RATE,
            conditions=conditions(
                "onnxruntime",
                "confluent-kafka",
                wrk=f"{wrk.version()}, {wrk.arguments(CONNECTIONS, SECONDS)}",
                rounds=f"{ROUNDS} after a warm-up round; medians",
                bodies=f"{BODIES} distinct batches, in turn",
                trees=100,
                p50_ms=found.p50,
                p99_ms=found.p99,
                spooled=spooled,
                shares="all cores are shared: wrk, the broker and the worker",
                log="acks=all, one broker, replication 1",
                access="an API key",
            ),
        )
    )


def _write(path: Path, rows: Sequence[Row]) -> Path:
    """Batches of rows of the baseline, one a line, each from where the one before it ended."""
    endless = itertools.cycle(rows)
    batches = ({"rows": list(itertools.islice(endless, ROWS))} for _ in range(BODIES))
    path.write_text("".join(json.dumps(batch) + "\n" for batch in batches))
    return path


def _check(predictor: Serving, bodies: Path) -> int:
    """Ask each batch once; gives the number of rows. Raises LoadFailed where one was not predicted."""
    lines = bodies.read_bytes().splitlines()
    for line in lines:
        results = ask(predictor.url + PATH, line, **predictor.headers)["results"]
        well = sum("prediction_id" in result for result in results)
        if well != ROWS:
            raise wrk.LoadFailed(f"{well} of {ROWS} rows of a batch were predicted")
    return ROWS * len(lines)


def _check_logged(predictor: Serving, answered: int, before: int) -> None:
    """Every row that was answered is in the log. Raises LoadFailed."""
    logged, rejected = predictor.logged() - before, predictor.metric("driftloop_inferences_rejected_total")
    say(f"{answered:,} rows answered, {logged:,} in the log, {rejected:,.0f} rejected")
    # A batch is answered 200 also where some of its rows are refused.
    if rejected or logged < answered:
        raise wrk.LoadFailed(f"{answered - logged} of {answered} rows are not in the log; {rejected:g} were rejected")


if __name__ == "__main__":
    main()
