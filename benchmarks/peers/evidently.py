"""Evidently's DataDriftPreset: one report a question, timed here; the reference comes with the first one."""

import json
import sys
import time
import warnings
from importlib.metadata import version

import pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset

warnings.simplefilter("ignore")


def main() -> None:
    """Answer {"window": {column: values}} by the p-value of each column and the report's CPU seconds."""
    report, reference = Report([DataDriftPreset()]), pd.DataFrame()
    for text in sys.stdin:
        question = json.loads(text)
        if "reference" in question:
            reference = pd.DataFrame(question["reference"])
        window = pd.DataFrame(question["window"])
        start = time.process_time()
        metrics = report.run(window, reference).dict()["metrics"]
        seconds = time.process_time() - start
        drifts = [metric for metric in metrics if metric["config"]["type"].endswith("ValueDrift")]
        answer = {
            "p": {drift["config"]["column"]: float(drift["value"]) for drift in drifts},
            "methods": sorted({drift["config"]["method"] for drift in drifts}),
            "seconds": seconds,
            "version": version("evidently"),
            "pandas": version("pandas"),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
