from pathlib import Path

import pytest

from tests.pretraining.checkpoints.saved import save_as


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with checkpoints after 2, 4 and 10 updates."""
    for updates in (2, 4, 10):
        save_as(tmp_path, updates)
    return tmp_path
