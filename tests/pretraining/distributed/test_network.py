import socket
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from esm1b.pretraining.distributed import network
from esm1b.pretraining.distributed.network import address_towards, gloo_interface, is_loopback

INTERFACES = {
    "lo": [SimpleNamespace(address="127.0.0.1")],
    "ib0": [SimpleNamespace(address="10.77.0.11"), SimpleNamespace(address="fe80::1%ib0")],
}


def set_host(monkeypatch: pytest.MonkeyPatch, own: str | None) -> None:
    """Be a host whose own name leads to `own`, or nowhere, with 10.77.0.11 on ib0."""

    def getaddrinfo(host: str, port: int | None, **others: Any) -> list[Any]:
        assert host == socket.gethostname()
        if own is None:
            raise socket.gaierror(-2, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (own, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: INTERFACES)


@pytest.mark.parametrize("own", ["127.0.1.1", "127.0.0.1", "::1", None])
def test_a_host_whose_own_name_leads_to_itself(
    monkeypatch: pytest.MonkeyPatch, own: str | None
) -> None:
    set_host(monkeypatch, own)
    assert gloo_interface("10.77.0.11", "10.77.0.12") == {"GLOO_SOCKET_IFNAME": "ib0"}
    assert gloo_interface("fe80::1", "10.77.0.12") == {"GLOO_SOCKET_IFNAME": "ib0"}
    assert gloo_interface("10.1.1.1", "10.77.0.12") == {}  # of no interface


def test_beside_rank_0_the_route_to_another_host_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    set_host(monkeypatch, "127.0.1.1")
    routes = {"10.77.0.12": "10.77.0.11"}
    monkeypatch.setattr(network, "address_towards", routes.get)
    for mine in ("127.0.0.1", None):
        assert gloo_interface(mine, "10.77.0.12") == {"GLOO_SOCKET_IFNAME": "ib0"}


def test_gloo_finds_its_way_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    set_host(monkeypatch, "10.77.0.11")
    assert gloo_interface("10.77.0.11", "10.77.0.12") == {}
    set_host(monkeypatch, "127.0.1.1")
    assert gloo_interface("127.0.0.1", None) == {}  # all on one host


def test_the_route_to_a_host() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"
    assert address_towards("n1.invalid") is None  # reserved, never resolves (RFC 2606)


def test_loopback() -> None:
    loopback = {"127.0.1.1": True, "::1": True, "10.77.0.11": False, "fe80::1%eth0": False}
    assert {address: is_loopback(address) for address in loopback} == loopback
