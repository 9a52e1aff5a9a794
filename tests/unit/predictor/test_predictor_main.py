"""What a predictor refuses before it starts."""

from pathlib import Path

import pytest

from driftloop.common import keys
from driftloop.common.contract import ContractError
from driftloop.common.settings import SettingsError, read_settings
from driftloop.predictor.main import build, load_servable, replica_name
from driftloop.predictor.settings import Settings
from tests.support.paths import MODELS

ENVIRONMENT = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "DRIFTLOOP_CONTRACT": str(MODELS / "diabetes" / "contract.yaml"),
    "DRIFTLOOP_TRUSTED_KEYS": "/nowhere",
    "DRIFTLOOP_PSEUDONYM_KEY": "sixteen characters, at least",
    "DRIFTLOOP_SPOOL": "/nowhere",
}


def settings(**changes: str) -> Settings:
    return read_settings(Settings, ENVIRONMENT | {f"DRIFTLOOP_{name}": value for name, value in changes.items()})


@pytest.mark.parametrize("model", ["diabetes", "loan"])
def test_both_shipped_contracts_can_be_served(model: str) -> None:
    assert load_servable(MODELS / model / "contract.yaml").name == model


@pytest.mark.parametrize(("name", "named"), [("patient_id", "patient"), ("order_id", "order")])
def test_a_feature_that_is_called_as_an_identifier_is_refused(tmp_path: Path, name: str, named: str) -> None:
    path = tmp_path / "contract.yaml"
    path.write_text((MODELS / "loan" / "contract.yaml").read_text().replace("name: term", f"name: {name}"))
    reason = rf"features\[2\]\.name = '{name}': .* the {named}, .* give the feature another name"
    with pytest.raises(ContractError, match=reason):
        load_servable(path)


def test_two_replicas_on_one_host_have_two_names() -> None:
    assert replica_name(settings(PORT="8000")) != replica_name(settings(PORT="8001"))


def test_a_replica_keeps_its_name() -> None:
    assert replica_name(settings()) == replica_name(settings())


def test_a_replica_is_called_what_it_is_told() -> None:
    assert replica_name(settings(REPLICA="predictor-7f9c/a")) == "predictor-7f9c/a"


@pytest.mark.parametrize("name", ["with space", "ö", "x" * 201, "a\n"])
def test_a_name_that_no_event_can_carry_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="DRIFTLOOP_REPLICA"):
        replica_name(settings(REPLICA=name))


@pytest.mark.parametrize(
    ("name", "value"), [("MAX_IN_FLIGHT", "0"), ("MAX_BODY_BYTES", "-1"), ("STATUS_SECONDS", "0"), ("PORT", "http")]
)
def test_a_setting_out_of_range_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"DRIFTLOOP_{name}"):
        settings(**{name: value})


def test_the_pseudonym_key_does_not_show_itself() -> None:
    assert "sixteen" not in repr(settings())


def test_a_short_pseudonym_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    trusted = tmp_path / "public.pem"
    keys.generate(tmp_path / "private.pem", trusted)
    with pytest.raises(SettingsError, match=r"DRIFTLOOP_PSEUDONYM_KEY has 5 characters") as refused:
        build(settings(PSEUDONYM_KEY="short", TRUSTED_KEYS=str(trusted)))
    assert "short" not in str(refused.value)
