"""Environment → access control of a service."""

import logging
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from driftloop.common.access.checking import Access
from driftloop.common.access.jwks import IssuerKeys, KeysUnavailable, fetcher
from driftloop.common.access.jwt import ALGORITHMS, Algorithm, Rules, Tokens
from driftloop.common.access.keyfile import ApiKeyFileError
from driftloop.common.access.keyring import KeyRing
from driftloop.common.access.rate import RateLimit
from driftloop.common.logs import LogSettings
from driftloop.common.settings import SettingsError, variable

logger = logging.getLogger(__name__)


class AccessSettings(LogSettings, frozen=True, kw_only=True):
    """Who may call a service, and how often; and its log. A service's settings inherit these."""

    # Only `off`, said so, lets anybody in.
    access: Literal["on", "off"] = "on"
    # The file that `driftloop api-keys` makes.
    api_keys: Path | None = None
    # Tokens: who signs them, for whom they must be, and where the signer's public keys are, an https URL or a file.
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_jwks: str | None = None
    jwt_algorithms: tuple[Algorithm, ...] = ALGORITHMS
    jwt_leeway_seconds: Annotated[float, Meta(ge=0, le=300)] = 30.0
    # Requests a second of one caller to one worker, 0 for any number; and how many at once.
    rate_limit: Annotated[float, Meta(ge=0)] = 0.0
    rate_burst: Annotated[float, Meta(ge=1)] = 100.0


def build_access(settings: AccessSettings) -> Access:
    """The access control that the settings ask for. Its workers must run with the service. Raises SettingsError."""
    if settings.access == "off":
        logger.warning("access control is off: whoever reaches this port may do everything")
        return Access.off()
    ring = None if settings.api_keys is None else _ring(settings.api_keys)
    tokens, workers = _tokens(settings)
    if ring is None and tokens is None:
        raise SettingsError(
            f"{variable('api_keys')} is not set: make a key with"
            " `driftloop api-keys create --file FILE --name NAME --scope SCOPE` and name its file, or set"
            f" {variable('jwt_issuer')}; {variable('access')}=off would let anybody in"
        )
    return Access(ring, tokens, workers)


def build_rate_limit(settings: AccessSettings) -> RateLimit | None:
    """The limit that the settings ask for, None for none."""
    return RateLimit(settings.rate_limit, settings.rate_burst) if settings.rate_limit else None


def _ring(path: Path) -> KeyRing:
    try:
        return KeyRing(path)
    except ApiKeyFileError as error:
        raise SettingsError(f"{variable('api_keys')}={error}") from error


def _tokens(settings: AccessSettings) -> tuple[Tokens | None, tuple[IssuerKeys, ...]]:
    given = {name: getattr(settings, name) for name in ("jwt_issuer", "jwt_audience", "jwt_jwks")}
    if not any(given.values()):
        return None, ()
    missing = [variable(name) for name, value in given.items() if not value]
    if missing:
        raise SettingsError(f"{' and '.join(missing)} must be set, too, where tokens are taken: set them, or none")
    if not settings.jwt_algorithms:
        raise SettingsError(f"{variable('jwt_algorithms')} has none: name some of {', '.join(ALGORITHMS)}")
    keys = IssuerKeys(fetcher(given["jwt_jwks"]), settings.jwt_algorithms)
    if "://" not in given["jwt_jwks"]:
        # A file is there at the start, or never. An issuer may be away for a while.
        try:
            keys.refresh()
        except KeysUnavailable as error:
            raise SettingsError(str(error)) from error
    rules = Rules(given["jwt_issuer"], given["jwt_audience"], settings.jwt_leeway_seconds)
    return Tokens(rules, keys), (keys,)
