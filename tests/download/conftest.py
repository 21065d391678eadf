from collections.abc import Iterator

import pytest

from esm1b.download import mirrors
from tests.download.published_releases import QUICK, publish
from tests.download.server import ReleaseServer, running_server


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirrors, "PATIENCE", QUICK)


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine's own proxies out of it."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server(no_proxy: None) -> Iterator[ReleaseServer]:
    """A mirror with the releases 2026_03 and 2018_03."""
    with running_server() as state:
        yield publish(state)


@pytest.fixture
def second(no_proxy: None) -> Iterator[ReleaseServer]:
    """Another mirror with the same."""
    with running_server() as state:
        yield publish(state)
