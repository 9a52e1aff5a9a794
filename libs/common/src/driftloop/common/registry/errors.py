"""Why an artifact cannot be written, or must not be used."""

from typing import ClassVar

# What else may have become of files that are not there.
DELETED = "that the trainer did not delete it (`files_deleted_at` in its list of versions): then serve another version"


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


class StoreForbidden(StoreUnavailable):
    """The store does not let us in. Still worth another try: rights are mended without a new version."""

    reason = "forbidden"


class ArtifactConflict(ArtifactError):
    """The version exists already with other content; a version is immutable."""

    reason = "conflict"


def conflict(model: str, version: int) -> ArtifactConflict:
    """What whoever writes a version is told where another is in its place."""
    return ArtifactConflict(
        f"version {version} of model {model!r} is there already with other or incomplete content: a version never"
        " changes, register this one under the next number"
    )
