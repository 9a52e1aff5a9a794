"""HL7 v2 over real sockets: frames whole, joined, split and broken; what AA promises; TLS; and how it ends."""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hl7.client import MLLPClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from driftloop.common.settings import SettingsError
from driftloop.label_ingest.hl7.mllp import GRACE_SECONDS, HANDSHAKE_SECONDS, MllpServer
from driftloop.label_ingest.hl7.settings import MllpSettings, build_mllp
from tests.support.certificates import Authority, Certified
from tests.support.hl7 import PATIENCE_SECONDS, Client, Kept, example, framed, message, result, serving
from tests.support.waiting import wait_until

HBA1C = example("hba1c-final")
OBX = "OBX|1|NM|4548-4^HbA1c^LN||7.2|%|||||F"

ANY = "0.0.0.0"
ANYBODY = "no client certificate is asked for: whoever reaches the MLLP port may write labels"


def numbered(number: int) -> bytes:
    return message(*result(OBX, order=f"ORD-{number}"), control_id=f"M-{number}")


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def broken(reason: str) -> float:
    return metric("driftloop_mllp_broken_frames_total", reason=reason)


@pytest.fixture
def kept() -> Kept:
    return Kept()


@pytest.fixture
def server(kept: Kept) -> Iterator[MllpServer]:
    with serving(kept) as server:
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"), "authority")


@pytest.fixture(scope="module")
def certified(authority: Authority) -> Certified:
    return authority.sign("server")


def test_a_result_is_kept_and_accepted(server: MllpServer, kept: Kept) -> None:
    with Client(server.port) as client:
        assert client.ask(HBA1C)[1] == ["MSA", "AA", "M-1", "results kept: 1"]
    assert [one.order_id for one in kept.outcomes] == ["ORD-1"]


def test_another_librarys_client_understands_it(server: MllpServer) -> None:
    with MLLPClient("127.0.0.1", server.port) as client:
        answer = client.send_message(HBA1C.decode())
    assert b"MSA|AA|M-1" in answer


def test_a_connection_carries_many_messages(server: MllpServer, kept: Kept) -> None:
    with Client(server.port) as client:
        assert [client.ask(numbered(n))[1][2] for n in range(20)] == [f"M-{n}" for n in range(20)]
    assert len(kept.outcomes) == 20


def test_messages_that_come_in_one_piece_are_answered_in_their_order(server: MllpServer) -> None:
    with Client(server.port) as client:
        client.send(b"".join(framed(numbered(n)) + b"\r\n" for n in range(20)))
        assert [client.read()[1][2] for _ in range(20)] == [f"M-{n}" for n in range(20)]


def test_a_message_may_come_byte_by_byte(server: MllpServer) -> None:
    with Client(server.port) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in framed(HBA1C):
            client.send(bytes([byte]))
        assert client.read()[1][1] == "AA"


def test_a_bad_message_leaves_the_connection_to_the_next(server: MllpServer) -> None:
    with Client(server.port) as client:
        answers = [client.ask(data)[1][1] for data in (b"", b"no message", HBA1C.replace(b"|7.2|", b"|?|"), HBA1C)]
    assert answers == ["AR", "AR", "AE", "AA"]


def test_nothing_is_accepted_before_it_is_committed(server: MllpServer, kept: Kept) -> None:
    kept.may_commit.clear()
    with Client(server.port) as client:
        client.send(framed(HBA1C))
        assert kept.waiting.wait(PATIENCE_SECONDS)
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(PATIENCE_SECONDS)
        kept.may_commit.set()
        assert client.read()[1][1] == "AA"
    assert len(kept.outcomes) == 1


def test_a_client_that_waits_keeps_no_other_waiting(server: MllpServer, kept: Kept) -> None:
    with Client(server.port) as unfinished, Client(server.port) as other:
        unfinished.send(framed(HBA1C)[:-1])
        assert other.ask(HBA1C)[1][1] == "AA"
    assert len(kept.outcomes) == 1


def test_what_was_accepted_was_kept_however_the_connection_dies(server: MllpServer, kept: Kept) -> None:
    before = broken("cut_off")
    client = Client(server.port)
    client.send(framed(numbered(1)) + framed(numbered(2))[:-1])
    accepted = client.read()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    wait_until(lambda: broken("cut_off") == before + 1, "the cut is counted")
    assert accepted[1][1:3] == ["AA", "M-1"]
    assert [one.order_id for one in kept.outcomes] == ["ORD-1"]


def test_a_truncated_frame_at_the_end_is_not_taken(server: MllpServer, kept: Kept) -> None:
    before = broken("cut_off")
    with Client(server.port) as client:
        client.send(framed(HBA1C)[:-2])
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()
    assert broken("cut_off") == before + 1
    assert kept.items == []


def test_a_sender_that_begins_anew_is_heard_from_there(server: MllpServer, kept: Kept) -> None:
    with Client(server.port) as client:
        client.send(framed(numbered(1))[:40] + framed(numbered(2)))
        assert client.read()[1][1:3] == ["AA", "M-2"]
    assert [one.order_id for one in kept.outcomes] == ["ORD-2"]


def test_what_is_not_mllp_is_closed(server: MllpServer) -> None:
    before = broken("no_start")
    with Client(server.port) as client:
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.is_closed()
    assert broken("no_start") == before + 1


def test_a_message_that_is_too_long_is_refused_and_the_connection_closed(kept: Kept) -> None:
    with serving(kept, MllpSettings(mllp_port=0, mllp_max_bytes=2048)) as server, Client(server.port) as client:
        client.send(framed(HBA1C + b"NTE|1||" + b"x" * 20_000_000))
        assert client.read()[1][1:4] == [
            "AR", "M-1", "the message is longer than 2048 bytes: send fewer results a message"
        ]  # fmt: skip
        client.socket.shutdown(socket.SHUT_WR)
        assert client.is_closed()
    assert kept.items == []


def test_a_message_of_the_longest_size_is_taken(kept: Kept) -> None:
    padding = b"NTE|1||" + b"x" * (2048 - len(HBA1C) - 8) + b"\r"
    with serving(kept, MllpSettings(mllp_port=0, mllp_max_bytes=2048)) as server, Client(server.port) as client:
        assert len(HBA1C + padding) == 2048
        assert client.ask(HBA1C + padding)[1][1] == "AA"


def test_a_frame_that_never_ends_is_given_up(kept: Kept) -> None:
    before = broken("unfinished")
    bounds = MllpSettings(mllp_port=0, mllp_message_seconds=0.2)
    with serving(kept, bounds) as server, Client(server.port) as client:
        client.send(framed(HBA1C)[:-1])
        assert client.is_closed()
    assert broken("unfinished") == before + 1


def test_a_silent_connection_is_closed(kept: Kept) -> None:
    # Longer than any pause between connecting and asking.
    bounds = MllpSettings(mllp_port=0, mllp_idle_seconds=2)
    with serving(kept, bounds) as server, Client(server.port) as client:
        assert client.ask(HBA1C)[1][1] == "AA"
        assert client.is_closed()


def test_a_connection_too_many_is_refused_until_another_ends(kept: Kept) -> None:
    with serving(kept, MllpSettings(mllp_port=0, mllp_max_connections=1)) as server:
        with Client(server.port) as first:
            first.ask(HBA1C)
            with Client(server.port) as second:
                assert second.is_closed()
            assert first.ask(HBA1C)[1][1] == "AA"
        wait_until(lambda: metric("driftloop_mllp_connections") == 0, "the first connection has ended")
        with Client(server.port) as third:
            assert third.ask(HBA1C)[1][1] == "AA"


def test_a_stop_answers_what_has_begun_and_closes(kept: Kept) -> None:
    kept.may_commit.clear()
    server = build_mllp(MllpSettings(mllp_port=0), kept)
    assert server is not None
    stop = threading.Event()
    thread = threading.Thread(target=server.run, args=[stop], daemon=True)
    thread.start()
    with Client(server.port) as busy, Client(server.port) as idle:
        wait_until(lambda: metric("driftloop_mllp_connections") == 2, "both are connected")
        busy.send(framed(HBA1C))
        assert kept.waiting.wait(PATIENCE_SECONDS)
        stop.set()
        assert idle.is_closed()
        kept.may_commit.set()
        assert busy.read()[1][1] == "AA"
        busy.socket.settimeout(GRACE_SECONDS / 2)
        assert busy.is_closed()
    thread.join(PATIENCE_SECONDS)
    assert not thread.is_alive()


def test_health_says_whether_it_listens(kept: Kept) -> None:
    server = build_mllp(MllpSettings(mllp_port=0), kept)
    assert server is not None
    assert server.problem() == "not listening yet"
    stop = threading.Event()
    thread = threading.Thread(target=server.run, args=[stop], daemon=True)
    thread.start()
    wait_until(lambda: server.problem() is None, "it listens")
    stop.set()
    thread.join(PATIENCE_SECONDS)
    assert server.problem() == "shutting down"


def test_acknowledgements_are_counted(server: MllpServer) -> None:
    before = metric("driftloop_mllp_messages_total", acknowledgement="AA")
    with Client(server.port) as client:
        client.ask(HBA1C)
    assert metric("driftloop_mllp_messages_total", acknowledgement="AA") == before + 1


def test_a_port_that_is_taken_is_named(server: MllpServer, kept: Kept) -> None:
    with pytest.raises(SettingsError, match=f"DRIFTLOOP_MLLP_PORT={server.port}: .*set another host or port"):
        build_mllp(MllpSettings(mllp_port=server.port), kept)


def test_tls_is_spoken_where_there_is_a_certificate(kept: Kept, authority: Authority, certified: Certified) -> None:
    trusting = ssl.create_default_context(cafile=authority.certificate)
    with serving(kept, _tls(certified)) as server:
        with Client(server.port, trusting) as client:
            assert client.ask(HBA1C)[1][1] == "AA"
        with Client(server.port) as plain:
            plain.send(framed(HBA1C))
            plain.socket.shutdown(socket.SHUT_WR)
            assert not plain.socket.recv(1024).startswith(b"\x0b")
    assert len(kept.outcomes) == 1


def test_a_connection_counts_before_its_handshake(kept: Kept, authority: Authority, certified: Certified) -> None:
    trusting = ssl.create_default_context(cafile=authority.certificate)
    refused = metric("driftloop_mllp_connections_refused_total")
    with serving(kept, _tls(certified, connections=2)) as server:
        with Client(server.port), Client(server.port):
            wait_until(lambda: metric("driftloop_mllp_connections") == 2, "two are connected")
            for _ in range(3):
                with Client(server.port) as beyond:
                    beyond.socket.settimeout(HANDSHAKE_SECONDS / 2)
                    assert beyond.is_closed()
        assert metric("driftloop_mllp_connections_refused_total") == refused + 3
        wait_until(lambda: metric("driftloop_mllp_connections") == 0, "both have ended")
        with Client(server.port, trusting) as client:
            assert client.ask(HBA1C)[1][1] == "AA"


def test_a_stop_waits_for_no_handshake(kept: Kept, certified: Certified) -> None:
    with serving(kept, _tls(certified)) as server:
        silent = Client(server.port)
        wait_until(lambda: metric("driftloop_mllp_connections") == 1, "it is connected")
        began = time.monotonic()
    with silent:
        assert silent.is_closed()
    assert time.monotonic() - began < GRACE_SECONDS


def test_what_is_long_comes_whole_through_tls(kept: Kept, authority: Authority, certified: Certified) -> None:
    trusting = ssl.create_default_context(cafile=authority.certificate)
    long = HBA1C + b"NTE|1||" + b"x" * 900_000 + b"\r"
    with serving(kept, _tls(certified)) as server, Client(server.port, trusting) as client:
        assert [client.ask(long)[1][1] for _ in range(3)] == ["AA"] * 3


def test_tls_before_1_2_is_refused(kept: Kept, authority: Authority, certified: Certified) -> None:
    old = ssl.create_default_context(cafile=authority.certificate)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with serving(kept, _tls(certified)) as server, pytest.raises(ssl.SSLError, match=r"EOF|PROTOCOL_VERSION"):
        Client(server.port, old)


def test_a_client_ca_asks_for_certificates_of_clients(
    kept: Kept, authority: Authority, certified: Certified, tmp_path: Path
) -> None:
    known, stranger = authority.sign("laboratory"), Authority(tmp_path, "another").sign("stranger")
    with serving(kept, _tls(certified, authority.certificate)) as server:
        assert _ask_as(server, authority, known) == "AA"
        for one in (None, stranger):
            # With TLS 1.3 a client hears of it only when it reads.
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                _ask_as(server, authority, one)
    assert len(kept.outcomes) == 1


def _ask_as(server: MllpServer, authority: Authority, own: Certified | None) -> str:
    trusting = ssl.create_default_context(cafile=authority.certificate)
    if own is not None:
        trusting.load_cert_chain(own.certificate, own.key)
    with Client(server.port, trusting) as client:
        return client.ask(HBA1C)[1][1]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_where_only_this_machine_may_send_there_is_nothing_to_note(
    kept: Kept, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(kept, MllpSettings(mllp_port=0, mllp_host=host)) as server:
        assert server.note() is None
    assert ANYBODY not in caplog.text


@pytest.mark.parametrize("secured", [False, True])
def test_where_anybody_may_send_a_note_and_a_warning_say_so(
    kept: Kept, certified: Certified, secured: bool, caplog: pytest.LogCaptureFixture
) -> None:
    settings = _tls(certified, host=ANY) if secured else MllpSettings(mllp_port=0, mllp_host=ANY)
    with serving(kept, settings) as server:
        assert server.note() == ANYBODY
    assert server.note() == ANYBODY
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [f"{ANYBODY}: set DRIFTLOOP_MLLP_TLS_CLIENT_CA"]


def test_where_clients_show_certificates_there_is_nothing_to_note(
    kept: Kept, authority: Authority, certified: Certified, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(kept, _tls(certified, authority.certificate, host=ANY)) as server:
        assert server.note() is None
    assert ANYBODY not in caplog.text


def _tls(
    certified: Certified, client_ca: Path | None = None, connections: int = 64, host: str = "127.0.0.1"
) -> MllpSettings:
    return MllpSettings(
        mllp_port=0,
        mllp_host=host,
        mllp_max_connections=connections,
        mllp_tls_certificate=certified.certificate,
        mllp_tls_key=certified.key,
        mllp_tls_client_ca=client_ca,
    )


@pytest.fixture(scope="module")
def enduring() -> Iterator[MllpServer]:
    with serving(Kept(), MllpSettings(mllp_port=0, mllp_max_bytes=4096)) as server:
        yield server


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300) | st.sampled_from([b"\x0b", b"\x1c\r", b"MSH|^~\\&|", HBA1C, framed(HBA1C)])))
def test_no_bytes_end_the_server_or_have_it_hang(enduring: MllpServer, pieces: list[bytes]) -> None:
    with Client(enduring.port) as client:
        try:
            for piece in pieces:
                client.send(piece)
            client.socket.shutdown(socket.SHUT_WR)
            while client.socket.recv(65_536):
                pass
        except (ConnectionError, OSError) as error:
            assert not isinstance(error, TimeoutError)  # noqa: PT017
    with Client(enduring.port) as next_one:
        assert next_one.ask(HBA1C)[1][1] == "AA"
