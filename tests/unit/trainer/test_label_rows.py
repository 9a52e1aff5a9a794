"""The trainer as a client of label-ingest: with which key it comes, and what it says where it is refused."""

import httpx
import pytest

from driftloop.common.settings import Secret, SettingsError, read_settings
from driftloop.trainer.label_rows import RowsUnavailable, fetch_rows, open_client
from driftloop.trainer.settings import Settings
from tests.support.models import shipped

LOAN = shipped("loan").contract
ENVIRONMENT = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "DATABASE_URL": "postgresql://127.0.0.1:1/none",
    "DRIFTLOOP_CONTRACTS": "/nowhere",
    "DRIFTLOOP_ARTIFACTS": "file:///nowhere",
    "DRIFTLOOP_SIGNING_KEY": "/nowhere",
    "DRIFTLOOP_TRUSTED_KEYS": "/nowhere",
}


def refused(status: int) -> str:
    """Why rows are not to be had where label-ingest answers with this status."""
    transport = httpx.MockTransport(lambda _request: httpx.Response(status, json={"detail": "no"}))
    client = httpx.Client(transport=transport, base_url="http://label-ingest")
    with client, pytest.raises(RowsUnavailable) as unavailable:
        fetch_rows(client, LOAN, limit=1, labelled=True)
    return str(unavailable.value)


def test_the_key_is_sent() -> None:
    with open_client("http://label-ingest", Secret("dl_key")) as client:
        assert client.headers["x-api-key"] == "dl_key"


def test_without_a_key_none_is_sent() -> None:
    with open_client("http://label-ingest", None) as client:
        assert "x-api-key" not in client.headers


@pytest.mark.parametrize("key", ["dl_k\u00e9y", "dl_\nkey"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(SettingsError, match="DRIFTLOOP_LABEL_INGEST_KEY has characters") as error:
        open_client("http://label-ingest", Secret(key))
    assert key not in str(error.value)


@pytest.mark.parametrize("status", [401, 403])
def test_who_is_not_let_in_is_told_which_setting_is_wrong(status: int) -> None:
    reason = refused(status)
    assert f"label-ingest at http://label-ingest: it lets the trainer read no rows (status {status})" in reason
    assert "set DRIFTLOOP_LABEL_INGEST_KEY to an API key of scope rows" in reason


def test_any_other_refusal_is_said_as_it_came() -> None:
    assert refused(404) == 'label-ingest at http://label-ingest: status 404, {"detail":"no"}'


def test_the_key_does_not_show_itself() -> None:
    settings = read_settings(Settings, ENVIRONMENT | {"DRIFTLOOP_LABEL_INGEST_KEY": "dl_key"})
    assert settings.label_ingest_key == Secret("dl_key")
    assert "dl_key" not in repr(settings)
