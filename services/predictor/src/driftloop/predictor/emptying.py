"""`driftloop-predictor-replay`: brings what a predictor that is gone has left in its spool into the broker's log.

A predictor that starts on the same volume does so by itself. This is for a volume on which none will start again.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from driftloop.common.kafka.admin import Unreachable, check_reachable
from driftloop.common.kafka.config import Brokers, producer_config
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.publisher import Publisher
from driftloop.common.kafka.settings import brokers_of
from driftloop.common.logs import configure_logging
from driftloop.common.process import incarnation
from driftloop.common.settings import SettingsError, read_settings
from driftloop.common.topics import Namespace
from driftloop.common.usage import answer_help
from driftloop.predictor.inference_log import Uncertain
from driftloop.predictor.replaying import Replayer
from driftloop.predictor.settings import ReplaySettings
from driftloop.predictor.spool import Spool, SpoolFailed, SpoolInUse, leftovers

NAME = "predictor-replay"
COMMAND = f"driftloop-{NAME}"
# How long the broker may take nothing before it is given up.
PATIENCE_SECONDS = 60.0

Say = Callable[[str], None]


def main() -> None:
    """Empty every spool below DRIFTLOOP_SPOOL; the exit status is 0 where nothing is left, else 1."""
    answer_help(COMMAND, "Brings the spools below DRIFTLOOP_SPOOL into the log, and deletes them.", ReplaySettings)
    try:
        settings = read_settings(ReplaySettings)
        configure_logging(NAME, settings)
        problems = empty(settings, brokers_of(settings.kafka), lambda text: print(text, flush=True))  # noqa: T201
    except (SettingsError, Unreachable) as error:
        sys.exit(f"{COMMAND}: {error}")
    if problems:
        sys.exit("\n".join(f"{COMMAND}: {one}" for one in problems))


def empty(settings: ReplaySettings, brokers: Brokers, say: Say, patience: float = PATIENCE_SECONDS) -> list[str]:
    """Bring all that lies below the settings' folder into the log. Returns what hindered it, in sentences.

    Each record keeps the source and the sequence that it has, so that consumers know what they had before. Raises
    SettingsError where the folder cannot be read, Unreachable where no broker lets us in; then nothing was sent.
    """
    folders = _folders(settings.spool)
    if not folders:
        say(f"{settings.spool}: nothing is left in it")
        return []
    check_reachable(brokers)
    producer = DeliveryProducer(producer_config(brokers, COMMAND, ordered=False))
    publisher = Publisher(producer, Namespace(), incarnation(NAME))
    try:
        found = [_empty(folder, settings.spool_max_bytes, publisher, say, patience) for folder in folders]
    finally:
        producer.close(1)
    return [one for one in found if one is not None]


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise SettingsError(f"DRIFTLOOP_SPOOL={root}: is no folder: mount the volume that is to be emptied there")
    try:
        return leftovers(root, 0)
    except OSError as error:
        raise SettingsError(f"DRIFTLOOP_SPOOL={root}: cannot be read: {error.strerror}") from error


def _empty(folder: Path, max_bytes: int, publisher: Publisher, say: Say, patience: float) -> str | None:
    """Empty one spool; why something is left or lost, or None."""
    try:
        spool = Spool.open(folder, max_bytes)
    except (SpoolInUse, SpoolFailed) as error:
        return str(error)
    try:
        total = spool.records
        replayer = Replayer(spool.name, spool, publisher, Uncertain(), lambda: None)
        emptied = replayer.drain(patience, partial(_tell, say, folder, total))
    finally:
        spool.close()
    left = spool.records
    say(f"{folder}: {total - left} inferences are in the log, {left} are left")
    if not emptied:
        return f"{folder}: the broker took nothing for {patience:g} s: {left} inferences are kept: run this again"
    if spool.damaged:
        return f"{folder}: {spool.damaged} damaged places were left out: see its *.damaged files before you delete it"
    return None


def _tell(say: Say, folder: Path, total: int, left: int) -> None:
    say(f"{folder}: {total - left} of {total} inferences are in the log")


if __name__ == "__main__":
    main()
