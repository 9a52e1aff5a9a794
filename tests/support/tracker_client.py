"""A tracker in an environment that holds a tracker's client and no more; run as a script, asked by lines of JSON."""

import base64
import json
import os
import struct
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from driftloop.trainer.trackers import TrackedRun, Tracker, open_trackers

_HEADER, _BLOCK, _RECORD = 7, 32768, 7


def _record(tracker: Tracker, told: dict[str, Any]) -> str | None:
    """Record as the trainer does, in a thread. Returns the class of the error."""
    model = base64.b64decode(told.pop("model"))
    told |= {name: datetime.fromisoformat(told[name]) for name in ("created_at", "decided_at")}
    failed: list[str] = []

    def work() -> None:
        try:
            tracker.record(TrackedRun(**told, read_model=lambda: model))
        except Exception as error:  # noqa: BLE001 - the test judges it
            failed.append(type(error).__name__)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return failed[0] if failed else None


def _records(file: Path) -> Iterator[bytes]:
    """The records of a `.wandb` file: blocks as in LevelDB's log, after a header."""
    data, at, parts = file.read_bytes(), _HEADER, b""
    while at + _RECORD <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _RECORD:
            at += left
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + _RECORD : at + _RECORD + length]
        at += _RECORD + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def _seen(folder: str) -> list[dict[str, Any]]:
    """What W&B has written offline, a file a recording, in the order of time."""
    from wandb.proto import wandb_internal_pb2  # noqa: PLC0415 - only that environment has it

    found = []
    for file in sorted(Path(folder).glob("wandb/offline-run-*/*.wandb"), key=lambda one: one.stat().st_mtime_ns):
        seen: dict[str, Any] = {"id": file.stem.removeprefix("run-"), "config": {}, "summary": {}, "aliases": []}
        for data in _records(file):
            record = wandb_internal_pb2.Record.FromString(data)
            seen["title"] = record.run.display_name or seen.get("title")
            for update in (*record.run.config.update, *record.config.update):
                seen["config"][update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
            for update in (*record.run.summary.update, *record.summary.update):
                seen["summary"][update.key or "/".join(update.nested_key)] = json.loads(update.value_json)
            artifact = record.artifact if record.HasField("artifact") else record.request.log_artifact.artifact
            if artifact.name:
                seen["aliases"] = list(artifact.aliases)
                seen["metadata"] = json.loads(artifact.metadata)
                seen["files"] = {one.path: Path(one.local_path).read_text() for one in artifact.manifest.contents}
        found.append(seen)
    return found


def _main() -> None:
    trackers = {tracker.name: tracker for tracker in open_trackers()}
    answers = os.fdopen(os.dup(1), "w")
    # What a library prints is not an answer.
    os.dup2(2, 1)
    for line in sys.stdin:
        kind, told = json.loads(line)
        answer = _seen(told) if kind == "seen" else _record(trackers[kind], told)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _main()
