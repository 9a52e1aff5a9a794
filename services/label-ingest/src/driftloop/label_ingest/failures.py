"""What every door does when the database fails: say so in the log, and tell the sender whether it is only away."""

import logging

import psycopg

from driftloop.common.postgres.pool import is_transient

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5
# Not that nothing was kept: where the connection breaks during the commit, nobody knows.
SAME_AGAIN = "send the same again, which is harmless"


def failed(error: psycopg.Error) -> tuple[int, str]:
    """The HTTP status and the reason: 503 where the same may pass later, 500 where the database has refused it."""
    # Not the error's text: Postgres quotes the value that it refuses.
    kind = type(error).__name__
    said = {"error": kind, "sqlstate": error.sqlstate}
    if is_transient(error):
        logger.warning("the database is away", extra=said)
        return 503, "the database is away"
    logger.error("the database refused a request", extra=said)
    return 500, f"the database refused what was sent ({kind})"


def failed_whole(error: psycopg.Error) -> tuple[int, str]:
    """As `failed`, with what the sender is to do: of a request that is kept whole or not at all."""
    status, reason = failed(error)
    return status, f"{reason}: {SAME_AGAIN}" if status == 503 else f"{reason} and nothing was kept"


def retry_after(status: int) -> dict[str, str]:
    """The headers of an answer with this status: when to come again, where that is of use."""
    return {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else {}
