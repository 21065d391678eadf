"""Every command that writes, on a file system of a few blocks: one line, and nothing is left."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.writers import WRITERS, Inputs, Started, made_inputs

pytestmark = pytest.mark.slow

# Some fill up while files are written, others at once, where not even a lock can name its holder.
SIZES = ("4k", "16k", "40k")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inputs]:
    with made_inputs(tmp_path_factory.mktemp("inputs")) as inputs:
        yield inputs


@pytest.fixture
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("small_disk", SIZES, indirect=True)
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_told_in_one_line(
    name: str, small_disk: Path, inputs: Inputs, tmp_path: Path
) -> None:
    writer = WRITERS[name]
    (small_disk / "a").mkdir()
    started = Started(writer.arguments(inputs, small_disk, 0), tmp_path / "log")
    status = started.end()
    if status == 0:
        pytest.skip("there is room enough")
    assert status in (1, 2)
    assert "Traceback" not in started.text
    assert len(started.told) == 1, started.text
    assert re.match(r"esm1b: error: .*(No space left on device|free)", started.told[0])
    if writer.is_replaced:
        left = {entry.name for entry in small_disk.iterdir()}
        assert left in ({"a"}, {"a", "out.parquet.parts"})  # parts are kept, to be resumed
