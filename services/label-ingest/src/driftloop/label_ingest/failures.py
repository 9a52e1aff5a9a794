"""What every door does when the database fails: say so in the log, and learn whether it is only away."""

import logging

import psycopg

from driftloop.common.postgres.pool import is_transient

logger = logging.getLogger(__name__)


def is_away(error: psycopg.Error) -> bool:
    """Whether the same may pass later; else the database has refused what a door was given."""
    # Not the error's text: Postgres quotes the value that it refuses.
    said = {"error": type(error).__name__, "sqlstate": error.sqlstate}
    if is_transient(error):
        logger.warning("the database is away", extra=said)
        return True
    logger.error("the database refused a request", extra=said)
    return False
