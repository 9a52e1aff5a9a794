"""A published state becomes what serves; what cannot serve is refused, and what serves goes on."""

import weakref
from collections.abc import Callable

import msgspec
import pytest
from opentelemetry.trace import SpanKind
from prometheus_client import REGISTRY

from driftloop.common.events import ServedVersion
from driftloop.common.registry import ArtifactMissing, DigestMismatch, SignatureInvalid
from driftloop.predictor.domain.model import LoadedModel, UnusableModel, load_model
from driftloop.predictor.domain.revisions import Revisions
from driftloop.predictor.handlers import apply_newest
from driftloop.predictor.serving import Replica
from tests.support.artifacts import small_bundle
from tests.support.collector import recording
from tests.unit.predictor.builders import DIABETES, NOW, artifact, serving, state

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def load(served: ServedVersion) -> LoadedModel:
    return load_model(small_bundle(DIABETES, served.version), DIABETES)


def failing(error: Exception) -> Callable[[ServedVersion], LoadedModel]:
    def fail(_served: ServedVersion) -> LoadedModel:
        raise error

    return fail


def replica(*, model: str = "diabetes") -> Replica:
    found = Replica(model, "replica-1", NOW)
    found.serving, found.unread = serving(DIABETES), None
    return found


def offered(*numbers: int, applied: int = 1) -> Revisions:
    revisions = Revisions()
    revisions.apply(applied)
    for number in numbers:
        revisions.offer(state(number))
    return revisions


def apply(found: Replica, revisions: Revisions, how: Callable[[ServedVersion], LoadedModel] = load) -> bool:
    return apply_newest(found, revisions, how, lambda: NOW)


def test_the_newest_revision_serves() -> None:
    found = replica()
    assert apply(found, offered(2, 3))
    assert found.serving is not None
    assert (found.serving.revision, found.serving.champion.model.version) == (3, 3)


def test_a_revision_is_applied_in_the_trace_in_which_it_came() -> None:
    revisions = offered()
    revisions.offer(state(2), TRACE)
    revisions.offer(state(3), "no context")
    with recording() as spans:
        apply(replica(), revisions, failing(UnusableModel("opset", "23 is too new")))
    refused, tried = spans.get_finished_spans()
    assert refused.parent is None
    assert tried.parent is not None
    assert f"{tried.parent.trace_id:032x}" in TRACE
    assert (tried.name, tried.kind) == ("process model-updates", SpanKind.CONSUMER)
    said = dict(tried.attributes or {})
    assert (said["driftloop.model.revision"], said["error.type"]) == (2, "UnusableModel")


def test_with_nothing_new_there_is_nothing_to_report() -> None:
    assert not apply(replica(), offered())


def test_of_several_revisions_only_the_one_that_serves_is_loaded() -> None:
    loaded: list[int] = []

    def count(served: ServedVersion) -> LoadedModel:
        loaded.append(served.version)
        return load(served)

    apply(replica(), offered(2, 3, 4), count)
    assert loaded == [4]


def test_a_new_revision_of_the_version_that_serves_loads_nothing() -> None:
    found = replica()
    revisions = offered()
    revisions.offer(state(2, version=1))
    assert apply(found, revisions, failing(AssertionError("it was loaded")))
    assert found.serving is not None
    assert (found.serving.revision, found.serving.champion.model.version) == (2, 1)


def test_the_same_version_from_another_artifact_is_loaded() -> None:
    found = replica()
    revisions = offered()
    other = ServedVersion(version=1, artifact=artifact(7))
    revisions.offer(msgspec.structs.replace(state(2, version=1), versions=(other,)))
    old = found.serving
    apply(found, revisions)
    assert old is not None
    assert found.serving is not None
    assert found.serving.champion.model is not old.champion.model


def test_the_old_session_is_released_after_the_swap() -> None:
    found = replica()
    assert found.serving is not None
    session = weakref.ref(found.serving.champion.model.session)
    apply(found, offered(2))
    assert session() is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (SignatureInvalid("no trusted key"), "signature"),
        (DigestMismatch("other bytes"), "digest"),
        (UnusableModel("operator", "'Loop' is not allowed"), "operator"),
        (MemoryError(), "loader"),
    ],
)
def test_what_cannot_serve_leaves_the_old_one_and_says_why(error: Exception, reason: str) -> None:
    found = replica()
    apply(found, offered(2), failing(error))
    status = found.status(lambda: NOW)
    assert (status.revision, status.model_version, status.refused_revision) == (1, 1, 2)
    assert (status.error or "").startswith(f"{reason}: ")


def test_a_replica_that_refuses_a_revision_is_ready_and_makes_a_note() -> None:
    found = replica()
    apply(found, offered(2), failing(SignatureInvalid("no trusted key")))
    assert found.problem() is None
    assert found.note() == "revision 2 is refused: signature: no trusted key"


def test_a_refusal_is_counted_by_its_reason() -> None:
    labels = {"model_name": "counted", "reason": "signature"}
    apply(replica(model="counted"), offered(2), failing(SignatureInvalid("no trusted key")))
    assert REGISTRY.get_sample_value("driftloop_model_updates_refused_total", labels) == 1


def test_what_is_refused_for_good_is_not_tried_again() -> None:
    found, revisions = replica(), offered(2)
    apply(found, revisions, failing(SignatureInvalid("no trusted key")))
    assert not apply(found, revisions)


def test_what_is_not_there_yet_is_tried_again() -> None:
    revisions = offered(2)
    apply(replica(), revisions, failing(ArtifactMissing("not there")))
    assert revisions.next(float("inf")) == state(2)


def test_a_champion_that_the_state_does_not_carry_is_refused() -> None:
    found, revisions = replica(), offered()
    revisions.offer(msgspec.structs.replace(state(2), versions=()))
    apply(found, revisions)
    assert (found.status(lambda: NOW).error or "").startswith("state: it carries no version 2")


def test_below_a_bad_revision_a_good_one_serves_and_the_bad_one_is_still_told_of() -> None:
    def only_three(served: ServedVersion) -> LoadedModel:
        if served.version > 3:
            raise SignatureInvalid("no trusted key")
        return load(served)

    found = replica()
    apply(found, offered(2, 3, 4), only_three)
    status = found.status(lambda: NOW)
    assert (status.revision, status.refused_revision) == (3, 4)


def test_a_newer_revision_that_serves_ends_the_note() -> None:
    found, revisions = replica(), offered(2)
    apply(found, revisions, failing(SignatureInvalid("no trusted key")))
    revisions.offer(state(3))
    apply(found, revisions)
    assert found.note() is None


def test_a_replica_without_a_model_says_so() -> None:
    found = Replica("diabetes", "replica-1", NOW)
    assert found.problem() == "no broker has been reached yet"
    found.unread = None
    assert "trainer train" in (found.problem() or "")
    assert (found.status(lambda: NOW).revision, found.status(lambda: NOW).model_version) == (0, 0)
