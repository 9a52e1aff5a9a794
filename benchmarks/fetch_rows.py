"""A million labelled rows from label-ingest's stream into the trainer's arrays: how much memory, and how long?

The peer makes a Python row of each, as `RowValidator.values` takes them, and checks nothing but that no id comes twice.
Both read the same bytes over HTTP on this machine, in batches as label-ingest sends them, each in a process of its own;
what Python and the libraries take before is part of it. Then ours goes on to the file of the training set.
"""

import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from benchmarks.harness import Figure, conditions, record
from driftloop.common.contract import load_contract
from driftloop.common.rows import Row, validator
from driftloop.trainer.build import load_baseline
from driftloop.trainer.columns import FEATURE
from driftloop.trainer.domain.card import training_data
from driftloop.trainer.domain.dataset import division_of, training_set
from driftloop.trainer.domain.leaks import check_leaks
from driftloop.trainer.label_rows import ProductionRows, fetch_rows
from driftloop.trainer.training_sets import decode, encode
from tests.support.paths import MODELS

ROWS, BATCH = 1_000_000, 2_000
MEGABYTES = 1_000.0
PATH = MODELS / "diabetes" / "contract.yaml"
CONTRACT = load_contract(PATH)
START = np.datetime64("2026-01-01", "us")


def main() -> None:
    """Serve the rows, and let one process after the other read them."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.arrow"
        _write(file, rows)
        with _served(file) as url:
            ours, peer = (_measured(which, url, rows) for which in ("ours", "peer"))
    known = conditions("httpx", "numpy", "pyarrow", rows=rows, **{f"ours_{key}": value for key, value in ours.items()})
    record(
        Figure(
            figure=f"peak RSS of reading {rows:,} labelled rows of {len(CONTRACT.features)} features, MB",
            ours=ours["peak_mb"],
            peer=peer["peak_mb"],
            ratio=ours["peak_mb"] / peer["peak_mb"],
            target=f"< {MEGABYTES:g}",
            met=ours["peak_mb"] < MEGABYTES,
            conditions=known,
        )
    )
    ratio = ours["fetch_s"] / peer["fetch_s"]
    record(
        Figure(
            figure=f"reading {rows:,} labelled rows of {len(CONTRACT.features)} features, CPU seconds",
            ours=ours["fetch_s"],
            peer=peer["fetch_s"],
            ratio=ratio,
            target="not slower than a row at a time",
            met=ratio <= 1,
            conditions=known,
        )
    )


def _write(file: Path, rows: int) -> None:
    """Baseline rows drawn anew, newest first, of a patient each, as label-ingest streams them."""
    rng = np.random.default_rng(0)
    values = load_baseline(PATH, CONTRACT).values
    with pa.OSFile(str(file), "wb") as sink:
        writer = None
        for first in range(0, rows, BATCH):
            numbers = range(first, min(first + BATCH, rows))
            drawn = values[rng.integers(0, len(values), len(numbers))]
            times = pa.array(START - np.array(numbers).astype("m8[s]")).cast(pa.timestamp("us", tz="UTC"))
            columns = {
                "prediction_id": pa.array([f"{number:036d}" for number in numbers]),
                "predicted_at": times,
                "labeled_at": times,
                "label": pa.array(rng.integers(0, 2, len(numbers)), pa.int8()),
                "subject": pa.array([f"{number:032x}" for number in numbers]),
            }
            columns |= {
                FEATURE + name: pa.array(column, from_pandas=True)
                for name, column in zip(CONTRACT.feature_names, drawn.T.copy(), strict=True)
            }
            batch = pa.record_batch(columns)
            writer = writer or pa.ipc.new_stream(sink, batch.schema)
            writer.write_batch(batch)
        assert writer is not None
        writer.close()


@contextmanager
def _served(file: Path) -> Iterator[str]:
    """A server whose every answer is the file; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(file.stat().st_size))
            self.end_headers()
            with file.open("rb") as body:
                while piece := body.read(64 * 1024):
                    self.wfile.write(piece)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def _measured(which: str, url: str, rows: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.fetch_rows", which, url, str(rows)]
    found: dict[str, float] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


# --- in a process of its own


def measure(which: str, url: str, rows: int) -> dict[str, float]:
    """What reading took: megabytes before and at most, CPU seconds; of ours also what follows."""
    found: dict[str, float] = {"before_mb": _peak()}
    with httpx.Client(base_url=url) as client:
        if which == "peer":
            _timed(found, "fetch", lambda: _row_by_row(client, rows))
            found["peak_mb"] = _peak()
            return found
        read = _timed(found, "fetch", lambda: fetch_rows(client, CONTRACT, limit=rows, labelled=True))
    found["peak_mb"] = _peak()
    _go_on(found, read)
    return found


def _go_on(found: dict[str, float], rows: ProductionRows) -> None:
    """From the rows to the file of a training set and back."""
    baseline = load_baseline(PATH, CONTRACT)
    division = _timed(found, "divide", lambda: division_of(CONTRACT, rows.labeled(), rows.times.min()))
    data = _timed(found, "set", lambda: training_set(baseline.values, baseline.labels, baseline.split, division.train))
    _timed(
        found,
        "leaks",
        lambda: check_leaks(CONTRACT, baseline.values, baseline.labels, baseline.split, data, division),
    )
    file = _timed(found, "encode", lambda: encode(CONTRACT, training_data(data), division.train))
    _timed(found, "decode", lambda: decode(CONTRACT, file))
    found["file_mb"] = len(file) / 1e6
    found["end_peak_mb"] = _peak()


def _row_by_row(client: httpx.Client, rows: int) -> None:
    response = client.get("/v1/rows", params={"limit": str(rows)}, timeout=600)
    with pa.ipc.open_stream(response.content) as reader:
        table = reader.read_all()
    columns = {name: table[FEATURE + name].to_pylist() for name in CONTRACT.feature_names}
    cases: list[Row] = [{name: column[row] for name, column in columns.items()} for row in range(table.num_rows)]
    validator(CONTRACT).values(cases)
    ids = np.array(table["prediction_id"].to_pylist(), dtype=np.str_)
    np.array([subject or "" for subject in table["subject"].to_pylist()], dtype=np.str_)
    np.array([-1 if label is None else label for label in table["label"].to_pylist()], dtype=np.int8)
    table["predicted_at"].cast(pa.timestamp("us")).to_numpy()
    assert len(set(ids.tolist())) == rows


def _timed(found: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    start = time.process_time()
    result = work()
    found[f"{name}_s"] = time.process_time() - start
    return result


def _peak() -> float:
    """The most that this process ever held, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if len(sys.argv) > 3:
        print(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
    else:
        main()
