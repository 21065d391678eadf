from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.pretraining.fork_server import ForkServer


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """One for all modules: its imports take seconds."""
    with closing(ForkServer()) as server:
        yield server
