"""`RendezvousSecurity`: what Scheduler, Worker and Client are given so that their comms go through a relay."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any

from distributed.security import Security

from executors.rendezvous.credentials import Credential
from executors.rendezvous.link import Link
from executors.rendezvous.options import LinkOptions
from executors.rendezvous.protocol.names import RelayAddress
from executors.rendezvous.tls import link_context, listen_context


class RendezvousSecurity(Security):
    """A relay and a credential; all comms made with it share one connection to that relay.

    Options of the link (`window`, `silence`, `reconnect_timeout` ...) may be given as keywords, or stand in the
    config under `distributed.comm.rdv`. Comms to peers at other relays open one more link to each of these; where others
    shall call us there too, `also` names them.
    """

    def __init__(
        self,
        relay: RelayAddress | str,
        credential: Credential,
        *,
        also: Sequence[RelayAddress | str] = (),
        **options: Any,
    ) -> None:
        super().__init__(require_encryption=True)
        self.relay = RelayAddress.parse(relay)
        self.also = tuple(map(RelayAddress.parse, also))
        self.credential = credential
        self.options = LinkOptions.make(**options)
        self._options = options
        self._links: dict[RelayAddress, asyncio.Future[Link]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def __reduce__(self) -> Any:
        also = tuple(map(str, self.also))
        return _restore, (str(self.relay), self.credential, also, self._options)

    def __repr__(self) -> str:
        return f"RendezvousSecurity(relay={str(self.relay)!r}, name={self.credential.name!r})"

    async def link(self) -> Link:
        """The link to our relay, connected and registered now; raises NameTaken, Refused, LinkClosed."""
        return await self.link_to(self.relay)

    async def link_to(self, relay: RelayAddress | str) -> Link:
        """The link to a relay: ours, or another at which we only call others."""
        relay = RelayAddress.parse(relay)
        loop = asyncio.get_running_loop()
        if self._loop is None or self._loop.is_closed():
            self._loop = loop
            self._links.clear()
        if loop is not self._loop:
            raise RuntimeError(
                f"{self} belongs to another event loop: make one RendezvousSecurity a loop"
            )
        known = self._links.get(relay)
        if (
            known is not None
            and known.done()
            and (known.cancelled() or known.exception() is not None or known.result().closed.done())
        ):
            known = None
        if known is None:
            known = self._links[relay] = loop.create_task(self._connect(relay))
        return await asyncio.shield(known)

    async def _connect(self, relay: RelayAddress) -> Link:
        link = Link(relay, self.credential, self.options, listens=relay in (self.relay, *self.also))
        await link.connect()
        return link

    async def close(self) -> None:
        """Leave all relays, with a goodbye."""
        links, self._links = self._links, {}
        for future in links.values():
            if not future.done():
                future.cancel()
            elif not future.cancelled() and future.exception() is None:
                await future.result().close()

    def get_connection_args(self, role: str) -> dict[str, Any]:
        """For `distributed.comm.connect`; a client's serve tls:// as well, with the same authority."""
        arguments = {"rendezvous": self, "require_encryption": True, "extra_conn_args": {}}
        if role != "worker":  # workers meet at relays only, and there may be thousands of them
            arguments["ssl_context"] = self._local_context(link_context)
        return arguments

    def get_listen_args(self, role: str) -> dict[str, Any]:
        """For `distributed.comm.listen`; a scheduler whose credential allows it listens as `scheduler`."""
        names = self.credential.names
        return {
            "rendezvous": self,
            "ssl_context": self._local_context(listen_context),
            "require_encryption": True,
            "default_name": role if role in names else self.credential.name,
        }

    def _local_context(self, make: Any) -> ssl.SSLContext:
        context: ssl.SSLContext = make(self.credential)
        context.check_hostname = False
        return context


def _restore(
    relay: str, credential: Credential, also: tuple[str, ...], options: dict[str, Any]
) -> RendezvousSecurity:
    return RendezvousSecurity(relay, credential, also=also, **options)
