"""How many single rows a second does a predictor serve that logs each durably, beside servers that log nothing?

One process each, the same forest, the same rows, the same load. All run for the whole time; one is asked at a time.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness import Figure, Value, conditions, record, say
from benchmarks.support import peers, wrk
from benchmarks.support.predictors import Serving, complete_rows, installed, serving
from benchmarks.support.sides import Load, Side, beside
from driftloop.common.rows import Row

LOAD = Load(connections=16, seconds=8, rounds=5)
# How the quicker of two is found.
TRIAL = Load(connections=16, seconds=4, rounds=1)
UNLOGGED = "benchmarks.support.unlogged"
# How much of the log is left out, and what a figure calls that.
WITHOUT = {"unsent": "the same with records made but not sent", "none": "the same without any log"}
TIMES, SHARE_OF_P99, COST, SHARE_OF_BARE = 20.0, 0.1, 35.0, 0.45
# What the shipped contract decides at: MLServer answers with probabilities only.
THRESHOLD = 0.5
COUNTERS = ("sent", "spooled", "rejected")

Sizes = dict[str, Value]


def main() -> None:
    """Ours beside each peer, beside a bare route, and beside itself without a log."""
    rows = complete_rows()
    with installed(1 + len(WITHOUT)) as installation, tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        plain = write(folder / "plain", rows, dict)
        ours, *others = installation.predictors
        predictor = stack.enter_context(serving(installation, ours))
        side, before = _ours("ours", predictor, plain), predictor.logged()
        without = [
            _ours(said, stack.enter_context(serving(installation, other, UNLOGGED, BENCH_LOG=log)), plain)
            for other, (log, said) in zip(others, WITHOUT.items(), strict=True)
        ]
        pickle = peers.pickled_forest(folder / "forest.joblib")
        mlserver = stack.enter_context(_mlserver(pickle, write(folder / "tensors", rows, _tensors), folder))
        sklearn = stack.enter_context(_sklearn(pickle, plain, folder))
        bare = stack.enter_context(_bare(plain, folder))
        _check_same(side, [mlserver, sklearn, *without])
        sizes = _sizes(rows)
        _versus(side, mlserver, sizes | peers.versions("mlserver", "mlserver", "mlserver-sklearn", "uvicorn"))
        fastapi = peers.versions("fastapi", "fastapi", "uvicorn", "uvloop", "httptools", "scikit-learn")
        _versus(side, sklearn, sizes | fastapi)
        _versus_bare(side, bare, sizes | fastapi)
        for other in without:
            _cost(side, other, sizes)
        _check_logged(predictor, sum(side.answered), before)


def write(path: Path, rows: Sequence[Row], body: Callable[[Row], Any]) -> Path:
    """Write a request's body for each row, one a line."""
    path.write_text("".join(json.dumps(body(row)) + "\n" for row in rows))
    return path


# --- the sides


def _ours(name: str, predictor: Serving, plain: Path) -> Side:
    return Side(name, f"{predictor.url}/predict", plain, _diabetic, predictor.headers)


@contextmanager
def _mlserver(pickle: Path, tensors: Path, folder: Path) -> Iterator[Side]:
    with peers.mlserver(pickle, folder, _first(tensors)) as url:
        yield Side("MLServer", url, tensors, _probable)


@contextmanager
def _sklearn(pickle: Path, plain: Path, folder: Path) -> Iterator[Side]:
    """The quicker of FastAPI's two ways."""
    rates = {}
    for kind in ("async", "thread"):
        with peers.fastapi("sklearn_api", folder, _first(plain), str(pickle), kind) as url:
            rates[kind] = Side(kind, url, plain, _diabetic).measure(TRIAL).rate
    kind = max(rates, key=rates.__getitem__)
    say(f"FastAPI + scikit-learn: {rates}, so that {kind} it is")
    with peers.fastapi("sklearn_api", folder, _first(plain), str(pickle), kind) as url:
        yield Side(f"FastAPI + scikit-learn ({kind})", url, plain, _diabetic)


@contextmanager
def _bare(plain: Path, folder: Path) -> Iterator[Side]:
    with peers.fastapi("constant_api", folder, _first(plain)) as url:
        yield Side("bare FastAPI", url, plain, _diabetic)


def _first(bodies: Path) -> bytes:
    return bodies.read_bytes().splitlines()[0]


def _tensors(row: Row) -> Any:
    values = [float(value) for value in row.values() if value is not None]
    tensor = {"name": "features", "shape": [1, len(values)], "datatype": "FP32", "data": values}
    return {"inputs": [tensor], "outputs": [{"name": "predict_proba"}]}


def _diabetic(answer: Any) -> bool:
    return bool(answer["diabetic"])


def _probable(answer: Any) -> bool:
    return bool(round(answer["outputs"][0]["data"][1], 6) >= THRESHOLD)


def _check_same(ours: Side, others: Sequence[Side]) -> None:
    """Every side decides every row alike. Raises LoadFailed."""
    wanted = ours.decisions()
    for other in others:
        say(f"{other.name} decides each row")
        apart = sum(one != two for one, two in zip(wanted, other.decisions(), strict=True))
        if apart:
            raise wrk.LoadFailed(
                f"{other.name} decides {apart} of {len(wanted)} rows another way: it is another forest"
            )


# --- the figures


def _versus(ours: Side, peer: Side, sizes: Sizes) -> None:
    mine, other = beside(ours, peer, LOAD)
    record(
        Figure(
            figure=f"single rows/s, each logged durably, against {peer.name}, which logs nothing",
            ours=mine.rate,
            peer=other.rate,
            ratio=mine.rate / other.rate,
            target=f">= {TIMES:g} x",
            met=mine.rate >= TIMES * other.rate,
            conditions=sizes | {"p50_ms": mine.p50, "peer_p50_ms": other.p50},
        )
    )
    record(
        Figure(
            figure=f"p99 of a single row at that load, ms, against {peer.name}",
            ours=mine.p99,
            peer=other.p99,
            ratio=mine.p99 / other.p99,
            target=f"<= {SHARE_OF_P99:g} x",
            met=mine.p99 <= SHARE_OF_P99 * other.p99,
            conditions=sizes | {"slowest_ms": mine.slowest, "peer_slowest_ms": other.slowest},
        )
    )


def _versus_bare(ours: Side, bare: Side, sizes: Sizes) -> None:
    mine, other = beside(ours, bare, LOAD)
    record(
        Figure(
            figure="single rows/s, each logged durably, against a bare FastAPI route that answers a constant",
            ours=mine.rate,
            peer=other.rate,
            ratio=mine.rate / other.rate,
            target=f">= {SHARE_OF_BARE:g} x",
            met=mine.rate >= SHARE_OF_BARE * other.rate,
            conditions=sizes | {"p99_ms": mine.p99, "peer_p99_ms": other.p99},
        )
    )


def _cost(ours: Side, without: Side, sizes: Sizes) -> None:
    mine, other = beside(ours, without, LOAD)
    cost = 100 * (1 - mine.rate / other.rate)
    record(
        Figure(
            figure=f"requests/s that durable logging costs, %, against {without.name}",
            ours=cost,
            target=f"<= {COST:g}",
            met=cost <= COST,
            conditions=sizes | {"rate": mine.rate, "rate_without": other.rate},
        )
    )


def _sizes(rows: Sequence[Row]) -> Sizes:
    return conditions(
        "onnxruntime",
        "confluent-kafka",
        "uvicorn",
        wrk=f"{wrk.version()}, {wrk.arguments(LOAD.connections, LOAD.seconds)}",
        rounds=f"{LOAD.rounds} of each in turns after a warm-up round; medians",
        rows=f"{len(rows)} distinct rows of the baseline, in turn",
        trees=100,
        shares="all cores are shared: wrk, the broker and our one worker; wrk and the peer's one worker",
        log="acks=all, one broker, replication 1",
        access="an API key",
    )


def _check_logged(predictor: Serving, answered: int, before: int) -> None:
    """Every answer's inference is in the log. Raises LoadFailed."""
    logged = predictor.logged() - before
    fates = {name: predictor.metric(f"driftloop_inferences_{name}_total") for name in COUNTERS}
    say(f"{answered:,} answers, {logged:,} inferences in the log: {fates}")
    if logged < answered:
        raise wrk.LoadFailed(f"{answered - logged} of {answered} answers are not in the log ({fates})")


if __name__ == "__main__":
    main()
