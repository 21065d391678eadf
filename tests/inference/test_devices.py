import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from esm1b.errors import UserError
from esm1b.inference import result_file
from esm1b.inference.devices import load_on_devices
from esm1b.inference.embed import embed
from esm1b.inference.model import Model, load_model
from tests.inference.models import random_sequences, refused, write_fasta, write_model

REPOSITORY = Path(__file__).parents[2]
SEQUENCES = random_sequences(60)
CHUNKED: dict[str, Any] = {"batch_tokens": 8, "part_seconds": 0.0, "device": "cpu"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("devices") / "model")


@pytest.fixture
def fasta(tmp_path: Path) -> str:
    return str(write_fasta(tmp_path / "proteins.fasta", SEQUENCES))


def test_a_dead_process_loses_only_what_was_under_way(
    model: Path,
    fasta: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    output = tmp_path / "out.parquet"
    embed(model, fasta, tmp_path / "whole.parquet", per_residue=True, **CHUNKED)
    write, written = result_file.ResultParts.write, []

    def killing(parts: Any, chunks: Any) -> None:
        write(parts, chunks)
        written.append(parts.rows)
        for process in multiprocessing.active_children()[: len(written) == 3]:
            os.kill(int(process.pid or 0), signal.SIGKILL)

    with monkeypatch.context() as context:
        context.setattr(result_file.ResultParts, "write", killing)
        with pytest.raises(ChildProcessError, match=r"^worker [01] died: SIGKILL, .* memory"):
            embed(model, fasta, output, per_residue=True, devices="2", **CHUNKED)
    assert multiprocessing.active_children() == []
    assert len(written) >= 3
    embed(model, fasta, output, per_residue=True, **CHUNKED)
    assert f"resuming after {written[-1]} of 60 sequences" in caplog.text
    assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.slow
def test_any_number_of_devices_and_a_signal_to_all_processes(
    model: Path, fasta: str, tmp_path: Path
) -> None:
    embed(model, fasta, tmp_path / "whole.parquet", **CHUNKED)
    output = tmp_path / "out.parquet"
    program = """
import os, signal, sys
import esm1b.inference.embed as module
from esm1b.cli import main
from esm1b.inference import result_file
from esm1b.inference.resumable import compute_parts
write = result_file.ResultParts.write
def interrupted(parts, chunks):
    write(parts, chunks)
    if parts.rows > 15 and "3" in sys.argv:
        os.killpg(0, signal.NUMBER)
result_file.ResultParts.write = interrupted
module.compute_parts = lambda *a, **o: compute_parts(*a, **{**o, "part_seconds": 0})
if __name__ == "__main__":
    main()
"""
    command = [sys.executable, str(tmp_path / "program.py"), "embed", str(model), fasta]
    command += ["--output", str(output), "--batch-tokens", "8", "--device", "cpu", "--devices"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

    def status(devices: str) -> int:
        return subprocess.run(
            [*command, devices], env=environment, start_new_session=True, check=False
        ).returncode

    for number, expected in (("SIGTERM", 75), ("SIGUSR1", 75), ("SIGKILL", -9)):
        (tmp_path / "program.py").write_text(program.replace("NUMBER", number))
        assert status("3") == expected
        assert list((tmp_path / "out.parquet.parts").glob("*.arrow"))
        time.sleep(1)  # until the last process of a killed job has ended
        assert status("2") == 0
        assert output.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
        output.unlink()


@pytest.mark.gpu
def test_all_gpus(model: Path, fasta: str, tmp_path: Path) -> None:
    tables = {}
    for device, devices in (("cpu", "1"), ("cuda", "1"), ("cuda", "all")):
        output = tmp_path / f"{device}-{devices}.parquet"
        embed(model, fasta, output, **{**CHUNKED, "device": device}, devices=devices)
        column = pq.read_table(output)["layer_2"]
        tables[device, devices] = np.array(column.to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(tables["cuda", "all"], tables["cuda", "1"])
    np.testing.assert_allclose(tables["cuda", "1"], tables["cpu", "1"], rtol=0, atol=1e-4)


def test_sums_do_not_depend_on_the_number_of_threads() -> None:
    program = """
import esm1b.inference.devices
import torch
x, weights = torch.randn(128, 1280), torch.randn(320, 1280)
products = []
for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    products.append(torch.nn.functional.linear(x, weights))
assert all(torch.equal(product, products[0]) for product in products)
"""
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=True)


def test_one_device_is_this_process(model: Path) -> None:
    for devices in (1, "1", "all"):
        with load_on_devices(model, devices, device="cpu") as pool:
            assert not pool.has_processes
            assert pool.each(Model.settings)[0]["device"] == "cpu"


@pytest.mark.parametrize("devices", ["0", "-1", "two", "1.5", ""])
def test_wrong_numbers(
    devices: str, model: Path, fasta: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.parquet"
    message = refused(capsys, "embed", model, fasta, "--output", output, f"--devices={devices}")
    assert message == f"devices: {devices!r}; expected a number from 1 on, or all"


def test_gpus_that_are_not_there(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^device: mps, but PyTorch finds no MPS device; "):
        load_model(model, device="mps")
    with (
        pytest.raises(UserError, match=r"^devices: 2, but PyTorch finds 1 MPS device; "),
        load_on_devices(model, 2, device="mps"),
    ):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with (
        pytest.raises(UserError, match=r"^devices: 3, but PyTorch finds 2 CUDA devices; "),
        load_on_devices(model, 3),
    ):
        pass
