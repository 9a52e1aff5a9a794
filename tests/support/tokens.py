"""An issuer of tokens for tests: its keys, its key set, and what it signs."""

import json
import time
import warnings
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from driftloop.common.access.jwt import ALGORITHMS

ISSUER, AUDIENCE = "https://issuer.example", "driftloop"
PRIVATE: dict[str, Any] = {
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
FORMS: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}


def jwk(algorithm: str, key: Any = None, **members: Any) -> dict[str, Any]:
    """The public half as an issuer publishes it."""
    found: dict[str, Any] = FORMS[algorithm].to_jwk((key or PRIVATE[algorithm]).public_key(), as_dict=True)
    return found | {"kid": algorithm} | members


def key_set(*members: dict[str, Any]) -> bytes:
    """A JSON Web Key Set of these keys, of one for each algorithm by default."""
    return json.dumps({"keys": members or [jwk(algorithm) for algorithm in ALGORITHMS]}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims with changes; None leaves a claim out."""
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "clinic", "exp": time.time() + 600, "scope": "openid predict"}
    return {name: value for name, value in (said | changes).items() if value is not None}


def token(algorithm: str = "RS256", key: Any = None, header: dict[str, Any] | None = None, **changes: Any) -> bytes:
    """A signed token with these claims."""
    headers = {"kid": algorithm} if header is None else header
    with warnings.catch_warnings(action="ignore"):  # the library warns of keys that are weak on purpose
        return jwt.encode(claims(**changes), key or PRIVATE[algorithm], algorithm, headers).encode()
