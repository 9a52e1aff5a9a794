"""River's KSWIN, one detector a feature: how many CPU seconds it takes for the values of {"columns": [[…], …]}."""

import json
import sys
import time
from importlib.metadata import version

from river.drift import KSWIN


def main() -> None:
    """Answer each question; the detectors go on from where they were."""
    detectors: list[KSWIN] = []
    for text in sys.stdin:
        columns = json.loads(text)["columns"]
        detectors = detectors or [KSWIN(seed=place) for place in range(len(columns))]
        start = time.process_time()
        for detector, column in zip(detectors, columns, strict=True):
            for value in column:
                detector.update(value)
        seconds = time.process_time() - start
        print(json.dumps({"seconds": seconds, "version": version("river")}), flush=True)


if __name__ == "__main__":
    main()
