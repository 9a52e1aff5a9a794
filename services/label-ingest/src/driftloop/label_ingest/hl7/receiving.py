"""From the bytes of a message to the bytes of its acknowledgement: read, take, and only then say so."""

import logging
import traceback
from collections.abc import Sequence

import psycopg

from driftloop.common import metrics
from driftloop.common.clock import Clock, utc_now
from driftloop.label_ingest.failures import SAME_AGAIN, failed_whole
from driftloop.label_ingest.hl7.acknowledging import Acknowledgement, acknowledge
from driftloop.label_ingest.hl7.meaning import Header, Message, Problem, Refused, Rules
from driftloop.label_ingest.hl7.reading import read_header, read_message
from driftloop.label_ingest.reports import Answer, Reports

logger = logging.getLogger(__name__)

_AGAIN = f"temporary: {SAME_AGAIN}"


class Receiver:
    """Answers messages, each in the thread that it is called from."""

    def __init__(self, reports: Reports, rules: Rules, clock: Clock = utc_now) -> None:
        self._reports = reports
        self._rules = rules
        self._clock = clock

    def answer(self, data: bytes) -> bytes:
        """The acknowledgement of a message. AA: all that it says is committed. Never raises."""
        try:
            return self._answer(data)
        except Exception as error:  # noqa: BLE001 - one message that we cannot deal with must not stop the others
            # Where it broke, and not the error's text, which may quote the message.
            where = [f"{frame.name}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)]
            logger.error("a message broke its reading", extra={"error": type(error).__name__, "where": where})
            problem = Problem(207, "internal error: the message was not acknowledged, and its receiver has logged why")
            return self._write(read_header(data), "AE", problem.text, [problem])

    def too_long(self, beginning: bytes, limit: int) -> bytes:
        """The acknowledgement of a message of more than `limit` bytes, of which the beginning is known."""
        problem = Problem(207, f"the message is longer than {limit} bytes: send fewer results a message")
        return self._write(read_header(beginning), "AR", problem.text, [problem])

    def _answer(self, data: bytes) -> bytes:
        try:
            message = read_message(data, self._rules)
        except Refused as refused:
            return self._write(refused.header, refused.acknowledgement, str(refused), [refused.problem])
        try:
            answers = self._reports.take([one.item for one in message.observations])
        except psycopg.Error as error:
            return self._database(message.header, error)
        problems = _problems(message, answers)
        return self._write(message.header, "AE" if problems else "AA", _summary(message, problems), problems)

    def _database(self, header: Header, error: psycopg.Error) -> bytes:
        status, reason = failed_whole(error)
        if status == 503:
            return self._write(header, "AR", _AGAIN, [Problem(207, _AGAIN)])
        return self._write(header, "AE", reason, [Problem(207, reason)])

    def _write(self, header: Header, acknowledgement: Acknowledgement, text: str, problems: Sequence[Problem]) -> bytes:
        metrics.MLLP_MESSAGES.labels(acknowledgement).inc()
        return acknowledge(header, acknowledgement, text, problems, self._clock())


def _problems(message: Message, answers: Sequence[Answer]) -> list[Problem]:
    """One for each OBX that was rejected, here or by what keeps the outcomes."""
    found: list[Problem] = []
    for one, answer in zip(message.observations, answers, strict=True):
        if answer.status == "rejected":
            found.append(one.problem or Problem(207, answer.detail or "rejected", "OBX", one.number))
    return found


def _summary(message: Message, problems: Sequence[Problem]) -> str:
    kept = len(message.observations) - len(problems)
    text = f"results kept: {kept}"
    if problems:
        text += f", rejected: {len(problems)}"
    if message.ignored:
        text += f", OBX ignored: {message.ignored}"
    if problems and kept:
        text += "; to send those that were kept again is harmless"
    return text
