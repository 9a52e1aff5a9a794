"""Environment → the HL7 v2 door."""

import logging
import ssl
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from msgspec import Meta

from driftloop.common.access.settings import AccessSettings
from driftloop.common.process import listen
from driftloop.common.settings import SettingsError, variable
from driftloop.label_ingest.hl7.meaning import Place, Rules
from driftloop.label_ingest.hl7.mllp import Bounds, MllpServer
from driftloop.label_ingest.hl7.receiving import Receiver
from driftloop.label_ingest.hl7.syntax import CHARACTER_SETS
from driftloop.label_ingest.reports import Reports

logger = logging.getLogger(__name__)


# A settings type has one base: these go on from who may call.
class MllpSettings(AccessSettings, frozen=True, kw_only=True):
    """How laboratories reach label-ingest by HL7 v2. A service's settings inherit these; without a port it is off."""

    mllp_port: Annotated[int, Meta(ge=0, le=65535)] | None = None
    mllp_host: str = "127.0.0.1"
    # PEM files. With a certificate every connection is TLS; with a client CA clients must show a certificate of it.
    mllp_tls_certificate: Path | None = None
    mllp_tls_key: Path | None = None
    mllp_tls_client_ca: Path | None = None
    # What holds for a message that does not say it: the zone of its times, and its character set (HL7 table 0211).
    mllp_time_zone: str = "UTC"
    mllp_character_set: str = "UNICODE UTF-8"
    # The first of these that is filled names the order.
    mllp_order_fields: tuple[str, ...] = ("OBR-2.1", "ORC-2.1", "OBR-3.1", "OBR-18")
    # MSH-11: T and D are for an installation that is itself a test.
    mllp_processing_ids: tuple[str, ...] = ("P",)
    mllp_max_bytes: Annotated[int, Meta(ge=1024, le=16 * 1024 * 1024)] = 1_048_576
    mllp_max_connections: Annotated[int, Meta(ge=1, le=10_000)] = 64
    # How long a connection may be silent, and how long a message may take from its first byte to its last.
    mllp_idle_seconds: Annotated[float, Meta(gt=0)] = 3600.0
    mllp_message_seconds: Annotated[float, Meta(gt=0)] = 30.0


def build_mllp(settings: MllpSettings, reports: Reports, analytes: frozenset[str] | None = None) -> MllpServer | None:
    """The server that the settings ask for, its port bound; None if they ask for none. Raises SettingsError.

    It is a worker of the service. OBX segments whose LOINC code is not among `analytes` are ignored; None: none are.
    """
    if settings.mllp_port is None:
        return None
    rules, context = _rules(settings, analytes), _tls(settings)
    bounds = Bounds(
        settings.mllp_max_bytes,
        settings.mllp_max_connections,
        settings.mllp_idle_seconds,
        settings.mllp_message_seconds,
    )
    try:
        sockets = listen(settings.mllp_host, settings.mllp_port)
    except OSError as error:
        raise SettingsError(f"{variable('mllp_port')}={settings.mllp_port}: {error}") from error
    server = MllpServer(sockets, Receiver(reports, rules), bounds, context)
    if (note := server.note()) is not None:
        logger.warning("%s: set %s", note, variable("mllp_tls_client_ca"))
    return server


def _rules(settings: MllpSettings, analytes: frozenset[str] | None) -> Rules:
    try:
        zone = ZoneInfo(settings.mllp_time_zone)
    except (KeyError, ValueError, OSError) as error:
        raise SettingsError(
            f"{variable('mllp_time_zone')}={settings.mllp_time_zone!r}: no such time zone: name one like Europe/Berlin"
        ) from error
    if settings.mllp_character_set not in CHARACTER_SETS:
        raise SettingsError(
            f"{variable('mllp_character_set')}={settings.mllp_character_set!r}: not taken: name one of"
            f" {', '.join(CHARACTER_SETS)}"
        )
    try:
        places = tuple(Place.named(text) for text in settings.mllp_order_fields)
    except ValueError as error:
        raise SettingsError(f"{variable('mllp_order_fields')}: {error}") from error
    return Rules(zone, settings.mllp_character_set, places, settings.mllp_processing_ids, analytes)


def _tls(settings: MllpSettings) -> ssl.SSLContext | None:
    certificate, key, authority = (
        settings.mllp_tls_certificate,
        settings.mllp_tls_key,
        settings.mllp_tls_client_ca,
    )
    if certificate is None:
        for name, path in (("mllp_tls_key", key), ("mllp_tls_client_ca", authority)):
            if path is not None:
                raise SettingsError(
                    f"{variable(name)}={path}: {variable('mllp_tls_certificate')} is not set: set it, too, or neither"
                )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for name, path in (("mllp_tls_certificate", certificate), ("mllp_tls_key", key), ("mllp_tls_client_ca", authority)):
        if path is not None:
            _readable(name, path)
    try:
        # Without a password of ours an encrypted key would have the process ask its terminal for one.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise SettingsError(
            f"{variable('mllp_tls_certificate')}={certificate}, {variable('mllp_tls_key')}={key}: not a certificate in"
            f" PEM with its private key, unencrypted ({_reason(error)})"
        ) from error
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except (ssl.SSLError, OSError) as error:
            raise SettingsError(
                f"{variable('mllp_tls_client_ca')}={authority}: not a certificate in PEM ({_reason(error)})"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _readable(name: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable(name)}={path}: cannot be read ({error.strerror})") from error


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or type(error).__name__
