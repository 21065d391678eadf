"""The network interface on which the processes of several hosts reach each other.

gloo listens where a host's own name leads. On Debian and Ubuntu that is 127.0.1.1, which no other
host can reach. The route to a process on another host tells the interface instead.
"""

import ipaddress
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import psutil

VARIABLES: Final = "GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose the network interface"
"""What to say where the wrong interface may be the cause."""

_GLOO: Final = "GLOO_SOCKET_IFNAME"
# No packet is sent, so any port will do.
_PORT: Final = 9


def address_towards(host: str) -> str | None:
    """Return the address of this host on the route to another; None if there is no route."""
    with suppress(OSError):
        for family, kind, protocol, _, where in socket.getaddrinfo(
            host, _PORT, type=socket.SOCK_DGRAM
        ):
            with suppress(OSError), socket.socket(family, kind, protocol) as probe:
                probe.connect(where)
                return str(probe.getsockname()[0])
    return None


def is_loopback(address: str) -> bool:
    """Return whether an address leads to the host itself."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def gloo_interface(mine: str | None, peer: str | None) -> Mapping[str, str]:
    """Return the variable that leads gloo to the other hosts; empty where it finds them itself.

    Args:
        mine: address of this host on the route to rank 0; None without a route.
        peer: address of a process on another host than rank 0; None if there is no other host.
    """
    if peer is None or not _own_name_is_local():
        return {}
    if mine is None or is_loopback(mine):  # beside rank 0
        mine = address_towards(peer)
    for name, addresses in psutil.net_if_addrs().items():
        if mine in [found.address.partition("%")[0] for found in addresses]:
            return {_GLOO: name}
    return {}


def _own_name_is_local() -> bool:
    """Return whether the name of this host leads to its loopback, or nowhere."""
    try:
        first = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)[0]
    except OSError:
        return True
    return is_loopback(str(first[4][0]))
