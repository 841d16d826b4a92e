"""Connections whose holders have shown no credential yet, by the address that they come from: a newcomer takes the place of
the one that has waited longest, so that nobody keeps others out by doing nothing.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import Generic, TypeVar

Token = TypeVar("Token")


def network_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or the 64 bits of an IPv6 address that its holder cannot choose."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


class _Queue(Generic[Token]):
    """Those that wait, first those that have said nothing at all; in each part the oldest first."""

    __slots__ = ("silent", "speaking")

    def __init__(self) -> None:
        self.silent: OrderedDict[Token, None] = OrderedDict()
        self.speaking: OrderedDict[Token, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self.silent) + len(self.speaking)

    def first(self) -> Token:
        return next(iter(self.silent or self.speaking))

    def speaks(self, token: Token) -> None:
        if token in self.silent:
            del self.silent[token]
            self.speaking[token] = None

    def remove(self, token: Token) -> None:
        self.silent.pop(token, None)
        self.speaking.pop(token, None)


class Strangers(Generic[Token]):
    """At most `most` strangers, and `most_of_one` of one address."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most, self._most_of_one = most, most_of_one
        self._all: _Queue[Token] = _Queue()
        self._by_network: dict[str, _Queue[Token]] = {}
        self._networks: dict[Token, str] = {}

    def __len__(self) -> int:
        return len(self._all)

    def come(self, token: Token, host: str) -> Token | None:
        """A connection from `host`; returns the one that must go for it, if one must: perhaps itself."""
        network = network_of(host)
        own = self._by_network.setdefault(network, _Queue())
        for queue in (own, self._all):
            queue.silent[token] = None
        self._networks[token] = network
        if len(own) > self._most_of_one:
            return own.first()
        return self._all.first() if len(self._all) > self._most else None

    def oldest(self) -> Token | None:
        """Who goes first where there is no room at all."""
        return self._all.first() if len(self._all) else None

    def speaks(self, token: Token) -> None:
        """It has sent a first byte, as all of ours do at once."""
        network = self._networks.get(token)
        if network is not None:
            self._all.speaks(token)
            self._by_network[network].speaks(token)

    def leave(self, token: Token) -> None:
        """It has gone, or is no stranger any more."""
        network = self._networks.pop(token, None)
        if network is None:
            return
        self._all.remove(token)
        own = self._by_network[network]
        own.remove(token)
        if not len(own):
            del self._by_network[network]
