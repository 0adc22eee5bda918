"""Which addresses may be connected to.

A name in an address is chosen by whoever asks, and so is where it leads: to this machine, to
its neighbours, or to the place where a cloud keeps the machine's credentials.  So addresses
are judged as numbers, after resolution, also where an IPv6 address only wraps an IPv4 one.
Sources: IANA's special-purpose address registries (RFC 6890), RFC 6052 and 8215 (NAT64),
RFC 3056 (6to4), RFC 4380 (Teredo).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Final

from iceprod.errors import AccessDenied

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_SHARED: Final = ipaddress.IPv4Network("100.64.0.0/10")  # RFC 6598: between a provider and its customers
_TRANSLATED: Final = (
    ipaddress.IPv6Network("64:ff9b:1::/48"),  # NAT64 with a prefix of the network's own
    ipaddress.IPv6Network("2001::/32"),  # Teredo: the IPv4 address is that of a relay
    ipaddress.IPv6Network("fec0::/10"),  # site-local, given up by RFC 3879
)
_IPV4_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
# Services that hand out a machine's credentials.  No file lies there, not even for private origins.
_METADATA: Final = frozenset(
    ipaddress.ip_address(each)
    for each in (
        "169.254.169.254",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
    )
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """An `iceprod.movers.base.AddressPolicy`: public addresses, and private ones if so said.

    Private are loopback, RFC 1918, RFC 4193 and RFC 6598.  Link-local, multicast, unspecified
    and reserved ones are never allowed.
    """

    allow_private: bool = False

    def check(self, address: str, port: int) -> None:
        """Refuse a numeric ``address``.

        Raises:
            AccessDenied: it is none, or may not be connected to.
        """
        try:
            found = _unwrapped(ipaddress.ip_address(address))
        except ValueError:
            raise AccessDenied("that is no address") from None
        if not 0 < port < 65536:
            raise AccessDenied("that is no port")
        if _is_never_allowed(found) or not (self.allow_private or _is_public(found)):
            raise AccessDenied(f"connections to {found} are not allowed")


def _unwrapped(address: _Address) -> _Address:
    """The IPv4 address that packets to an IPv6 one end up at, if it is one of those."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.scope_id is not None:
        raise ValueError
    inner = address.ipv4_mapped or address.sixtofour
    if inner is None and (address in _NAT64 or (address in _IPV4_COMPATIBLE and int(address) > 1)):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return inner or address


def _is_never_allowed(address: _Address) -> bool:
    if address in _METADATA or any(address in network for network in _TRANSLATED):
        return True
    if address.is_loopback:  # some of which Python calls reserved, too
        return False
    return address.is_link_local or address.is_multicast or address.is_unspecified or _is_reserved(address)


def _is_reserved(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        # 0.0.0.0/8 means this machine to many systems.
        return address.is_reserved or int(address) >> 24 == 0
    return address.is_reserved


def _is_public(address: _Address) -> bool:
    return address.is_global and address not in _SHARED
