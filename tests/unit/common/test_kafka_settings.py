"""How brokers are reached: what contradicts itself ends the start, and a secret shows nowhere."""

from pathlib import Path

import pytest

from driftloop.common.kafka.config import admin_part, producer_config
from driftloop.common.kafka.settings import KafkaSettings, brokers_of
from driftloop.common.settings import SettingsError, read_settings

SECRET = "hunter2"
SASL = {
    "SECURITY_PROTOCOL": "SASL_SSL",
    "SASL_MECHANISM": "SCRAM-SHA-512",
    "SASL_USERNAME": "driftloop",
    "SASL_PASSWORD": SECRET,
}


def settings(**named: str) -> KafkaSettings:
    given = {"BOOTSTRAP_SERVERS": "kafka:9092"} | named
    return read_settings(KafkaSettings, {f"KAFKA_{name}": value for name, value in given.items()})


def test_without_more_anybody_is_let_in() -> None:
    assert producer_config(brokers_of(settings()), "tests").items() >= {
        ("bootstrap.servers", "kafka:9092"), ("security.protocol", "PLAINTEXT"),
    }  # fmt: skip


def test_every_setting_gets_to_the_client_and_to_the_administrators(tmp_path: Path) -> None:
    files = {}
    for name in ("CA", "CERTIFICATE", "KEY"):
        path = tmp_path / name
        path.write_text("PEM")
        files[f"SSL_{name}_LOCATION"] = str(path)
    found = brokers_of(settings(**SASL, **files, SSL_KEY_PASSWORD="k"))
    wanted = {
        "bootstrap.servers": "kafka:9092",
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": "driftloop",
        "sasl.password": SECRET,
        "ssl.ca.location": str(tmp_path / "CA"),
        "ssl.certificate.location": str(tmp_path / "CERTIFICATE"),
        "ssl.key.location": str(tmp_path / "KEY"),
        "ssl.key.password": "k",
        "ssl.endpoint.identification.algorithm": "https",
    }
    config = producer_config(found, "tests")
    assert config.items() >= wanted.items()
    assert admin_part(config).items() >= wanted.items()


def test_a_password_shows_in_no_text(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text(SECRET + "\n")
    named = dict(SASL)
    del named["SASL_PASSWORD"]
    read = settings(**named, SASL_PASSWORD_FILE=str(secret))
    assert brokers_of(read).client["sasl.password"] == SECRET
    for text in (repr(read), str(read), repr(brokers_of(read)), str(brokers_of(read))):
        assert SECRET not in text


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"SECURITY_PROTOCOL": "TLS"}, "KAFKA_SECURITY_PROTOCOL='TLS'"),
        (SASL | {"SASL_MECHANISM": "GSSAPI"}, "KAFKA_SASL_MECHANISM='GSSAPI'"),
        (SASL | {"SASL_MECHANISM": ""}, "SASL_SSL needs KAFKA_SASL_MECHANISM"),
        (SASL | {"SASL_USERNAME": ""}, "SASL_SSL needs KAFKA_SASL_USERNAME"),
        (SASL | {"SASL_PASSWORD": ""}, "SASL_SSL needs KAFKA_SASL_PASSWORD"),
        (SASL | {"SECURITY_PROTOCOL": "SSL"}, "KAFKA_SASL_MECHANISM has no effect with KAFKA_SECURITY_PROTOCOL=SSL"),
        (SASL | {"SECURITY_PROTOCOL": ""}, "KAFKA_SASL_MECHANISM has no effect with KAFKA_SECURITY_PROTOCOL=PLAINTEXT"),
        ({"SSL_CA_LOCATION": "/etc/ca.pem"}, "KAFKA_SSL_CA_LOCATION has no effect with .*=PLAINTEXT"),
        ({"SSL_ENDPOINT_IDENTIFICATION": "none"}, "KAFKA_SSL_ENDPOINT_IDENTIFICATION has no effect"),
        (
            SASL | {"SSL_CA_LOCATION": "/nowhere/ca.pem"},
            "KAFKA_SSL_CA_LOCATION=/nowhere/ca.pem: cannot be read",
        ),
        (SASL | {"SSL_KEY_LOCATION": "/k"}, "KAFKA_SSL_KEY_LOCATION needs KAFKA_SSL_CERTIFICATE_LOCATION"),
        (SASL | {"SSL_CERTIFICATE_LOCATION": "/c"}, "KAFKA_SSL_CERTIFICATE_LOCATION needs KAFKA_SSL_KEY_LOCATION"),
        (SASL | {"SSL_KEY_PASSWORD": "k"}, "KAFKA_SSL_KEY_PASSWORD is set, but no KAFKA_SSL_KEY_LOCATION"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_name(named: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        brokers_of(settings(**named))
    assert SECRET not in str(raised.value)
