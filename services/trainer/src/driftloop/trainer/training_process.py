"""The training process: trains and judges one challenger.

The first line of its standard input, which may be long in coming, names the folder with the task. It is a process of
its own so that a training that eats memory, hangs or crashes takes no service along.
"""

import logging
import os
import sys
import threading
from functools import partial
from pathlib import Path

from driftloop.common.logs import LogSettings, configure_logging
from driftloop.common.sentry import start_sentry
from driftloop.common.settings import SettingsError, read_settings
from driftloop.trainer.backends import parallel
from driftloop.trainer.bundling import bundle
from driftloop.trainer.domain.challenger import challenge
from driftloop.trainer.progress import progress
from driftloop.trainer.training_files import PROGRESS, Failure, Trained, read_task, write_failure, write_trained

logger = logging.getLogger(__name__)

ORPHANED = 3


def main() -> None:
    """Do the task in the folder that the first line of standard input names."""
    configure_logging("trainer", read_settings(LogSettings))
    start_sentry("trainer")
    named = sys.stdin.buffer.readline().removesuffix(b"\n")
    if not named:
        # The trainer ended before it had a task.
        return
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = Path(os.fsdecode(named))
    failure = train(folder)
    if failure is not None:
        write_failure(folder, failure)
        sys.exit(1)


def train(folder: Path) -> Failure | None:
    """Read a task, train and judge, write what came of it. Returns why nothing did."""
    try:
        task = read_task(folder)
        with parallel(task.backend), progress(partial(_say, folder)) as say:
            challenger = challenge(
                task.contract,
                task.baseline,
                task.division,
                task.reference,
                task.champion,
                since=task.since,
                version=task.version,
                created=task.created,
                reason=task.reason,
                concept_drift=task.concept_drift,
                unseen=task.unseen,
                say=say,
            )
        assert challenger.evidence is not None
        write_trained(folder, Trained(bundle(task.contract, challenger), challenger.evidence))
    except MemoryError:
        return Failure("memory", "it ran out of memory")
    except (ValueError, SettingsError) as error:
        return Failure("data", str(error))
    except OSError as error:
        # No space, or a cluster that does not answer: whoever looks after the request can do something about it.
        logger.exception("a training failed")
        return Failure("internal", str(error))
    except Exception as error:
        logger.exception("a training failed")
        return Failure("internal", f"{type(error).__name__}: see the log")
    return None


def _say(folder: Path, text: str) -> None:
    """Tell whoever looks after the training what it is at: the file is there whole, or not at all."""
    logger.info("training", extra={"step": text})
    fresh = folder / f"{PROGRESS}.new"
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(folder / PROGRESS)


def _end_with_parent() -> None:
    """The trainer holds the other end of standard input: when it is gone, nobody waits for the result."""
    while os.read(0, 1024):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    main()
