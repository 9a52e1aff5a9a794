"""Names under which patients and orders are known inside: keyed, so that only who holds the key can tell whose.

The predictor gives them to what it logs, label-ingest to what laboratories report; both must hold the same key.
"""

import hashlib
import hmac

from driftloop.common.settings import Secret, SettingsError, variable

CHARACTERS = 32
MIN_KEY_CHARACTERS = 16


def pseudonym(key: bytes, patient_id: str) -> str:
    """The name of a patient: HMAC-SHA256, 32 hexadecimal digits, the same wherever the key is."""
    return hmac.digest(key, patient_id.encode(), "sha256").hex()[:CHARACTERS]


def order_pseudonym(key: bytes, order_id: str) -> str:
    """The name of an order or accession number; under a key of its own, so that it tells nothing of a patient's."""
    return pseudonym(derived_key(key, "orders"), order_id)


def key_bytes(key: Secret) -> bytes:
    """The key that the setting `pseudonym_key` holds. Raises SettingsError where it is too short."""
    if len(key.value) < MIN_KEY_CHARACTERS:
        raise SettingsError(
            f"{variable('pseudonym_key')} has {len(key.value)} characters: use at least {MIN_KEY_CHARACTERS} random "
            "ones, the same for every replica of the predictor and of label-ingest"
        )
    return key.value.encode()


def derived_key(key: bytes, purpose: str) -> bytes:
    """A key for one purpose, from which the others' cannot be told."""
    return hmac.digest(key, b"driftloop " + purpose.encode(), hashlib.sha256)
