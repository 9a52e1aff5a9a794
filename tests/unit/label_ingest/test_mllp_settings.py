"""The settings of the HL7 v2 door: off by default, and each wrong one is named with its remedy."""

from pathlib import Path

import pytest

from driftloop.common.settings import SettingsError, read_settings
from driftloop.label_ingest.hl7.settings import MllpSettings, build_mllp
from tests.support.certificates import Authority
from tests.support.hl7 import Kept


def built(**environ: str) -> object:
    """What these variables (without their prefix) build."""
    prefixed = {f"DRIFTLOOP_MLLP_{name.upper()}": value for name, value in environ.items()}
    return build_mllp(read_settings(MllpSettings, prefixed), Kept())


def refused(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        built(**{"port": "0"} | environ)
    return str(caught.value)


def test_without_a_port_there_is_no_server() -> None:
    assert built() is None


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("port", "70000", "Expected `int` <= 65535"),
        ("time_zone", "Berlin", "name one like Europe/Berlin"),
        ("time_zone", "../etc/passwd", "name one like Europe/Berlin"),
        ("character_set", "utf8", "name one of ASCII, 8859/1"),
        ("order_fields", "OBR-2.1,order", "'order' names no field"),
        ("max_bytes", "10", "Expected `int` >= 1024"),
        ("tls_key", "/no/key.pem", "DRIFTLOOP_MLLP_TLS_CERTIFICATE is not set"),
        ("tls_client_ca", "/no/ca.pem", "DRIFTLOOP_MLLP_TLS_CERTIFICATE is not set"),
        ("tls_certificate", "/no/certificate.pem", "cannot be read (No such file or directory)"),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(name: str, value: str, remedy: str) -> None:
    text = refused(**{name: value})
    assert f"DRIFTLOOP_MLLP_{name.upper()}" in text
    assert remedy in text


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    one, another = authority.sign("one"), authority.sign("another")
    text = refused(tls_certificate=str(one.certificate), tls_key=str(another.key))
    assert text.startswith(f"DRIFTLOOP_MLLP_TLS_CERTIFICATE={one.certificate}, DRIFTLOOP_MLLP_TLS_KEY={another.key}: ")


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(tmp_path: Path) -> None:
    one = Authority(tmp_path, "authority").sign("one", password=b"secret")
    assert "unencrypted" in refused(tls_certificate=str(one.certificate), tls_key=str(one.key))


def test_a_client_ca_that_is_no_certificate_is_refused(tmp_path: Path) -> None:
    one = Authority(tmp_path, "authority").sign("one")
    text = refused(tls_certificate=str(one.certificate), tls_key=str(one.key), tls_client_ca=str(one.key))
    assert text.startswith(f"DRIFTLOOP_MLLP_TLS_CLIENT_CA={one.key}: not a certificate in PEM")
