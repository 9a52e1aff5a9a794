"""A broker of a test's own that lets in only whom it knows, by certificate or by password, and encrypts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from confluent_kafka.admin import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion

from driftloop.common.kafka.admin import admin_client
from driftloop.devstack import kafka, server
from driftloop.devstack.model import Progress, silent
from driftloop.devstack.server import Ports
from tests.support.certificates import Authority, Certified

USER, PASSWORD = "driftloop", "a password of the broker's tests"
# Listener → its protocol, beside the one that a stack has anyway.
LISTENERS = {"password": "SASL_SSL", "certificate": "SSL"}
_MODULES = {
    "plain": f'plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
    "scram-sha-256": "scram.ScramLoginModule required;",
    "scram-sha-512": "scram.ScramLoginModule required;",
}


@dataclass(frozen=True)
class SecuredBroker:
    """Where it is, who signed its certificate, and a client's own."""

    ports: Ports
    authority: Authority
    client: Certified

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
        _add_user(address)
        yield SecuredBroker(ports, authority, client)
    finally:
        server.stop(secured, folder / "kafka", purge=True)


def _secured(properties: Mapping[str, str], ports: Ports, identity: Path, trusted: Path) -> dict[str, str]:
    places = ",".join(f"{name.upper()}://127.0.0.1:{ports[name]}" for name in LISTENERS)
    protocols = ",".join(f"{name.upper()}:{protocol}" for name, protocol in LISTENERS.items())
    changed = {
        "listeners": f"{properties['listeners']},{places}",
        "advertised.listeners": f"{properties['advertised.listeners']},{places}",
        "listener.security.protocol.map": f"{properties['listener.security.protocol.map']},{protocols}",
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


def _add_user(address: str) -> None:
    """By the listener that lets anybody in."""
    for kind in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        added = UserScramCredentialUpsertion(USER, ScramCredentialInfo(kind, 4096), PASSWORD.encode())
        for future in admin_client(address).alter_user_scram_credentials([added]).values():
            future.result(30)
