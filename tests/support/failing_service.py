"""A service whose bugs have patients' values at hand, in a process of its own."""

import os
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from psycopg import Connection

from driftloop.common.events import OutcomeReported
from driftloop.common.kafka.admin import admin_client, identities
from driftloop.common.kafka.config import producer_config
from driftloop.common.kafka.consumer import Delivery
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.logs import LogSettings, configure_logging
from driftloop.common.postgres.pool import open_pool
from driftloop.common.process import Service, run_service
from driftloop.common.sentry import start_sentry
from driftloop.common.settings import read_settings
from driftloop.common.topics import OUTCOMES, Namespace
from tests.support.counting import SCHEMA, counting_loop


class PatientError(RuntimeError):
    """A bug that quotes what it stumbled over."""


def create_app() -> FastAPI:
    """`POST /patients` stumbles over the body that it is sent."""
    app = FastAPI()

    @app.post("/patients")
    async def patients(request: Request) -> None:
        body: dict[str, Any] = await request.json()
        patient = body["name"]
        try:
            raise PatientError(f"no room for {patient}")
        except PatientError as error:
            error.add_note(f"that is {patient}")
            raise ExceptionGroup(f"all of {patient}'s", [error]) from error

    return app


def stumble(connection: Connection, batch: Sequence[Delivery]) -> None:
    """A handler with a bug."""
    assert isinstance(batch[0].event, OutcomeReported)
    patient = batch[0].event.patient_id
    connection.execute("SELECT %s::text", [patient])
    raise PatientError(f"no outcome of {patient}")


def main() -> None:
    """Run until a signal, or until a record comes."""
    configure_logging("failing", read_settings(LogSettings))
    start_sentry("failing")
    bootstrap, namespace = os.environ["KAFKA_BOOTSTRAP_SERVERS"], Namespace(os.environ["DRIFTLOOP_NAMESPACE"])
    pool = open_pool(os.environ["DATABASE_URL"], namespace.schema(SCHEMA), "tests")
    known = identities(admin_client(bootstrap), [namespace.topic(OUTCOMES)])
    producer = DeliveryProducer(producer_config(bootstrap, "tests", 10_000))
    run_service(
        Service(
            name="failing",
            host="127.0.0.1",
            port=int(os.environ["DRIFTLOOP_PORT"]),
            management_port=int(os.environ["DRIFTLOOP_MANAGEMENT_PORT"]),
            api=create_app(),
            workers=(counting_loop(bootstrap, namespace, known, pool, producer, stumble),),
            closers=(lambda: producer.close(1), pool.close),
        )
    )


if __name__ == "__main__":
    main()
