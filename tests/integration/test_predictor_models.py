"""How a model gets into a predictor: the newest valid one serves, a bad one never, and no request is dropped."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import msgspec
import pytest

from driftloop.common.events import ArtifactRef, ModelStatus
from driftloop.common.topics import MODEL_UPDATES
from driftloop.devstack.processes import ServiceProcess
from tests.support.artifacts import small_bundle
from tests.support.bad_bodies import ROW
from tests.support.house import House
from tests.support.predictors import DIABETES, LOAN, Asked, asking, metric, predictor, statuses
from tests.support.waiting import wait_until

MODEL = DIABETES.name


def register(house: House, version: int) -> ArtifactRef:
    return house.register(small_bundle(DIABETES, version))


def serve(house: House, revision: int) -> None:
    """Publish a revision whose champion is a good version of the same number."""
    house.serve(revision, register(house, revision), MODEL, revision)


def version_folder(house: House, version: int) -> Path:
    return house.folder / "artifacts" / MODEL / str(version)


def started(house: House) -> tuple[ServiceProcess, str]:
    """A ready predictor that serves version 1."""
    serve(house, 1)
    process, url = predictor(house)
    process.wait_ready()
    return process, url


def version(url: str) -> int:
    return int(httpx.post(f"{url}/v1/predict", json=ROW, timeout=10).json()["model_version"])


def more_than(asked: Asked, count: int) -> Callable[[], bool]:
    return lambda: len(asked.all) > count


def wait_for_version(url: str, wanted: int) -> None:
    wait_until(lambda: version(url) == wanted, f"version {wanted}")


def wait_for_refusal(house: House, revision: int) -> ModelStatus:
    def look() -> ModelStatus | None:
        return next((one for one in statuses(house) if one.refused_revision == revision), None)

    return wait_until(look, f"the refusal of revision {revision}")


def test_reloads_drop_no_request_and_every_answer_is_of_a_current_version(house: House) -> None:
    serve(house, 1)
    processes = [predictor(house, name) for name in ("predictor-1", "predictor-2")]
    for process, _url in processes:
        process.wait_ready()
    urls = [url for _process, url in processes]
    with asking(urls) as asked:
        for revision in range(2, 9):
            serve(house, revision)
            wait_until(more_than(asked, len(asked.all) + 20), "answers between two revisions")
        for url in urls:
            wait_for_version(url, 8)
    assert asked.broken == []
    assert {answer.status_code for answer in asked.all} == {200}
    for answers in asked.answers.values():
        seen = [(answer.json()["revision"], answer.json()["model_version"]) for answer in answers]
        assert seen == sorted(seen)
        assert {revision - number for revision, number in seen} == {0}


def test_a_new_version_serves_without_a_restart(house: House) -> None:
    _process, url = started(house)
    serve(house, 2)
    wait_for_version(url, 2)


def test_a_replica_that_starts_serves_the_newest_revision(house: House) -> None:
    for revision in (1, 2, 3):
        serve(house, revision)
    # What the trainer leaves of old revisions, and compaction with it.
    house.produce(MODEL_UPDATES, None, key=f"{MODEL}/1")
    process, url = predictor(house)
    process.wait_ready()
    assert version(url) == 3


def test_a_replica_that_is_killed_serves_the_newest_revision_again(house: House) -> None:
    process, url = started(house)
    serve(house, 2)
    wait_for_version(url, 2)
    process.kill()
    serve(house, 3)
    process.start()
    process.wait_ready()
    assert version(url) == 3


def test_a_replica_says_at_each_change_what_it_serves(house: House) -> None:
    process, url = started(house)
    serve(house, 2)
    wait_for_version(url, 2)
    found = wait_until(lambda: [one for one in statuses(house) if one.revision == 2], "a status")
    assert (found[0].model_name, found[0].model_version, found[0].error) == (MODEL, 2, None)
    assert metric(process, "driftloop_model_revision", model_name=MODEL) == 2
    assert metric(process, "driftloop_model_version", model_name=MODEL) == 2


def test_a_replica_says_every_so_often_what_it_serves(house: House) -> None:
    serve(house, 1)
    process, _url = predictor(house, STATUS_SECONDS="0.2")
    process.wait_ready()
    wait_until(lambda: len(statuses(house)) >= 3, "three statuses")


def tampered(house: House) -> ArtifactRef:
    ref = register(house, 2)
    path = version_folder(house, 2) / "model.onnx"
    path.write_bytes(small_bundle(DIABETES, 2, weight=0.2).model)
    return ref


def badly_signed(house: House) -> ArtifactRef:
    ref = register(house, 2)
    return msgspec.structs.replace(ref, signature=ref.signature[::-1])


def signed_by_a_stranger(house: House) -> ArtifactRef:
    return msgspec.structs.replace(register(house, 2), key_id="0" * 16)


def of_another_version(house: House) -> ArtifactRef:
    return register(house, 3)


def no_onnx(house: House) -> ArtifactRef:
    return house.register(msgspec.structs.replace(small_bundle(DIABETES, 2), model=b"\x80\x04pickle"))


def with_other_answers(house: House) -> ArtifactRef:
    other = small_bundle(DIABETES, 2, weight=-0.1)
    return house.register(msgspec.structs.replace(small_bundle(DIABETES, 2), known_answers=other.known_answers))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (tampered, "digest"),
        (badly_signed, "signature"),
        (signed_by_a_stranger, "signature"),
        (of_another_version, "signature"),
        (no_onnx, "not_onnx"),
        (with_other_answers, "known_answers"),
    ],
)
def test_a_bad_artifact_never_serves_and_is_reported(
    house: House, bad: Callable[[House], ArtifactRef], reason: str
) -> None:
    process, url = started(house)
    house.serve(2, bad(house), MODEL, 2)
    status = wait_for_refusal(house, 2)
    assert (status.revision, status.model_version) == (1, 1)
    assert (status.error or "").startswith(f"{reason}: ")
    assert version(url) == 1
    readiness = httpx.get(f"http://127.0.0.1:{process.management_port}/readyz")
    assert readiness.status_code == 200
    assert readiness.json()["notes"]["model"].startswith(f"revision 2 is refused: {reason}: ")
    assert metric(process, "driftloop_model_updates_refused_total", reason=reason) == 1


def test_after_a_bad_revision_the_next_good_one_serves(house: House) -> None:
    process, url = started(house)
    house.serve(2, badly_signed(house), MODEL, 2)
    wait_for_refusal(house, 2)
    serve(house, 4)
    wait_for_version(url, 4)
    assert process.problem() is None
    # What was refused is forgotten a moment after the good one serves.
    readyz = f"http://127.0.0.1:{process.management_port}/readyz"
    wait_until(lambda: "notes" not in httpx.get(readyz).json(), "that nothing is noted")


def test_a_replica_that_starts_below_a_bad_revision_serves_the_good_one(house: House) -> None:
    serve(house, 1)
    house.serve(2, badly_signed(house), MODEL, 2)
    process, url = predictor(house)
    process.wait_ready()
    assert version(url) == 1


def test_an_artifact_that_comes_late_serves_without_another_record(house: House) -> None:
    _process, url = started(house)
    ref = register(house, 2)
    elsewhere = house.folder / "elsewhere"
    shutil.move(version_folder(house, 2), elsewhere)
    house.serve(2, ref, MODEL, 2)
    assert (wait_for_refusal(house, 2).error or "").startswith("missing: ")
    shutil.move(elsewhere, version_folder(house, 2))
    wait_for_version(url, 2)


def test_garbage_on_the_topic_changes_nothing(house: House) -> None:
    process, url = started(house)
    serve(house, 2)
    wait_for_version(url, 2)
    good = house.records(MODEL_UPDATES)[-1]
    assert good.value is not None
    loan = house.register(small_bundle(LOAN))
    house.produce(MODEL_UPDATES, b"garbage", key=f"{MODEL}/9")
    house.produce(MODEL_UPDATES, b"{}", key=f"{MODEL}/9")
    house.produce(MODEL_UPDATES, good.value, key=f"{MODEL}/9")
    house.produce(MODEL_UPDATES, good.value, key=f"{MODEL}/9", headers=[("ce_type", b"driftloop.Nothing")])
    house.produce(MODEL_UPDATES, None, key=f"{MODEL}/9")
    house.produce(MODEL_UPDATES, b"\xff" * 1000, key="garbage")
    house.serve(9, loan, LOAN.name, 1)
    serve(house, 1)
    serve(house, 2)
    # Read in order: when this one serves, the others have been seen.
    house.serve(3, register(house, 2), MODEL, 2)
    wait_until(lambda: metric(process, "driftloop_model_revision", model_name=MODEL) == 3, "revision 3")
    assert version(url) == 2
    reasons = {
        reason: metric(process, "driftloop_model_updates_refused_total", reason=reason)
        for reason in ("value", "schema", "key", "headers")
    }
    assert reasons == {"value": 1, "schema": 1, "key": 1, "headers": 1}


def test_a_store_that_hangs_hides_nothing_and_holds_up_nothing(house: House) -> None:
    serve(house, 1)
    process, url = predictor(house, module="tests.support.hanging_store")
    process.wait_ready()
    hanging = msgspec.structs.replace(register(house, 2), uri=f"hanging://{version_folder(house, 2)}")
    sign = version_folder(house, 2) / "hangs"
    sign.touch()
    house.serve(2, hanging, MODEL, 2)
    # The last good one serves, and everybody is told why.
    status = wait_for_refusal(house, 2)
    assert "has not come within" in (status.error or "")
    assert version(url) == 1
    notes = httpx.get(f"http://127.0.0.1:{process.management_port}/readyz", timeout=10).json()["notes"]
    assert "revision 2 is refused: unavailable" in notes["model"]
    assert metric(process, "driftloop_model_updates_refused_total", reason="unavailable") == 1
    # What does not hang is not held up by what does.
    serve(house, 3)
    wait_for_version(url, 3)
    sign.unlink()
    house.serve(4, hanging, MODEL, 2)
    wait_for_version(url, 2)
