"""What the OpenAPI document says is what the predictor does: Schemathesis tries to show otherwise."""

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from driftloop.common.access.issuing import keep_key
from driftloop.common.clock import utc_now
from driftloop.trainer.build import load_baseline
from driftloop.trainer.bundling import bundle
from driftloop.trainer.domain.challenger import first_version
from tests.support.house import House
from tests.support.models import shipped
from tests.support.paths import MODELS
from tests.support.predictors import DIABETES, predictor
from tests.support.waiting import wait_until

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")
CHECKS = ("status_code_conformance", "content_type_conformance", "response_headers_conformance",
          "response_schema_conformance")  # fmt: skip
SECONDS = 250


def statuses(url: str, key: str, document: Path, examples: int = 3) -> set[int]:
    """Ask all that the document knows, as it wants it and otherwise; which statuses were the answers.

    An answer that the document does not know fails the test.
    """
    har = document.with_name("har.json")
    command = [
        str(SCHEMATHESIS), "run", str(document), "--url", url, "--header", f"X-API-Key: {key}",
        "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples),
        "--generation-deterministic", "--no-color", "--report", "har", "--report-har-path", str(har),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, cwd=document.parent, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return {entry["response"]["status"] for entry in json.loads(har.read_text())["log"]["entries"]}


@pytest.fixture
def asked(house: House) -> tuple[str, str, Path]:
    """A predictor that asks for a key and has no model yet: its URL, a good key, and its document."""
    keys, text, document = (house.folder / name for name in ("keys.json", "key", "openapi.json"))
    keep_key(keys, "tests", ["predict"], text, utc_now())
    process, url = predictor(house, ACCESS="on", API_KEYS=str(keys))
    wait_until(lambda: "trainer train" in (process.problem() or ""), "the end of `model-updates`")
    key = text.read_text()
    document.write_bytes(httpx.get(f"{url}/openapi.json", headers={"X-API-Key": key}).content)
    return url, key, document


def test_with_a_model_no_answer_is_a_500_or_undocumented(house: House, asked: tuple[str, str, Path]) -> None:
    # A real one: the small one of other tests takes no missing values.
    contract = shipped(DIABETES.name).contract
    made = first_version(contract, load_baseline(MODELS / contract.name / "contract.yaml", contract), 1, utc_now())
    house.serve(1, house.register(bundle(contract, made)), contract.name, 1)
    url, key, document = asked
    wait_until(lambda: httpx.get(f"{url}/v1/model", headers={"X-API-Key": key}).status_code == 200, "the model")
    found = statuses(url, key, document, examples=15)
    assert max(found) < 500
    assert found >= {200, 400, 404, 422}


def test_without_a_model_no_answer_is_a_500_or_undocumented(asked: tuple[str, str, Path]) -> None:
    found = statuses(*asked)
    assert 503 in found
    assert 500 not in found


def test_without_a_key_every_answer_is_a_401_and_documented(asked: tuple[str, str, Path]) -> None:
    url, _key, document = asked
    assert statuses(url, "a key of nobody", document) <= {400, 401}
