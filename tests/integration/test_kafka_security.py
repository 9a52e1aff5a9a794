"""Brokers that ask who we are, and that we ask: by password or certificate, and always encrypted."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from driftloop.common.kafka.admin import Unreachable, admin_client, check_reachable, identities
from driftloop.common.kafka.config import Brokers, consumer_config, producer_config
from driftloop.common.kafka.consumer import ConsumerState
from driftloop.common.kafka.producer import DeliveryProducer
from driftloop.common.kafka.reader import read_to_end
from driftloop.common.kafka.settings import KafkaSettings, brokers_of
from driftloop.common.settings import read_settings
from driftloop.common.startup import NotThere, wait_for_topics
from driftloop.common.topics import OUTCOMES, TOPICS, Namespace
from driftloop.devstack.model import StackUnavailable
from tests.support.certificates import Authority
from tests.support.chart import HELM, template
from tests.support.counting import Counting
from tests.support.house import House
from tests.support.predictors import predictor
from tests.support.secured_broker import LIMITED, PASSWORD, SecuredBroker, secured_broker
from tests.support.waiting import wait_until

KEY_PASSWORD = "a password of a client's key"
WRONG = "not the password"
BY_CERTIFICATE = {"SSL_KEY_PASSWORD": KEY_PASSWORD}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """One for the module: tests take names of their own."""
    if "KAFKA_BOOTSTRAP_SERVERS" in os.environ:
        pytest.skip("the broker from the environment lets anybody in")
    try:
        with secured_broker(tmp_path_factory.mktemp("secured"), KEY_PASSWORD) as found:
            yield found
    except StackUnavailable as error:
        pytest.skip(str(error))


def brokers(environment: dict[str, str]) -> Brokers:
    return brokers_of(read_settings(KafkaSettings, environment))


def make_topics(environment: dict[str, str], prefix: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "driftloop.cli.main", "topics", "--replication", "1", "--namespace", prefix],
        env=os.environ | environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("listener", "changed"),
    [
        ("password", {"SASL_MECHANISM": "PLAIN"}),
        ("password", {"SASL_MECHANISM": "SCRAM-SHA-256"}),
        ("password", {}),
        ("certificate", BY_CERTIFICATE),
    ],
)
def test_the_command_a_producer_a_reader_and_an_administrator_are_let_in(
    broker: SecuredBroker, listener: str, changed: dict[str, str], tmp_path: Path
) -> None:
    environment = broker.environment(listener, **changed)
    if listener == "password":
        secret = tmp_path / "password"
        secret.write_text(environment.pop("KAFKA_SASL_PASSWORD") + "\n")
        environment["KAFKA_SASL_PASSWORD_FILE"] = str(secret)
    prefix = f"t{uuid.uuid4().hex[:12]}"
    made = make_topics(environment, prefix)
    assert (made.returncode, made.stderr) == (0, "")
    topic = Namespace(prefix).topic(OUTCOMES)
    producer = DeliveryProducer(producer_config(brokers(environment), "tests"))
    producer.produce_and_wait(topic, 0, b"key", b"value", [], timeout=30)
    producer.close(5)
    assert [one.value for one in read_to_end(brokers(environment), "tests", topic)] == [b"value"]
    assert set(wait_for_topics(brokers(environment), Namespace(prefix), TOPICS)) == set(
        identities(admin_client(brokers(environment)), [Namespace(prefix).topic(one) for one in TOPICS])
    )


@dataclass(frozen=True)
class Refused:
    """What is wrong with the settings of a listener, and what the error says of it."""

    listener: str
    changed: dict[str, str]
    said: str


STRANGER = "a stranger's"
REFUSED = [
    Refused("password", {"SASL_PASSWORD": WRONG}, "(?i)authentication failed.*KAFKA_SASL_PASSWORD"),
    Refused("password", {"SASL_PASSWORD": WRONG, "SASL_MECHANISM": "PLAIN"}, "(?i)authentication failed"),
    Refused("password", {"SASL_USERNAME": "nobody"}, "(?i)authentication failed"),
    Refused("password", {"SSL_CA_LOCATION": STRANGER}, "certificate verify failed.*KAFKA_SSL_"),
    Refused(
        "certificate", {"SSL_KEY_PASSWORD": KEY_PASSWORD, "SSL_CA_LOCATION": STRANGER}, "certificate verify failed"
    ),
    Refused(
        "certificate", {"SSL_CERTIFICATE_LOCATION": "", "SSL_KEY_LOCATION": ""}, "alert bad certificate.*KAFKA_SSL_"
    ),
]


@pytest.mark.parametrize("refused", REFUSED, ids=lambda one: f"{one.listener}-{'-'.join(one.changed)}")
def test_who_is_refused_hears_at_once_why(broker: SecuredBroker, refused: Refused, tmp_path: Path) -> None:
    changed = dict(refused.changed)
    if changed.get("SSL_CA_LOCATION") == STRANGER:
        changed["SSL_CA_LOCATION"] = str(Authority(tmp_path, "stranger").certificate)
    environment = broker.environment(refused.listener, **changed)
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=refused.said) as raised:
        check_reachable(brokers(environment), 30)
    assert time.monotonic() - begun < 20
    for secret in (PASSWORD, WRONG, KEY_PASSWORD):
        assert secret not in str(raised.value)


@pytest.mark.skipif(HELM is None, reason="helm is not installed")
def test_the_rights_that_the_chart_asks_strimzi_for_are_enough_and_hold_for_its_own_topics(
    broker: SecuredBroker, house: House
) -> None:
    namespace = house.namespace
    (user,) = (
        one
        for one in template(
            "-s", "templates/strimzi.yaml", "--set", f"strimzi.enabled=true,namespace={namespace.prefix}"
        )
        if one["kind"] == "KafkaUser"
    )
    broker.allow(user["spec"]["authorization"]["acls"])
    environment = broker.environment("password", SASL_USERNAME=LIMITED)
    assert make_topics(broker.environment("password"), namespace.prefix).returncode == 0
    wait_for_topics(brokers(environment), namespace, TOPICS, seconds=0)
    with pytest.raises(NotThere):
        wait_for_topics(brokers(environment), Namespace(f"x{namespace.prefix}"), TOPICS, seconds=0)
    # Like every service that consumes: what is read is published, and the group's offsets feed the lag.
    outcomes = namespace.topic(OUTCOMES)
    producer = DeliveryProducer(producer_config(brokers(environment), "tests"))
    producer.produce_and_wait(outcomes, 0, b"key", b"value", [], timeout=30)
    producer.close(5)
    consumer = Consumer(consumer_config(brokers(environment), "tests", namespace.group("label-ingest")))
    consumer.subscribe([outcomes], on_assign=lambda one, given: one.incremental_assign(_from_the_start(given)))
    read = wait_until(lambda: consumer.poll(0.1), "a record")
    assert (read.error(), read.value()) == (None, b"value")
    assert [one.error for one in consumer.commit(message=read, asynchronous=False)] == [None]
    consumer.close()
    process, _url = predictor(house)
    process.kill()
    process.env.update(environment)
    process.start()
    wait_until(lambda: "no revision of model 'diabetes' serves" in (process.problem() or ""), "only a model lacks")


def _from_the_start(given: list[TopicPartition]) -> list[TopicPartition]:
    return [TopicPartition(one.topic, one.partition, OFFSET_BEGINNING) for one in given]


def test_a_broker_by_another_name_than_its_certificates_is_not_trusted_unless_told_so(broker: SecuredBroker) -> None:
    with pytest.raises(Unreachable, match="certificate verify failed"):
        check_reachable(brokers(broker.environment("password", "localhost")), 30)
    check_reachable(brokers(broker.environment("password", "localhost", SSL_ENDPOINT_IDENTIFICATION="none")), 30)


def test_a_client_that_does_not_encrypt_is_told_what_it_talks_to(broker: SecuredBroker) -> None:
    with pytest.raises(Unreachable, match="KAFKA_SECURITY_PROTOCOL"):
        check_reachable(f"127.0.0.1:{broker.ports['password']}", 3)


def test_a_start_and_the_command_say_why_they_are_refused(broker: SecuredBroker) -> None:
    environment = broker.environment("password", SASL_PASSWORD=WRONG)
    with pytest.raises(NotThere, match=r"(?i)the broker is not ready.*authentication failed"):
        wait_for_topics(brokers(environment), Namespace("t"), TOPICS, seconds=0)
    made = make_topics(environment, "t")
    assert made.returncode == 1
    assert "authentication failed" in made.stderr.lower()
    assert WRONG not in made.stderr


def test_a_consumer_that_is_refused_says_why_it_is_not_ready(broker: SecuredBroker, counting: Counting) -> None:
    config = consumer_config(brokers(broker.environment("password", SASL_PASSWORD=WRONG)), "tests", "tests")
    with counting.consuming(config=config) as running:
        state: ConsumerState = running.loop.state
        wait_until(lambda: "authentication failed" in (state.problem() or "").lower(), "the reason")


def test_a_predictor_that_is_refused_says_so_and_one_that_is_let_in_goes_on(
    broker: SecuredBroker, house: House
) -> None:
    process, _url = predictor(house)
    process.kill()
    good = broker.environment("password")
    process.env.update(good | {"KAFKA_SASL_PASSWORD": WRONG})
    process.start()
    wait_until(lambda: "authentication failed" in (process.problem() or "").lower(), "the reason")
    process.kill()
    assert make_topics(good, house.namespace.prefix).returncode == 0
    process.env.update(good)
    process.start()
    wait_until(lambda: "no revision of model 'diabetes' serves" in (process.problem() or ""), "only a model lacks")
    for secret in (PASSWORD, WRONG):
        assert secret not in process.log_path.read_text()
