"""A service as they are usually written: FastAPI, a pickled scikit-learn pipeline, one row a request, nothing logged.

Its arguments: the port, the pickle, and whether the route is `async` or goes to a thread of the pool.
"""

import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

# A pickle of another version of scikit-learn would be another forest.
warnings.simplefilter("error")


class Patient(BaseModel):
    """One row."""

    Pregnancies: int
    Glucose: float
    BloodPressure: float
    BMI: float
    Age: int


def create_app(pickle: Path, kind: str) -> FastAPI:
    """The application; `kind` is "async" or "thread"."""
    app, pipeline = FastAPI(), joblib.load(pickle)

    def decide(patient: Patient) -> dict[str, bool]:
        row = [patient.Pregnancies, patient.Glucose, patient.BloodPressure, patient.BMI, patient.Age]
        return {"diabetic": bool(pipeline.predict_proba(np.array([row], np.float32))[0, 1] >= 0.5)}

    async def decide_at_once(patient: Patient) -> dict[str, bool]:
        return decide(patient)

    app.post("/predict")({"async": decide_at_once, "thread": decide}[kind])
    return app


if __name__ == "__main__":
    port, pickle, kind = sys.argv[1:]
    app = create_app(Path(pickle), kind)
    uvicorn.run(app, port=int(port), loop="uvloop", http="httptools", access_log=False, log_level="warning")
