"""The relay as a value: frames of many connections in, frames for others out; no socket, no clock.

The adapter calls `connect`, `receive`, `disconnect` and `tick`; after each call it takes what the connections in
`dirty` have to send (`take_output`), closes those in `closing` once they are flushed, and stops or starts reading
from those in `flow_changed`. Times are seconds of a clock that never goes back, given by the adapter.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from executors.rendezvous.errors import InvalidAddress, ProtocolError
from executors.rendezvous.protocol import frames as f
from executors.rendezvous.protocol.limits import Limits
from executors.rendezvous.protocol.names import Identity, check_name, peer_id
from executors.rendezvous.protocol.relay_records import Connection, Peer
from executors.rendezvous.protocol.relay_switch import RelaySwitch


class RelayCore(RelaySwitch):
    """All state of one relay."""

    def __init__(self, limits: Limits | None = None) -> None:
        super().__init__(limits)
        self.controllers: set[Peer] = set()
        self.connections: set[Connection] = set()
        self.strangers = 0  # connections without a hello
        self.suspended: set[Peer] = set()
        self.closing: set[Connection] = set()
        self.tokens: dict[bytes, Connection] = {}  # of those that may have a bulk connection
        self.bulks: set[Connection] = set()

    # Events

    def connect(self, identity: Identity, now: float, token: bytes = b"") -> Connection:
        """A connection whose certificate TLS has verified; `token`, which nobody can guess, is for its bulk connection."""
        connection = Connection(identity, now, token, self.budget)
        self.connections.add(connection)
        self.strangers += 1
        return connection

    def connect_bulk(self, token: bytes, now: float) -> Connection | None:
        """A bare connection that has shown a token; None if nobody has such a one (any more)."""
        main = self.tokens.pop(token, None)
        if main is None or len(self.bulks) >= self.limits.bulk_connections:
            self.stats.refused["BULK"] += 1
            return None
        bulk = Connection(main.identity, now, budget=self.budget)
        bulk.main, bulk.peer = main, main.peer
        main.bulk = bulk
        self.bulks.add(bulk)
        self.stats.bulk += 1
        self._send(bulk, f.serialize_frame(f.PONG))
        return bulk

    def admits(self, connection: Connection, kind: int, length: int, now: float) -> bool:
        """True if a frame of such a kind and size may come; refuses the connection otherwise."""
        if connection.close_reason is not None:
            return False
        try:
            f.check_header(kind, length)
            if connection.peer is None:
                raise ProtocolError("more than a hello from a stranger")
        except ProtocolError as error:
            self._refuse(connection, f.Code.MALFORMED, str(error), now)
            return False
        return True

    def disconnect(self, connection: Connection, reason: str, now: float) -> None:
        """A connection that has ended; its peer may come back for a while. Neither of its two lives without the other."""
        main = connection.main
        if main is not None:
            self._drop_bulk(main, reason)
            self.closing.discard(connection)
            if connection.greeted:
                self._close(main, "its bulk connection was lost")
            return
        self._drop_bulk(connection, reason)
        if connection in self.connections:
            self.connections.discard(connection)
            self.strangers -= not connection.greeted
        self.dirty.discard(connection)
        self.closing.discard(connection)
        self.flow_changed.discard(connection)
        self._release(connection.out.clear())
        peer = connection.peer
        connection.peer = None
        if peer is None or peer.connection is not connection:
            return
        peer.connection = None
        if self.limits.linger <= 0 or peer.identity.expires <= 0:
            self._remove(peer, reason, now)
        else:
            peer.suspended = now
            self.suspended.add(peer)

    def receive(self, connection: Connection, frame: f.Buffer, now: float) -> None:
        """One whole frame."""
        if connection.close_reason is not None:
            return
        connection.heard = now
        length, kind, flags, code, source, destination, stream, offset = f.HEADER.unpack_from(frame)
        peer = connection.peer
        try:
            if connection.main is not None:
                connection.greeted = True  # its link knows that it is up, and lives with it
                if kind == f.PING and not length:
                    return
                if peer is None or kind not in (f.DATA, f.END) or length < f.TAG_SIZE:
                    raise ProtocolError("more than sealed data on a bulk connection")
                end = offset + length - f.TAG_SIZE
                self._sealed(peer, frame, flags, source, destination, stream, end)
                return
            if kind not in f.KINDS:
                raise ProtocolError(f"a frame of unknown kind {kind}")
            if peer is None:
                self._hello(connection, kind, frame, now)
                return
            if kind == f.DATA:
                self._data(peer, frame, flags, source, destination, stream, offset + length)
            elif kind >= f.OPEN:
                if source not in peer.ids:
                    raise ProtocolError("a frame in the name of another")
                self._stream_frame(
                    peer, kind, flags, code, frame, source, destination, stream, offset, now
                )
            else:
                self._control(connection, peer, kind, frame, now)
        except ProtocolError as error:
            self._refuse(connection, f.Code.MALFORMED, str(error), now)
        except (
            ValueError,
            OverflowError,
        ) as error:  # names and numbers that JSON allows and we do not
            self._refuse(connection, f.Code.MALFORMED, f"nonsense in a frame: {error}", now)

    def tick(self, now: float) -> None:
        """Let time pass: pings, silent and expired links, late hellos, links that did not return, held streams."""
        limits = self.limits
        self._relieve(now)
        for connection in list(self.connections):
            self._check_connection(connection, now)
        for bulk in list(self.bulks):
            if self._is_stuck(bulk, now) and bulk.main is not None:
                self._close(bulk.main, "stuck")
            elif now - bulk.said >= limits.ping_interval:
                self._ping(bulk, now)
        for peer in [p for p in self.suspended if now - (p.suspended or 0.0) >= limits.linger]:
            self._remove(peer, "lost", now)
        self._expire_held(now)
        while self.gone:
            _, _, until = next(iter(self.gone.values()))
            if until > now and len(self.gone) <= limits.remembered_gone:
                break
            self.gone.popitem(last=False)

    def expire(self, wall_clock: float, now: float) -> None:
        """Close the links whose credentials have expired at `wall_clock` (seconds since 1970)."""
        for connection in list(self.connections):
            if connection.identity.expires <= wall_clock and connection.close_reason is None:
                self._refuse(connection, f.Code.EXPIRED, "the credential has expired", now)

    def counts(self) -> dict[str, Any]:
        """What was counted, and what there is now, as JSON can carry it."""
        stats = self.stats
        counted = {each.name: getattr(stats, each.name) for each in fields(stats)}
        return {
            **counted,
            "refused": dict(stats.refused),
            "resets": dict(stats.resets),
            "connections": len(self.connections),
            "bulk_connections": len(self.bulks),
            "names": len(self.peers),
            "streams": len(self.streams),
            "held_bytes": self.held_bytes,
            "queued_bytes": self.budget.used,
        }

    # Connections and peers

    def _check_connection(self, connection: Connection, now: float) -> None:
        limits = self.limits
        if connection.close_reason is not None:
            return
        if connection.peer is None:
            if now - connection.since >= limits.hello_timeout:
                self._refuse(connection, f.Code.TIMEOUT, "no hello in time", now)
            return
        if connection.muted:
            connection.heard = now  # it may say what it likes, we do not listen
        if self._is_stuck(connection, now):
            self._close(connection, "stuck")
        elif now - connection.heard >= limits.silence:
            peer = connection.peer
            self._close(connection, "silent")
            self._remove(peer, "silent", now)
        elif now - connection.said >= limits.ping_interval:
            self._ping(connection, now)

    def _is_stuck(self, connection: Connection, now: float) -> bool:
        """True where what waits for a connection would keep its senders from sending, perhaps to everybody."""
        since = connection.blocked_since
        return since is not None and now - since >= self.limits.stuck

    def _relieve(self, now: float) -> None:
        """Where too much waits in all, who takes nothing and has the most to take must go first."""
        limits = self.limits
        if self.budget.used <= limits.queued_bytes:
            return
        since = now - limits.pressed
        stuck = [
            each
            for each in (*self.connections, *self.bulks)
            if each.blocked_since is not None and each.blocked_since <= since
        ]
        if stuck:
            worst = max(stuck, key=lambda each: each.out.size)
            self._close(worst.main or worst, "stuck")

    def _ping(self, connection: Connection, now: float) -> None:
        self._send(connection, f.serialize_frame(f.PING))
        connection.said = now

    def _hello(self, connection: Connection, kind: int, frame: f.Buffer, now: float) -> None:
        if kind != f.HELLO:
            raise ProtocolError("the first frame is not a HELLO")
        hello = f.parse_json(memoryview(frame)[f.HEADER_SIZE :])
        versions, name, session, epoch = (
            hello.get("versions"), hello.get("name"), hello.get("session"), hello.get("epoch"),
        )  # fmt: skip
        if not isinstance(versions, list) or f.VERSION not in versions:
            text = f"this relay speaks version {f.VERSION} of the protocol"
            return self._refuse(connection, f.Code.VERSION, text, now)
        if not (
            isinstance(name, str) and isinstance(session, str) and 16 <= len(session) <= 64
            and type(epoch) is int and 0 < epoch < 1 << 63
        ):  # fmt: skip
            raise ProtocolError("a HELLO without name, session or epoch")
        if name not in connection.identity.names:
            text = f"the credential does not allow the name {name!r}"
            return self._refuse(connection, f.Code.CREDENTIAL, text, now)
        peer = self.peers.get(peer_id(name))
        resumed = False
        if peer is not None:
            if peer.session != session or peer.name != name:
                text = f"{name} is registered already: it was started twice, or its credential was copied"
                return self._refuse(connection, f.Code.NAME_TAKEN, text, now, name)
            if epoch <= peer.epoch:
                text = f"a hello of {name} that was seen before (epoch {epoch})"
                return self._refuse(connection, f.Code.REPLAYED, text, now, name)
            resumed = True
            if peer.connection is not None:
                old = peer.connection
                old.peer = None
                self._close(old, "replaced")
        else:
            peer = Peer(name, session, connection.identity, self.limits, now)
            peer.listens = bool(hello.get("listens", True))
        peer.identity = connection.identity
        peer.epoch = epoch
        peer.suspended = None
        self.suspended.discard(peer)
        peer.connection = connection
        connection.peer = peer
        connection.greeted = True
        self.strangers -= 1
        limits = self.limits
        welcome: dict[str, Any] = {
            "version": f.VERSION,
            "resumed": resumed,
            "ping_interval": limits.ping_interval,
            "silence": limits.silence,
            "hold": limits.hold,
        }
        if connection.token and limits.bulk_connections:
            welcome["bulk"] = connection.token.hex()
            self.tokens[connection.token] = connection
        self._send(connection, f.serialize_json(f.WELCOME, welcome))
        if resumed:
            self.stats.resumed += 1
        if peer.is_controller:
            self.controllers.add(peer)
        for number in peer.ids:
            for key, stream in list(self.held.get(number, {}).items()):
                self._deliver(key, stream, peer)
        if not resumed:
            self._add_name(peer, name)
        return None

    def _add_name(self, peer: Peer, name: str) -> None:
        number = peer_id(name)
        peer.ids[number] = name
        self.peers[number] = peer
        self.gone.pop(number, None)
        self.stats.registered += 1
        if peer.listens:
            self._notice({"event": "registered", "name": name, "session": peer.session}, but=peer)
        for key, stream in list(self.held.get(number, {}).items()):
            self._deliver(key, stream, peer)

    def _control(
        self, connection: Connection, peer: Peer, kind: int, frame: f.Buffer, now: float
    ) -> None:
        if not peer.controls.take(now):
            return self._refuse(connection, f.Code.LIMIT, "too many control frames a second", now)
        if kind == f.PING:
            self._send(connection, f.serialize_frame(f.PONG))
        elif kind == f.REGISTER:
            self._register(connection, peer, f.parse_json(memoryview(frame)[f.HEADER_SIZE :]), now)
        elif kind == f.GOODBYE:
            self._close(connection, "goodbye")
            self._remove(peer, "goodbye", now)
        elif kind != f.PONG:
            raise ProtocolError(f"a {f.Kind(kind).name} frame, which only a relay may send")
        return None

    def _register(
        self, connection: Connection, peer: Peer, request: dict[str, Any], now: float
    ) -> None:
        try:
            name = check_name(request.get("name", ""))
        except InvalidAddress as error:
            raise ProtocolError(str(error)) from error
        code, text = f.Code.NONE, ""
        holder = self.peers.get(peer_id(name))
        if name not in peer.identity.names:
            code, text = f.Code.CREDENTIAL, f"the credential does not allow the name {name!r}"
        elif holder is not None and (holder is not peer or peer.ids[peer_id(name)] != name):
            code, text = f.Code.NAME_TAKEN, f"{name} is registered already"
        elif len(peer.ids) >= self.limits.names_per_link:
            code, text = f.Code.LIMIT, "too many names"
        if code:
            self.stats.refused[code.name] += 1
            self._notice({"event": "refused", "name": name, "why": code.name}, but=peer)
        answer = {"name": name, "code": int(code), "why": text}
        self._send(connection, f.serialize_json(f.REGISTERED, answer))
        if not code and holder is None:
            self._add_name(peer, name)

    def _remove(self, peer: Peer, reason: str, now: float) -> None:
        """Forget a peer, and tell everybody who had to do with it."""
        self.suspended.discard(peer)
        self.controllers.discard(peer)
        if peer.connection is not None:
            peer.connection.peer = None
            self._close(peer.connection, reason)
            peer.connection = None
        for number, name in peer.ids.items():
            self.peers.pop(number, None)
            if peer.listens:
                self.gone[number] = (name, reason, now + self.limits.gone_memory)
                self.gone.move_to_end(number)
                self._notice(
                    {"event": "gone", "name": name, "why": reason, "session": peer.session}
                )
        self.stats.gone += 1
        told: set[tuple[Peer, int]] = set()
        for number in list(peer.streams):
            stream = self.streams[number]
            other, own = stream.acceptor, stream.opener_id
            if stream.opener is not peer:
                other, own = stream.opener, stream.acceptor_id
            self._forget(number, stream)
            if other is not None and other is not peer and (other, own) not in told:
                told.add((other, own))
                self._tell_gone(other, own, peer.ids.get(own, peer.name), reason)

    def _notice(self, value: dict[str, Any], but: Peer | None = None) -> None:
        if not self.controllers:
            return
        frame = f.serialize_json(f.NOTICE, value)
        for peer in self.controllers:
            if peer is not but and peer.connection is not None:
                self._send(peer.connection, frame)

    def _refuse(
        self, connection: Connection, code: f.Code, text: str, now: float, name: str | None = None
    ) -> None:
        self.stats.refused[code.name] += 1
        # whoever speaks there has proved no more than that he read the token
        if connection.main is not None:
            self._close(connection.main, text)
            return
        self._send(
            connection, f.serialize_json(f.REFUSED, {"code": int(code), "why": text}, code=code)
        )
        peer = connection.peer
        self._close(connection, text)
        if name is not None:
            self._notice({"event": "refused", "name": name, "why": code.name})
        if peer is not None:
            connection.peer = None
            peer.connection = None
            self._remove(peer, code.name.lower(), now)

    def _close(self, connection: Connection, reason: str) -> None:
        if connection.close_reason is None:
            connection.close_reason = reason
        self.closing.add(connection)
        self._drop_bulk(connection, reason)

    def _drop_bulk(self, main: Connection, reason: str) -> None:
        """Close a connection's bulk connection, if it has one, and let it have no other."""
        self.tokens.pop(main.token, None)
        bulk, main.bulk = main.bulk, None
        if bulk is not None:
            self.bulks.discard(bulk)
            self.dirty.discard(bulk)
            self.flow_changed.discard(bulk)
            self._release(bulk.out.clear())
            bulk.main = bulk.peer = None
            bulk.close_reason = reason
            self.closing.add(bulk)
