"""A broker of a test's own that lets in only whom it knows, by certificate or by password, and encrypts."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclPermissionType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from driftloop.common.kafka.admin import admin_client
from driftloop.devstack import kafka, server
from driftloop.devstack.model import Progress, silent
from driftloop.devstack.server import Ports
from tests.support.certificates import Authority, Certified

USER, PASSWORD = "driftloop", "a password of the broker's tests"
# One who may do nothing but what a test allows; the others may do everything.
LIMITED = "limited"
# Listener → its protocol, beside the one that a stack has anyway.
LISTENERS = {"password": "SASL_SSL", "certificate": "SSL"}
_MODULES = {
    "plain": f'plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
    "scram-sha-256": "scram.ScramLoginModule required;",
    "scram-sha-512": "scram.ScramLoginModule required;",
}


@dataclass(frozen=True)
class SecuredBroker:
    """Where it is, for everybody and for whom it knows, who signed its certificate, and a client's own."""

    open_to_all: str
    ports: Ports
    authority: Authority
    client: Certified

    def allow(self, acls: Sequence[Mapping[str, Any]]) -> None:
        """Give the limited user rights, as Strimzi's `KafkaUser` writes them."""
        rights = [
            AclBinding(
                ResourceType.BROKER if one["resource"]["type"] == "cluster" else one["resource"]["type"],
                one["resource"].get("name", "kafka-cluster"),
                {"prefix": "PREFIXED"}.get(one["resource"].get("patternType", ""), "LITERAL"),
                f"User:{LIMITED}",
                "*",
                re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation),
                AclPermissionType.ALLOW,
            )
            for one in acls
            for operation in one["operations"]
        ]
        for future in admin_client(self.open_to_all).create_acls(rights).values():
            future.result(30)

    def environment(self, listener: str, host: str = "127.0.0.1", **changed: str) -> dict[str, str]:
        """The settings that reach one of its listeners; those that are changed by their names without KAFKA_."""
        own = {
            "BOOTSTRAP_SERVERS": f"{host}:{self.ports[listener]}",
            "SSL_CA_LOCATION": str(self.authority.certificate),
        }
        own["SECURITY_PROTOCOL"] = LISTENERS[listener]
        if listener == "password":
            own |= {"SASL_MECHANISM": "SCRAM-SHA-512", "SASL_USERNAME": USER, "SASL_PASSWORD": PASSWORD}
        else:
            own |= {"SSL_CERTIFICATE_LOCATION": str(self.client.certificate), "SSL_KEY_LOCATION": str(self.client.key)}
        return {f"KAFKA_{name}": value for name, value in (own | changed).items()}


@contextmanager
def secured_broker(folder: Path, key_password: str) -> Iterator[SecuredBroker]:
    """The broker for the time of a block; the client's key is encrypted."""
    authority = Authority(folder, "brokers")
    own, client = authority.sign("broker"), authority.sign("client", key_password.encode())
    identity = folder / "identity.pem"
    identity.write_bytes(own.key.read_bytes() + own.certificate.read_bytes())
    plain = kafka.server()
    ports: dict[str, int] = {}

    def prepare(place: Path, chosen: Ports, progress: Progress) -> None:
        ports.update(chosen)
        plain.prepare(place, chosen, progress)
        configuration = place / "server.properties"
        found = dict(line.split("=", 1) for line in configuration.read_text().splitlines())
        found |= _secured(found, chosen, identity, authority.certificate)
        configuration.write_text("".join(f"{name}={value}\n" for name, value in found.items()))

    secured = replace(plain, port_names=(*plain.port_names, *LISTENERS), prepare=prepare)
    address, _new = server.ensure(secured, folder / "kafka", attached=True, progress=silent)
    try:
        _add_users(address)
        yield SecuredBroker(address, ports, authority, client)
    finally:
        server.stop(secured, folder / "kafka", purge=True)


def _secured(properties: Mapping[str, str], ports: Ports, identity: Path, trusted: Path) -> dict[str, str]:
    places = ",".join(f"{name.upper()}://127.0.0.1:{ports[name]}" for name in LISTENERS)
    protocols = ",".join(f"{name.upper()}:{protocol}" for name, protocol in LISTENERS.items())
    changed = {
        "listeners": f"{properties['listeners']},{places}",
        "advertised.listeners": f"{properties['advertised.listeners']},{places}",
        "listener.security.protocol.map": f"{properties['listener.security.protocol.map']},{protocols}",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:ANONYMOUS;User:{USER};User:CN=client",
        "sasl.enabled.mechanisms": ",".join(name.upper() for name in _MODULES),
        "listener.name.certificate.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(identity),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(trusted),
    }
    for mechanism, module in _MODULES.items():
        name = f"listener.name.password.{mechanism}.sasl.jaas.config"
        changed[name] = f"org.apache.kafka.common.security.{module}"
    return changed


def _add_users(address: str) -> None:
    """By the listener that lets anybody in."""
    kinds = (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
    for user, kind in itertools.product((USER, LIMITED), kinds):
        added = UserScramCredentialUpsertion(user, ScramCredentialInfo(kind, 4096), PASSWORD.encode())
        for future in admin_client(address).alter_user_scram_credentials([added]).values():
            future.result(30)
