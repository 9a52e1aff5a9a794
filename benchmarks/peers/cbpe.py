"""NannyML's CBPE: for a reference of scores and labels, and scores to come, the band of their estimated accuracy.

A question is {"threshold", "reference": {"scores", "labels"}, "window": {"scores"}}, the answer [low, high].
"""

import json
import os
import sys
import warnings

import nannyml
import numpy as np
import pandas as pd

warnings.filterwarnings("ignore")
# Each call would report itself to its makers, over the network.
os.environ["NML_DISABLE_USAGE_LOGGING"] = "1"


def band(question: dict) -> list[float]:
    """The confidence boundaries of the window as one chunk."""
    threshold = question["threshold"]
    reference, window = (frame(question[part], threshold) for part in ("reference", "window"))
    estimator = nannyml.CBPE(
        problem_type="classification_binary",
        y_pred_proba="scores",
        y_pred="answers",
        y_true="labels",
        metrics=["accuracy"],
        chunk_number=1,
    )
    result = estimator.fit(reference).estimate(window).filter(period="analysis").to_df()["accuracy"]
    return [float(result[f"{side}_confidence_boundary"].iloc[0]) for side in ("lower", "upper")]


def frame(columns: dict, threshold: float) -> pd.DataFrame:
    """The rows, with the answers that the threshold makes of the scores."""
    return pd.DataFrame(columns).assign(answers=(np.array(columns["scores"]) >= threshold).astype(int))


for line in sys.stdin:
    print(json.dumps(band(json.loads(line))), flush=True)
