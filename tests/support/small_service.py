"""A small service in a process of its own: what `run_service` promises is seen from outside."""

import argparse
import asyncio
import atexit
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request

from driftloop.common.http import BodyLimit
from driftloop.common.logs import configure_logging
from driftloop.common.process import Service, run_service

MAX_BYTES = 1_000_000


@dataclass
class Worker:
    """Works until it is told to stop; `how` says what it does instead, once `go` is set."""

    how: str
    name: str = "a worker"
    go: threading.Event = field(default_factory=threading.Event)

    def run(self, stop: threading.Event) -> None:
        """Work."""
        while not stop.wait(0.02):
            if self.go.is_set() and self.how == "raise":
                raise ValueError("a bug")
            if self.go.is_set() and self.how == "return":
                return
        if self.how == "stay":
            time.sleep(60)


def create_app(worker: Worker, how: str) -> FastAPI:
    """`/hello`, `/slow`, `/stuck`, which `/running` counts, `/body`, and `/go` for the worker."""
    running: list[str] = []

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        if how == "lifespan":
            raise RuntimeError("the model is broken")
        yield
        say("lifespan ended")

    app = FastAPI(lifespan=lifespan)

    @app.get("/hello")
    async def hello() -> str:
        return "hello"

    @app.get("/slow")
    async def slow(seconds: float) -> str:
        running.append("slow")
        await asyncio.sleep(seconds)
        return "answered"

    @app.get("/stuck")
    def stuck(seconds: float) -> str:
        running.append("stuck")
        time.sleep(seconds)
        return "answered"

    @app.get("/running")
    async def begun() -> int:
        return len(running)

    @app.post("/body")
    async def body(request: Request) -> int:
        return len(await request.body())

    @app.post("/go")
    async def go() -> None:
        worker.go.set()

    return app


def say(what: str) -> None:
    """Tell the test."""
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


def closer(name: str, fails: bool) -> Callable[[], None]:
    """Says that it was called."""

    def close() -> None:
        say(f"closed {name}")
        if fails:
            raise RuntimeError("it cannot be closed")

    return close


def main() -> None:
    """Run until a signal or a failure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("management_port", type=int)
    parser.add_argument("how", nargs="?", default="")
    arguments = parser.parse_args()
    configure_logging("small")
    if arguments.how == "library":
        atexit.register(time.sleep, 60)
    worker = Worker(arguments.how)
    service = Service(
        name="small",
        host="127.0.0.1",
        port=arguments.port,
        management_port=arguments.management_port,
        api=BodyLimit(create_app(worker, arguments.how), MAX_BYTES),
        workers=(worker,),
        closers=(closer("first", arguments.how == "closer"), closer("second", False)),
        drain_seconds={"patient": 60, "drain": 8}.get(arguments.how, 0),
        shutdown_seconds=60 if arguments.how == "patient" else 3,
        join_seconds=1.0,
    )
    run_service(service)


if __name__ == "__main__":
    main()
