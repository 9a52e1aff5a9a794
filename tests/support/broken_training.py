"""A training process that goes wrong, as DRIFTLOOP_TEST_TRAINING says."""

import os
import signal
import sys
import time
from pathlib import Path


def main() -> None:
    """Go wrong, once there is a task."""
    folder, fault = Path(sys.stdin.readline().removesuffix("\n")), os.environ["DRIFTLOOP_TEST_TRAINING"]
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "hangs":
        (folder / "progress.txt").write_text("hanging", encoding="utf-8")
        time.sleep(600)
    elif fault == "hungry":
        held = []
        while True:
            held.append(b"x" * 10_000_000)
            time.sleep(0.01)
    elif fault == "data":
        failure = '{"kind": "data", "message": "these rows allow no model"}'
        (folder / "failure.json").write_text(failure, encoding="utf-8")
        sys.exit(1)
    elif fault == "silent":
        sys.exit(7)


if __name__ == "__main__":
    main()
