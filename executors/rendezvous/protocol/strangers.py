"""Connections whose holders have shown no credential yet, by the address that they come from: who makes room for a newcomer,
and whose turn it is, so that nobody keeps others out by coming often, or by waiting.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Iterator
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


class Strangers(Generic[Token]):
    """Strangers in the order in which they came, all of them and those of each address."""

    def __init__(self) -> None:
        self._networks: OrderedDict[Token, str] = OrderedDict()
        self._by_network: OrderedDict[str, OrderedDict[Token, None]] = OrderedDict()
        self._by_size: dict[int, OrderedDict[str, None]] = {}
        self._largest = 0

    def __len__(self) -> int:
        return len(self._networks)

    def __iter__(self) -> Iterator[Token]:
        return iter(self._networks)

    def come(self, token: Token, host: str) -> None:
        """A connection from `host`."""
        network = self._networks[token] = network_of(host)
        own = self._by_network.setdefault(network, OrderedDict())
        own[token] = None
        self._resize(network, len(own) - 1, len(own))

    def leave(self, token: Token) -> None:
        """It has gone, or is no stranger any more."""
        network = self._networks.pop(token, None)
        if network is None:
            return
        own = self._by_network[network]
        del own[token]
        self._resize(network, len(own) + 1, len(own))
        if not own:
            del self._by_network[network]

    def oldest(self) -> Token | None:
        """Who has waited longest."""
        return next(iter(self._networks), None)

    def crowding(self) -> Token | None:
        """Who makes room for others: of the address with the most, the one that has waited longest; not who came last."""
        if not self._networks:
            return None
        return next(iter(self._by_network[next(iter(self._by_size[self._largest]))]))

    def next_in_turn(self) -> Token | None:
        """The oldest of one address, and of another the next time."""
        network = next(iter(self._by_network), None)
        if network is None:
            return None
        self._by_network.move_to_end(network)
        return next(iter(self._by_network[network]))

    def _resize(self, network: str, before: int, now: int) -> None:
        """Keep the addresses by how many they have: the number changes by one."""
        if before:
            same = self._by_size[before]
            del same[network]
            if not same:
                del self._by_size[before]
        if now:
            self._by_size.setdefault(now, OrderedDict())[network] = None
        if now > self._largest or self._largest not in self._by_size:
            self._largest = now
