"""The least that FastAPI can do: a route that answers a constant. Its argument: the port."""

import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/predict")
async def predict() -> dict[str, bool]:
    """The answer to everybody."""
    return {"diabetic": True}


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_level="warning")
