"""Environment → how a service or a command reaches its brokers."""

from pathlib import Path
from typing import Literal

import msgspec

from driftloop.common.kafka.config import Brokers
from driftloop.common.settings import Secret, SettingsError, variable

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the brokers are, and how they know us and we know them. A part of a service's settings."""

    kafka_bootstrap_servers: str
    kafka_security_protocol: Protocol = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: Secret | None = None
    # PEM files: who signed the brokers' certificates (else whom the system trusts), and our own certificate.
    kafka_ssl_ca_location: Path | None = None
    kafka_ssl_certificate_location: Path | None = None
    kafka_ssl_key_location: Path | None = None
    kafka_ssl_key_password: Secret | None = None
    # Whether a broker's certificate must be for the name that it is reached by; `none` lets any that is trusted pass.
    kafka_ssl_endpoint_identification: Literal["https", "none"] = "https"


def brokers_of(settings: KafkaSettings) -> Brokers:
    """The brokers that the settings name. Raises SettingsError where settings contradict each other or a file lacks."""
    protocol = settings.kafka_security_protocol
    sasl, tls = protocol.startswith("SASL_"), protocol.endswith("SSL")
    _complete(settings, sasl, tls)
    client: dict[str, str] = {"security.protocol": protocol}
    if sasl:
        client["sasl.mechanism"] = settings.kafka_sasl_mechanism or ""
        client["sasl.username"] = settings.kafka_sasl_username or ""
        client["sasl.password"] = _secret(settings.kafka_sasl_password)
    if tls:
        client["ssl.endpoint.identification.algorithm"] = settings.kafka_ssl_endpoint_identification
        for name, key in (
            ("kafka_ssl_ca_location", "ssl.ca.location"),
            ("kafka_ssl_certificate_location", "ssl.certificate.location"),
            ("kafka_ssl_key_location", "ssl.key.location"),
        ):
            if (path := getattr(settings, name)) is not None:
                client[key] = _readable(name, path)
        if settings.kafka_ssl_key_password is not None:
            client["ssl.key.password"] = settings.kafka_ssl_key_password.value
    return Brokers(settings.kafka_bootstrap_servers, client)


def _complete(settings: KafkaSettings, sasl: bool, tls: bool) -> None:
    """Raises SettingsError where something is set that has no effect, or lacks what it needs."""
    protocol = f"KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol}"
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if name.startswith("kafka_sasl_"):
            if sasl and value is None:
                raise SettingsError(f"{protocol} needs {variable(name)}: set it, or take a protocol without SASL")
            if not sasl and value is not None:
                raise SettingsError(
                    f"{variable(name)} has no effect with {protocol}: take SASL_SSL or SASL_PLAINTEXT, or leave it out"
                )
        elif name.startswith("kafka_ssl_") and not tls and value not in (None, "https"):
            raise SettingsError(
                f"{variable(name)} has no effect with {protocol}: take SSL or SASL_SSL, or leave it out"
            )
    certificate, key = settings.kafka_ssl_certificate_location, settings.kafka_ssl_key_location
    if (certificate is None) != (key is None):
        given, lacking = ("certificate", "key") if key is None else ("key", "certificate")
        raise SettingsError(f"KAFKA_SSL_{given.upper()}_LOCATION needs KAFKA_SSL_{lacking.upper()}_LOCATION: set both")
    if settings.kafka_ssl_key_password is not None and key is None:
        raise SettingsError("KAFKA_SSL_KEY_PASSWORD is set, but no KAFKA_SSL_KEY_LOCATION: set both, or neither")


def _readable(name: str, path: Path) -> str:
    try:
        with path.open("rb"):
            return str(path)
    except OSError as error:
        raise SettingsError(f"{variable(name)}={path}: cannot be read: {error.strerror}") from error


def _secret(secret: Secret | None) -> str:
    return "" if secret is None else secret.value
