"""Who is let in, and what becomes of those who misbehave; every test with real TLS on real sockets."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from rendezvous_relay import Served, Wire, run, serving

from executors.rendezvous import (
    Authority,
    Credential,
    InvalidCredential,
    Limits,
    Link,
    LinkOptions,
    NameTaken,
    Refused,
    RelayProcess,
)
from executors.rendezvous.credentials import make_relay_key, read_identity, relay_server_name
from executors.rendezvous.errors import RendezvousError
from executors.rendezvous.link import TURNED_AWAY
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.names import peer_id
from executors.rendezvous.tls import link_context

AUTHORITY = Authority.create()


async def expect_service(served: Served, name: str) -> None:
    """The relay still serves others: a stream from a link to itself carries bytes."""
    link = Link(served.address, AUTHORITY.issue(name))
    await link.connect()
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def read(stream) -> None:
        buffer = bytearray(3)
        await stream.read_into(memoryview(buffer))
        got.set_result(bytes(buffer))

    tasks = []
    await link.listen(name, lambda stream: tasks.append(asyncio.ensure_future(read(stream))))
    stream = await link.open(name)
    await stream.write([memoryview(b"yes")])
    assert await got == b"yes"
    await link.close()


# Credentials


def test_credential_survives_a_dictionary_and_is_small() -> None:
    credential = AUTHORITY.issue("worker-1")
    assert Credential.from_dict(credential.to_dict()) == credential
    assert sum(len(str(value)) for value in credential.to_dict().values()) < 3000
    with pytest.raises(InvalidCredential):
        Credential.from_dict({"name": "x"})


def test_credential_is_short_lived_unless_told_otherwise() -> None:
    now = datetime.now(UTC)
    assert AUTHORITY.issue("w").expires < now + timedelta(minutes=21)
    assert AUTHORITY.issue("w", lifetime=timedelta(hours=2)).expires > now + timedelta(minutes=119)


def test_authority_is_saved_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    AUTHORITY.save(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "authority.key").stat().st_mode) == 0o600
    loaded = Authority.load(folder)
    assert loaded.certificate == AUTHORITY.certificate

    async def story() -> None:
        async with serving(AUTHORITY) as served:
            link = Link(served.address, loaded.issue("w"))
            await link.connect()
            await link.close()

    run(story)


def test_authority_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidCredential, match="no authority can be read"):
        Authority.load(tmp_path)
    AUTHORITY.save(tmp_path)
    Authority.create().save(tmp_path / "other")
    (tmp_path / "authority.key").write_bytes((tmp_path / "other" / "authority.key").read_bytes())
    with pytest.raises(InvalidCredential, match="is not the key of"):
        Authority.load(tmp_path)


def test_relay_key_is_made_where_it_stays() -> None:
    async def story() -> None:
        relay = await RelayProcess.start(AUTHORITY)
        try:
            with open(f"/proc/{relay.pid}/environ", "rb") as file:
                assert b"PRIVATE" not in file.read()
            with open(f"/proc/{relay.pid}/cmdline", "rb") as file:
                assert b"PRIVATE" not in file.read()
        finally:
            await relay.stop()

    key, request = make_relay_key()
    assert "PRIVATE" not in request and "PRIVATE" in key
    with pytest.raises(InvalidCredential):
        AUTHORITY.certify_relay("nonsense")
    run(story)


def test_certificate_says_names_and_role() -> None:
    credential = AUTHORITY.issue("main", names=["scheduler"], role="controller")
    certificate = x509.load_pem_x509_certificate(credential.certificate.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["rdv:name:main", "rdv:name:scheduler", "rdv:role:controller"]
    with pytest.raises(InvalidCredential, match="no role"):
        AUTHORITY.issue("x", role="king")
    with pytest.raises(InvalidCredential):
        read_identity(
            {"subjectAltName": (("URI", "rdv:name:x"),), "notAfter": "Jan  1 00:00:00 2030 GMT"}
        )


# Who is let in


def test_foreign_credential_is_refused_and_counted() -> None:
    async def story() -> None:
        stranger = Authority.create().issue("w")
        forged = Credential("w", stranger.certificate, stranger.key, AUTHORITY.certificate)
        async with serving(AUTHORITY) as served:
            with pytest.raises(Refused, match="refuses the credential"):
                await Link(served.address, forged).connect()
            assert await served.count("CREDENTIAL", TURNED_AWAY) == TURNED_AWAY
            await expect_service(served, "good")

    run(story)


def test_expired_credential_is_refused_and_counted() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            expired = AUTHORITY.issue("w", lifetime=timedelta(seconds=-1))
            with pytest.raises(Refused, match="expired"):
                await Link(served.address, expired).connect()
            assert await served.count("EXPIRED", TURNED_AWAY) == TURNED_AWAY

    run(story)


def test_link_ends_when_its_credential_expires() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            link = Link(served.address, AUTHORITY.issue("w", lifetime=timedelta(seconds=2)))
            await link.connect()
            error = await asyncio.wait_for(link.closed, 10)
            assert isinstance(error, Refused) and "expired" in str(error)
            assert await served.count("EXPIRED") == 1

    run(story)


def test_no_certificate_no_hello() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.load_verify_locations(cadata=AUTHORITY.certificate)
            wire = await Wire.open(served.address, AUTHORITY.issue("w"), context)
            assert await wire.ended()
            assert await served.count("HANDSHAKE") == 1

    run(story)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_tls_is_refused() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            credential = AUTHORITY.issue("w")
            context = link_context(credential)
            assert context.minimum_version == ssl.TLSVersion.TLSv1_2
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises((ssl.SSLError, OSError)):
                await Wire.open(served.address, credential, context)
            assert await served.count("HANDSHAKE") == 1

    run(story)


def test_tls_1_2_is_enough() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            credential = AUTHORITY.issue("w")
            context = link_context(credential)
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            wire = await Wire.open(served.address, credential, context)
            wire.hello("w")
            header, _ = await wire.receive()
            assert header.kind == f.WELCOME
            wire.close()

    run(story)


def test_server_that_is_no_relay_is_refused_before_a_word() -> None:
    """Somebody with a controller's credential of the same authority, which TLS allows to serve, plays relay."""

    async def story() -> None:
        impostor = AUTHORITY.issue("mallory", role="controller")
        heard = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.extend(await reader.read())

        from executors.rendezvous.tls import listen_context

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=listen_context(impostor))
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Refused, match="no relay of our authority"):
            await Link(f"127.0.0.1:{port}", AUTHORITY.issue("w")).connect()
        server.close()
        assert not heard

    run(story)


def test_relay_of_another_authority_is_refused() -> None:
    async def story() -> None:
        async with serving(Authority.create()) as served:
            with pytest.raises(Refused, match="no relay of our authority"):
                await Link(served.address, AUTHORITY.issue("w")).connect()

    run(story)


def test_server_names_differ_between_authorities() -> None:
    other = Authority.create()
    assert AUTHORITY.server_name == relay_server_name(AUTHORITY.certificate) != other.server_name


# Names


def test_nobody_registers_under_a_name_of_another() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            wire = await Wire.open(served.address, AUTHORITY.issue("mallory"))
            wire.hello("alice")
            assert await wire.refusal() == f.Code.CREDENTIAL
            assert await served.count("CREDENTIAL") == 1
            assert peer_id("alice") not in served.server.core.peers

    run(story)


def test_further_names_need_the_credential() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            link = Link(served.address, AUTHORITY.issue("main", names=["scheduler"]))
            await link.connect()
            await link.listen("scheduler", lambda stream: None)
            with pytest.raises(Refused, match="does not allow the name"):
                await link.listen("coordinator", lambda stream: None)
            await link.close()

    run(story)


def test_second_registration_is_refused_while_the_first_lives() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            boss = Link(served.address, AUTHORITY.issue("boss", role="controller"))
            await boss.connect()
            notices = []
            boss.on_notice.append(
                lambda notice: notices.append((notice.event, notice.name, notice.why))
            )
            credential = AUTHORITY.issue("w")
            first, second = Link(served.address, credential), Link(served.address, credential)
            await first.connect()
            with pytest.raises(NameTaken, match="registered already"):
                await second.connect()
            await first.close()
            third = Link(served.address, credential)
            await third.connect()
            await third.close()
            await asyncio.sleep(0.1)
            assert notices == [
                ("registered", "w", ""),
                ("refused", "w", "NAME_TAKEN"),
                ("gone", "w", "goodbye"),
                ("registered", "w", ""),
                ("gone", "w", "goodbye"),
            ]
            await boss.close()

    run(story)


def test_workers_get_no_notices() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            curious = Link(served.address, AUTHORITY.issue("curious"))
            await curious.connect()
            notices = []
            curious.on_notice.append(notices.append)
            await expect_service(served, "other")
            await asyncio.sleep(0.1)
            assert notices == []
            await curious.close()

    run(story)


@pytest.mark.parametrize("epoch", [1, 4, 5])
def test_replayed_hello_is_refused_and_does_not_disturb(epoch: int) -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            credential = AUTHORITY.issue("w")
            first = await Wire.open(served.address, credential)
            first.hello("w", epoch=5)
            assert (await first.receive())[0].kind == f.WELCOME
            again = await Wire.open(served.address, credential)
            again.hello("w", epoch=epoch)
            assert await again.refusal() == f.Code.REPLAYED
            assert await served.count("REPLAYED") == 1
            first.send(f.serialize_frame(f.PING))
            assert (await first.receive())[0].kind == f.PONG
            later = await Wire.open(served.address, credential)
            later.hello("w", epoch=6)
            assert (await later.receive())[0].kind == f.WELCOME
            assert await first.ended()
            later.close()

    run(story)


def test_nobody_speaks_for_another() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            alice = Link(served.address, AUTHORITY.issue("alice"))
            await alice.connect()
            mallory = await Wire.open(served.address, AUTHORITY.issue("mallory"))
            mallory.hello("mallory")
            await mallory.receive()
            mallory.send(
                f.serialize_json(
                    f.OPEN,
                    {"from": "boss", "to": "alice", "patience": 1},
                    source=peer_id("boss"),
                    destination=peer_id("alice"),
                    stream=7,
                )
            )
            assert await mallory.refusal() == f.Code.MALFORMED
            assert not alice.core.streams.ends
            await alice.close()

    run(story)


def test_nobody_writes_on_a_stream_of_others() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            alice = Link(served.address, AUTHORITY.issue("alice"))
            bob = Link(served.address, AUTHORITY.issue("bob"))
            await alice.connect()
            await bob.connect()
            streams = []
            await bob.listen("bob", streams.append)
            stream = await alice.open("bob")
            for forged_source in ("mallory", "alice"):
                mallory = await Wire.open(served.address, AUTHORITY.issue("mallory"))
                mallory.hello("mallory", session=forged_source.ljust(32))
                await mallory.receive()
                mallory.send(
                    f.serialize_frame(
                        f.DATA,
                        b"poison",
                        source=peer_id(forged_source),
                        destination=peer_id("bob"),
                        stream=stream.core.number,
                        flags=f.OPENER if forged_source == "alice" else 0,
                    )
                )
                assert await mallory.refusal() == f.Code.MALFORMED
            await stream.write([memoryview(b"honey")])
            buffer = bytearray(5)
            await streams[0].read_into(memoryview(buffer))
            assert buffer == b"honey"
            await alice.close()
            await bob.close()

    run(story)


# Misbehaviour


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n".ljust(100), id="http"),
        pytest.param(f.HEADER.pack(1 << 31, f.DATA, 0, 0, 0, 0, 0, 0), id="two gigabytes"),
        pytest.param(
            f.HEADER.pack(f.MAX_PAYLOAD + 1, f.DATA, 0, 0, 0, 0, 0, 0), id="one byte too many"
        ),
        pytest.param(
            f.HEADER.pack(f.MAX_CONTROL + 1, f.OPEN, 0, 0, 0, 0, 0, 0), id="large control"
        ),
        pytest.param(f.HEADER.pack(0, 99, 0, 0, 0, 0, 0, 0), id="unknown kind"),
        pytest.param(f.serialize_frame(f.WELCOME, b"{}"), id="what only a relay says"),
        pytest.param(f.serialize_frame(f.REGISTER, b"not json"), id="no json"),
        pytest.param(f.serialize_frame(f.REGISTER, b"[1]"), id="no object"),
        pytest.param(f.serialize_frame(f.REGISTER, b"[" * 8000), id="deep json"),
        pytest.param(f.serialize_json(f.HELLO, {"versions": [f.VERSION]}), id="second hello"),
    ],
)
def test_malformed_frames_end_the_connection_and_harm_nobody(frame: bytes) -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            wire = await Wire.open(served.address, AUTHORITY.issue("bad"))
            wire.hello("bad")
            await wire.receive()
            wire.send(frame)
            assert await wire.refusal() == f.Code.MALFORMED
            assert await served.count("MALFORMED") == 1
            await expect_service(served, "good")

    run(story)


@pytest.mark.parametrize(
    "hello",
    [
        {},
        {"versions": [f.VERSION], "name": "w"},
        {"versions": [f.VERSION], "name": "w", "session": "short", "epoch": 1},
        {"versions": [f.VERSION], "name": "w", "session": "s" * 32, "epoch": 0},
        {"versions": [f.VERSION], "name": "w", "session": "s" * 32, "epoch": "1"},
        {"versions": [f.VERSION], "name": ["w"], "session": "s" * 32, "epoch": 1},
    ],
)
def test_malformed_hello(hello: dict[str, object]) -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            wire = await Wire.open(served.address, AUTHORITY.issue("w"))
            wire.send(f.serialize_json(f.HELLO, hello))
            assert await wire.refusal() in (f.Code.MALFORMED, f.Code.VERSION)
            assert served.server.core.strangers <= 1

    run(story)


def test_unknown_version_is_named() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            wire = await Wire.open(served.address, AUTHORITY.issue("w"))
            wire.send(f.serialize_json(f.HELLO, {"versions": [1, 9], "name": "w"}))
            assert await wire.refusal() == f.Code.VERSION

    run(story)


def test_oversized_frame_before_the_hello_is_refused() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            wire = await Wire.open(served.address, AUTHORITY.issue("w"))
            wire.send(f.HEADER.pack(200_000, f.DATA, 0, 0, 0, 0, 0, 0))
            assert await wire.refusal() == f.Code.MALFORMED

    run(story)


def test_slow_handshakes_and_late_hellos_are_cut_off() -> None:
    async def story() -> None:
        limits = Limits(handshake_timeout=3.0, hello_timeout=3.0)
        async with serving(AUTHORITY, limits) as served:
            host, port = served.address.split(":")
            silent = [socket.create_connection((host, int(port))) for _ in range(20)]
            for each in silent:
                each.sendall(b"\x16\x03\x01")  # the first bytes of a handshake, and no more
            quiet = [await Wire.open(served.address, AUTHORITY.issue("w")) for _ in range(5)]
            quiet[0].send(b"\x00")
            await expect_service(served, "good")
            assert await served.count("HANDSHAKE", 20) >= 20
            assert await served.count("TIMEOUT", 5) >= 5
            for wire in quiet:
                assert await wire.ended()
            for each in silent:
                each.close()
            while served.server.stats()["handshaking"]:
                await asyncio.sleep(0.01)

    run(story)


def test_connections_are_capped_and_the_registered_stay() -> None:
    async def story() -> None:
        async with serving(AUTHORITY, Limits(pending_connections=8)) as served:
            old = Link(served.address, AUTHORITY.issue("old"))
            await old.connect()
            host, port = served.address.split(":")
            flood = [socket.create_connection((host, int(port))) for _ in range(50)]
            assert await served.count("CONNECTIONS", 42) == 42
            await old.listen("old", lambda stream: None)
            await old.open("old")
            for each in flood:
                each.close()
            await served.count("HANDSHAKE", 8)
            await expect_service(served, "new")
            await old.close()

    run(story)


def test_flood_of_opens_is_limited() -> None:
    async def story() -> None:
        async with serving(AUTHORITY, Limits(pending_opens_per_link=10)) as served:
            wire = await Wire.open(served.address, AUTHORITY.issue("w"))
            wire.hello("w")
            await wire.receive()
            for number in range(30):
                opening = {"from": "w", "to": "nobody", "patience": 60}
                wire.send(
                    f.serialize_json(
                        f.OPEN,
                        opening,
                        source=peer_id("w"),
                        destination=peer_id("nobody"),
                        stream=number + 1,
                        flags=f.OPENER,
                    )
                )
            codes = [(await wire.receive())[0].code for _ in range(20)]
            assert codes == [f.Code.LIMIT] * 20
            assert served.server.core.stats.resets["LIMIT"] == 20
            await expect_service(served, "good")
            wire.close()

    run(story)


def test_flood_of_control_frames_ends_the_link() -> None:
    async def story() -> None:
        async with serving(AUTHORITY, Limits(control_per_second=50)) as served:
            wire = await Wire.open(served.address, AUTHORITY.issue("w"))
            wire.hello("w")
            wire.send(f.serialize_frame(f.PING) * 1000)
            assert await wire.ended()
            assert await served.count("LIMIT") == 1
            await expect_service(served, "good")

    run(story)


def test_stored_bytes_are_limited_and_given_back() -> None:
    async def story() -> None:
        async with serving(AUTHORITY, Limits(held_bytes_per_link=100_000)) as served:
            wire = await Wire.open(served.address, AUTHORITY.issue("w"))
            wire.hello("w")
            await wire.receive()
            path = {"source": peer_id("w"), "destination": peer_id("nobody"), "flags": f.OPENER}
            for number in (1, 2):
                opening = {"from": "w", "to": "nobody", "patience": 60}
                wire.send(f.serialize_json(f.OPEN, opening, stream=number, **path))
                wire.send(f.serialize_frame(f.DATA, bytes(60_000), stream=number, **path))
            header, _ = await wire.receive()
            assert (header.kind, header.stream, header.code) == (f.RESET, 2, f.Code.LIMIT)
            assert 60_000 < served.server.core.held_bytes < 61_000
            wire.close()
            while served.server.core.held_bytes:
                await asyncio.sleep(0.05)

    run(story)


def test_data_beyond_the_credit_is_reset() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            victim = Link(
                served.address, AUTHORITY.issue("victim"), LinkOptions.make(window="64KiB")
            )
            await victim.connect()
            await victim.listen("victim", lambda stream: None)
            wire = await Wire.open(served.address, AUTHORITY.issue("w"))
            wire.hello("w")
            await wire.receive()
            path = {
                "source": peer_id("w"),
                "destination": peer_id("victim"),
                "stream": 9,
                "flags": f.OPENER,
            }
            wire.send(
                f.serialize_json(
                    f.OPEN, {"from": "w", "to": "victim", "patience": 9}, offset=65536, **path
                )
            )
            assert (await wire.receive())[0].kind == f.ACCEPT
            for offset in (0, 60_000):
                wire.send(f.serialize_frame(f.DATA, bytes(60_000), offset=offset, **path))
            while True:
                header, _ = await wire.receive()
                if header.kind == f.RESET:
                    break
            assert header.code == f.Code.OVERRUN
            assert served.server.core.stats.resets["OVERRUN"] >= 1
            await victim.close()
            wire.close()

    run(story)


def test_random_bytes_never_stop_the_relay() -> None:
    async def story() -> None:
        async with serving(AUTHORITY) as served:
            for _ in range(30):
                wire = await Wire.open(served.address, AUTHORITY.issue("w"))
                wire.hello("w", session=os.urandom(16).hex())
                wire.send(os.urandom(500))
                assert await wire.ended()
                while served.server.core.peers:
                    await asyncio.sleep(0.01)
            host, port = served.address.split(":")
            for _ in range(10):
                with socket.create_connection((host, int(port))) as raw:
                    raw.sendall(os.urandom(300))
                    await asyncio.sleep(0.01)
            await expect_service(served, "good")

    run(story)


def test_options_are_checked() -> None:
    with pytest.raises(TypeError, match="unknown options"):
        LinkOptions.make(windo=1)
    with pytest.raises(ValueError, match="too small"):
        LinkOptions.make(window=10)
    with pytest.raises(ValueError, match="ping_interval"):
        LinkOptions.make(silence=1, ping_interval=2)
    assert issubclass(Refused, RendezvousError) and issubclass(Refused, OSError)
