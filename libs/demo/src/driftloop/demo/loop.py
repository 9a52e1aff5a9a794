"""What every scenario does: send patients, report outcomes late, wait for the services, and add up at the end."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from driftloop.common.contract import Contract
from driftloop.common.envelope import decode_envelope, decode_event
from driftloop.common.events import DriftDetected, Event, ModelUpdated, PredictionLabeled, PredictionMade
from driftloop.common.kafka.reader import read_to_end
from driftloop.common.kafka.records import Record
from driftloop.common.topics import DRIFT_EVENTS, LABELED_PREDICTIONS, MODEL_UPDATES, PREDICTIONS, TOPICS, Topic
from driftloop.demo.doors import Doors
from driftloop.demo.observer import PATIENCE_SECONDS, DemoFailed, Observer, wait_for
from driftloop.demo.populations import Case
from driftloop.demo.traffic import Answer, Traffic

if TYPE_CHECKING:
    from driftloop.devstack.processes import ServiceProcess

CHUNK = 50


@dataclass
class Loop:
    """A running installation of one model, and those who use it.

    `rate` patients come a second: more would leave nothing of a small machine to those who look after them. The
    laboratory's answers come `lab_delay` patients later. `kill` is a process that is killed with -9 where the
    scenario says that it hurts most, and started again. `trusted_keys` has the public keys of who signs models, if
    artifacts are to be read.
    """

    doors: Doors
    contract_file: Path
    contract: Contract
    traffic: Traffic
    observer: Observer
    console: Console
    rate: float = 250.0
    lab_delay: int = 0
    kill: "ServiceProcess | None" = None
    trusted_keys: Path | None = None
    started: float = field(default_factory=time.monotonic)
    _at_the_lab: deque[Answer] = field(default_factory=deque)

    # --- telling

    def say(self, text: str) -> None:
        """One line of progress, with the seconds since the start."""
        self.console.print(progress_line(self.started, text), highlight=False, soft_wrap=True)

    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    # --- acting

    def send(self, cases: Sequence[Case]) -> list[Answer]:
        """Patients come; the outcomes of those long enough ago follow."""
        answers = []
        for start in range(0, len(cases), CHUNK):
            due = time.monotonic() + len(cases[start : start + CHUNK]) / self.rate
            part = self.traffic.predict(cases[start : start + CHUNK])
            answers += part
            self._at_the_lab.extend(part)
            self._report(len(self._at_the_lab) - self.lab_delay)
            time.sleep(max(0.0, due - time.monotonic()))  # the patients' own pace
        return answers

    def flush_lab(self) -> None:
        """The laboratory reports everything that it still has."""
        self._report(len(self._at_the_lab))

    def kill_one(self) -> None:
        """Kill the chosen process, if one was chosen, as a crash would, and start it again; returns at once.

        It happens while the next patients are being answered.
        """
        process, self.kill = self.kill, None
        if process is None:
            return

        def kill() -> None:
            process.kill()
            process.start()

        self.say(f"[red]kill -9[/] {process.name}, and start it again")
        threading.Thread(target=kill, name="killer").start()

    # --- waiting

    def wait_until_counted(self) -> None:
        """Wait until monitor and label-ingest have counted all that was answered and reported."""
        answered, reported = self.traffic.counts.answered, self.traffic.counts.outcomes

        def all_there() -> bool:
            predictions, labels = self.observer.counted()
            return predictions >= answered and labels >= reported

        wait_for(f"{answered} predictions and {reported} labels in the monitor", all_there, 90)

    def wait_for_window(self, version: int, number: int = 1) -> dict[str, Any]:
        """What the monitor says of a version once it has closed `number` windows of it."""

        def closed() -> dict[str, Any] | None:
            found = self.observer.version(version)
            return found if found is not None and found["windows_closed"] >= number else None

        patience = max(PATIENCE_SECONDS, 4 * self.contract.drift.pane_seconds)
        return wait_for(f"window {number} of version {version}", closed, patience)

    # --- reading the log

    def records(self, *topics: Topic) -> list[Record]:
        """All records that topics hold; of every topic, if none is named."""
        servers, namespace = self.doors.bootstrap_servers, self.doors.namespace
        return [
            record
            for topic in topics or TOPICS
            for record in read_to_end(servers, "driftloop-demo", namespace.topic(topic))
        ]

    def events(self, topic: Topic) -> list[Event]:
        """All events that a topic holds."""
        found = []
        for record in self.records(topic):
            if record.value is not None:
                found.append(decode_event(decode_envelope(record.headers, topic.events).type, record.value))
        return found

    def alarms(self) -> list[DriftDetected]:
        """Every alarm that opened or was cleared, in order."""
        return [one for one in self.events(DRIFT_EVENTS) if isinstance(one, DriftDetected)]

    def states(self) -> list[ModelUpdated]:
        """Every serving state, in order."""
        return [one for one in self.events(MODEL_UPDATES) if isinstance(one, ModelUpdated)]

    def event_counts(self) -> dict[str, int]:
        """Distinct predictions and labelled predictions in the log, and what the services have counted of them."""
        made = {one.prediction_id for one in self.events(PREDICTIONS) if isinstance(one, PredictionMade)}
        joined = {one.prediction_id for one in self.events(LABELED_PREDICTIONS) if isinstance(one, PredictionLabeled)}
        counted, counted_labels = self.observer.counted()
        labels = self.observer.labels()
        return {
            "predictions": len(made),
            "outcomes": self.traffic.counts.outcomes,
            "labeled": len(joined),
            "counted": counted,
            "counted_labels": counted_labels,
            "stored": labels["predictions"],
            "parked_outcomes": labels["parked"],
            "answered_not_logged": sum(one.prediction_id not in made for one in self.traffic.counts.answers),
        }

    def settle(self) -> dict[str, int]:
        """Wait until every count agrees, and return them. Raises DemoFailed, with the counts, if they never do."""
        self.flush_lab()
        last: dict[str, int] = {}

        def agree() -> bool:
            nonlocal last
            last = self.event_counts()
            return not disagreements(last, self.traffic.counts.answered)

        try:
            wait_for("all counts to agree", agree, 60)
        except DemoFailed as failed:
            raise DemoFailed(f"{'; '.join(disagreements(last, self.traffic.counts.answered))} ({failed})") from failed
        return last

    def _report(self, count: int) -> None:
        if count > 0:
            self.traffic.report_outcomes([self._at_the_lab.popleft() for _ in range(count)])


def progress_line(started: float, text: str) -> str:
    """A line of progress with the seconds since `started`."""
    return f"[dim]{time.monotonic() - started:6.1f} s[/]  {text}"


def disagreements(counts: dict[str, int], answered: int) -> list[str]:
    """What does not add up, in words; nothing if all does.

    A request that was not answered may be in the log all the same (its connection broke after the append), so that
    what was answered is part of what was logged; everything that was logged is counted, and counted once.
    """
    wrong = []
    if counts["answered_not_logged"] or counts["predictions"] < answered:
        wrong.append(f"{answered} requests were answered, {counts['answered_not_logged']} of them are not in the log")
    for name in ("stored", "counted"):
        if counts[name] != counts["predictions"]:
            wrong.append(f"{counts['predictions']} predictions in the log, {name} {counts[name]}")
    for name in ("labeled", "counted_labels"):
        if counts[name] != counts["outcomes"]:
            wrong.append(f"{counts['outcomes']} outcomes reported, {name.replace('_', ' ')} {counts[name]}")
    if counts["parked_outcomes"]:
        wrong.append(f"{counts['parked_outcomes']} outcomes still wait for their prediction")
    return wrong
