"""Why an artifact cannot be written, or must not be used."""

from typing import ClassVar


class ArtifactError(Exception):
    """An artifact cannot be used. `reason` is a code for metrics and status, the text names artifact and remedy.

    `transient` says whether the same artifact may be usable later, so that trying again makes sense.
    """

    reason: ClassVar[str]
    transient: ClassVar[bool] = False


class SignatureInvalid(ArtifactError):
    """No trusted key signed this model name, version and digest."""

    reason = "signature"


class DigestMismatch(ArtifactError):
    """The bytes are not those that were signed."""

    reason = "digest"


class ArtifactTooLarge(ArtifactError):
    """The artifact exceeds the size limit."""

    reason = "too_large"


class ArtifactMalformed(ArtifactError):
    """The URI, a file or its content is not of the form that this version of Driftloop reads."""

    reason = "format"


class ArtifactMissing(ArtifactError):
    """The artifact, or a file of it, is not (or not yet) where its URI says."""

    reason = "missing"
    transient = True


class StoreUnavailable(ArtifactError):
    """The store cannot be read or written now."""

    reason = "unavailable"
    transient = True


class ArtifactConflict(ArtifactError):
    """The version exists already with other content; a version is immutable."""

    reason = "conflict"
