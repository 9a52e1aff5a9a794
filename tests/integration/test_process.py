"""A service's process starts whole, ends in order, and says why when it does not."""

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from driftloop.devstack.ports import free_ports
from tests.support.small_service import MAX_BYTES
from tests.support.waiting import wait_until


@dataclass
class Small:
    """The small service's process, and what it has written."""

    process: subprocess.Popen[bytes]
    port: int
    management_port: int
    output: Path
    log: Path

    @property
    def url(self) -> str:
        """Its API."""
        return f"http://127.0.0.1:{self.port}"

    def ready(self) -> httpx.Response | None:
        """What its readiness says, None while nothing answers."""
        try:
            return httpx.get(f"http://127.0.0.1:{self.management_port}/readyz", timeout=30)
        except httpx.HTTPError:
            return None

    def wait_unready(self) -> httpx.Response:
        """Wait until it says that it is not ready; returns what it says."""

        def unready() -> httpx.Response | None:
            answer = self.ready()
            return answer if answer is not None and answer.status_code == 503 else None

        return wait_until(unready, "it is not ready")

    def wait_ready(self) -> None:
        """Wait until it is ready."""
        wait_until(lambda: (answer := self.ready()) is not None and answer.status_code == 200, "it is ready")
        wait_until(self.answers, "it answers")

    def answers(self) -> bool:
        """Whether its API answers."""
        try:
            return httpx.get(f"{self.url}/hello", timeout=30).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_running(self) -> None:
        """Wait until a request that takes its time is at work."""
        wait_until(lambda: httpx.get(f"{self.url}/running", timeout=30).json() == 1, "a request is at work")

    def said(self) -> list[str]:
        """What it told the test."""
        return self.output.read_text().splitlines()

    def logged(self) -> list[dict[str, str]]:
        """Its log, every line of which must be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def failed(request: Future[httpx.Response]) -> bool:
    """Whether a request got an error, or no answer at all."""
    return request.exception(60) is not None or request.result().status_code >= 500


Start = Callable[..., Small]


def spawn(folder: Path, how: str = "", port: int | None = None, management_port: int | None = None) -> Small:
    """Start the small service; `folder` gets its output and its log."""
    ports = free_ports(2)
    port, management_port = port or ports[0], management_port or ports[1]
    output, log = folder / "output", folder / "log"
    with output.open("wb") as out, log.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.small_service", str(port), str(management_port), how],
            stdout=out,
            stderr=err,
        )
    return Small(process, port, management_port, output, log)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the small service; kills what is left of it."""
    started: list[Small] = []

    def start(how: str = "", **ports: int) -> Small:
        started.append(spawn(tmp_path, how, **ports))
        return started[-1]

    yield start
    for small in started:
        small.process.kill()
        small.process.wait()


@pytest.fixture
def in_flight() -> Iterator[Callable[[str], Future[httpx.Response]]]:
    """Sends a request in a thread."""
    with ThreadPoolExecutor(4) as pool:
        yield lambda url: pool.submit(httpx.get, url, timeout=120)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order_with_the_running_requests_answered(
    start: Start, in_flight: Callable[[str], Future[httpx.Response]], number: signal.Signals
) -> None:
    small = start()
    small.wait_ready()
    running = in_flight(f"{small.url}/slow?seconds=1")
    small.wait_running()
    small.process.send_signal(number)
    assert running.result().json() == "answered"
    assert small.process.wait(40) == 0
    assert small.said() == ["lifespan ended", "closed first", "closed second"]


def test_while_it_ends_it_is_alive_and_says_that_it_is_not_ready(
    start: Start, in_flight: Callable[[str], Future[httpx.Response]]
) -> None:
    small = start()
    small.wait_ready()
    running = in_flight(f"{small.url}/slow?seconds=2.5")
    small.wait_running()
    small.process.terminate()
    answer = small.wait_unready()
    assert answer.json()["failing"] == {"process": "shutting down"}
    assert httpx.get(f"http://127.0.0.1:{small.management_port}/healthz", timeout=30).status_code == 200
    assert running.result().json() == "answered"
    assert small.process.wait(40) == 0


def test_told_to_stop_it_is_not_ready_and_answers_until_nobody_comes_any_more(start: Start) -> None:
    small = start("drain")
    small.wait_ready()
    with httpx.Client(base_url=small.url, timeout=30) as client:
        assert "connection" not in client.get("/hello").headers
        small.process.terminate()
        small.wait_unready()
        # A connection that is kept is closed with an answer, and a new one is still taken.
        for _ in range(2):
            answer = client.get("/hello")
            assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert small.process.wait(40) == 0
    assert small.said() == ["lifespan ended", "closed first", "closed second"]


@pytest.mark.parametrize(("how", "reason"), [("raise", "a worker: ValueError"), ("return", "a worker: RuntimeError")])
def test_a_worker_that_fails_ends_the_process_with_1_and_readiness_says_so(
    start: Start, in_flight: Callable[[str], Future[httpx.Response]], how: str, reason: str
) -> None:
    small = start(how)
    small.wait_ready()
    running = in_flight(f"{small.url}/slow?seconds=2.5")
    small.wait_running()
    httpx.post(f"{small.url}/go", timeout=30)
    answer = small.wait_unready()
    assert answer.json()["failing"] == {"process": reason}
    assert running.result().json() == "answered"
    assert small.process.wait(40) == 1
    assert small.said()[-2:] == ["closed first", "closed second"]
    assert any(line["level"] == "CRITICAL" and "exception" in line for line in small.logged())


@pytest.mark.parametrize("which", ["port", "management_port"])
def test_a_port_that_is_taken_ends_it_with_an_error_that_names_the_address(start: Start, which: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        small = start(**{which: number})
        assert small.process.wait(40) == 1
        (line,) = [line for line in small.logged() if line["level"] == "CRITICAL"]
    assert f"127.0.0.1:{number}: Address already in use" in line["error"]
    assert small.said() == ["closed first", "closed second"]


def test_an_application_that_does_not_start_ends_it_with_1(start: Start) -> None:
    small = start("lifespan")
    assert small.process.wait(40) == 1
    assert small.said() == ["closed first", "closed second"]
    assert any("the application did not start" in line.get("exception", "") for line in small.logged())


def test_a_closer_that_fails_keeps_no_other_from_closing(start: Start) -> None:
    small = start("closer")
    small.wait_ready()
    small.process.terminate()
    assert small.process.wait(40) == 1
    assert small.said() == ["lifespan ended", "closed first", "closed second"]


def test_a_library_that_would_not_let_the_process_end_is_not_waited_for(start: Start) -> None:
    small = start("library")
    small.wait_ready()
    small.process.terminate()
    assert small.process.wait(40) == 0
    assert small.said() == ["lifespan ended", "closed first", "closed second"]


def test_a_second_signal_waits_for_no_drain_and_no_request(
    start: Start, in_flight: Callable[[str], Future[httpx.Response]]
) -> None:
    small = start("patient")
    small.wait_ready()
    running = in_flight(f"{small.url}/slow?seconds=60")
    small.wait_running()
    small.process.terminate()
    small.wait_unready()
    small.process.terminate()
    assert small.process.wait(40) == 0
    assert failed(running)
    assert small.said()[-2:] == ["closed first", "closed second"]


@pytest.mark.parametrize("path", ["slow", "stuck"])
def test_a_request_that_does_not_end_is_given_up_after_its_time(
    start: Start, in_flight: Callable[[str], Future[httpx.Response]], path: str
) -> None:
    small = start()
    small.wait_ready()
    running = in_flight(f"{small.url}/{path}?seconds=60")
    small.wait_running()
    small.process.terminate()
    assert small.process.wait(40) == 0
    assert small.said()[-2:] == ["closed first", "closed second"]
    assert failed(running)


def test_a_worker_that_does_not_stop_is_left_behind(start: Start) -> None:
    small = start("stay")
    small.wait_ready()
    small.process.terminate()
    assert small.process.wait(40) == 0
    assert any("did not stop in time" in line["message"] for line in small.logged())


def test_every_line_of_the_log_is_json(start: Start) -> None:
    small = start()
    small.wait_ready()
    small.process.terminate()
    small.process.wait(40)
    assert {line["service"] for line in small.logged()} == {"small"}


# --- too large a body, from clients that are still sending


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """The small service, ready, for all who harm it in vain."""
    small = spawn(tmp_path_factory.mktemp("small"))
    small.wait_ready()
    yield small
    small.process.kill()
    small.process.wait()


def test_the_refusal_of_a_large_body_reaches_a_client_that_is_still_sending(small: Small) -> None:
    for _ in range(5):
        response = httpx.post(f"{small.url}/body", content=b"x" * 10_000_000, timeout=60)
        assert response.status_code == 413
        assert str(MAX_BYTES) in response.json()["detail"]
    assert small.answers()


def test_it_reaches_a_client_that_sends_in_chunks_of_unknown_number(small: Small) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100_000

    response = httpx.post(f"{small.url}/body", content=chunks(), timeout=60)
    assert response.status_code == 413
    assert small.answers()


def test_a_body_at_the_limit_is_taken(small: Small) -> None:
    assert httpx.post(f"{small.url}/body", content=b"x" * MAX_BYTES, timeout=60).json() == MAX_BYTES
    assert httpx.post(f"{small.url}/body", content=iter([b"x" * MAX_BYTES]), timeout=60).json() == MAX_BYTES
    assert httpx.post(f"{small.url}/body", content=b"x" * (MAX_BYTES + 1), timeout=60).status_code == 413


def test_a_client_that_asks_first_is_refused_before_it_sends(small: Small) -> None:
    with socket.create_connection(("127.0.0.1", small.port), timeout=5) as client:
        client.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "request_text",
    [
        b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nshort",
        b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000\r\n\r\nshort",
        b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5_000 + b"\r\n\r\n",
        b"\xff\x00 garbage\r\n\r\n",
    ],
)
def test_a_client_that_lies_or_leaves_harms_nobody(small: Small, request_text: bytes) -> None:
    with socket.create_connection(("127.0.0.1", small.port), timeout=5) as client:
        client.sendall(request_text)
    assert small.answers()
    assert not any(line["level"] in ("ERROR", "CRITICAL") for line in small.logged())


def test_many_that_send_too_much_at_once_all_hear_it(small: Small) -> None:
    statuses: list[int] = []

    def send() -> None:
        statuses.append(httpx.post(f"{small.url}/body", content=b"x" * 5_000_000, timeout=60).status_code)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [413] * 8
