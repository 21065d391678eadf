import os
from pathlib import Path

import pytest
import torch
import torch.distributed

from esm1b.errors import UserError
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.start_processes import (
    gpu_of,
    record_collectives,
    warn_if_alone,
    wrong_results,
)


@pytest.mark.parametrize(
    ("environment", "gpus", "reason"),
    [
        ({}, 0, None),
        ({"SLURM_NTASKS": "1"}, 1, None),
        ({"SLURM_NTASKS": "8"}, 0, "one process trains alone, though the SLURM job has 8 tasks;"),
        ({}, 4, "one process trains alone, though 4 GPUs are visible; to start more: srun "),
        ({"SLURM_NTASKS": "8"}, 4, "though the SLURM job has 8 tasks and 4 GPUs are visible;"),
    ],
)
def test_a_process_that_trains_alone_by_mistake(
    environment: dict[str, str], gpus: int, reason: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    warn_if_alone(environment, gpus=gpus)
    assert len(caplog.messages) == (reason is not None)
    assert all(reason in message for message in caplog.messages if reason)


@pytest.mark.parametrize(
    ("launcher", "visible", "gpu"),
    [("torchrun", 4, 3), ("srun", 4, 3), ("srun", 1, 0)],
)
def test_each_process_takes_a_gpu_of_its_own(launcher: str, visible: int, gpu: int) -> None:
    place = Place(rank=7, local_rank=3, processes=8, launcher=launcher)
    assert gpu_of(place, visible=visible) == gpu


@pytest.mark.parametrize(("launcher", "visible"), [("torchrun", 1), ("srun", 2), ("srun", 0)])
def test_a_process_without_a_gpu_is_refused(launcher: str, visible: int) -> None:
    place = Place(rank=7, local_rank=3, processes=8, launcher=launcher)
    with pytest.raises(UserError, match=f"process 3 of this node has no GPU, {visible} are there"):
        gpu_of(place, visible=visible)


NAMES = ["TORCH_FR_BUFFER_SIZE", "TORCH_NCCL_DUMP_ON_TIMEOUT", "TORCH_FR_DUMP_TEMP_FILE"]


def test_nccl_records_its_collectives_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    record_collectives(tmp_path)
    assert [os.environ[name] for name in NAMES] == ["2000", "1", f"{tmp_path}/nccl-trace-"]
    theirs = {"TORCH_NCCL_TRACE_BUFFER_SIZE": "10", "TORCH_NCCL_DUMP_ON_TIMEOUT": "0"}
    monkeypatch.setattr(os, "environ", dict(theirs))
    record_collectives(tmp_path)
    assert os.environ == theirs | {"TORCH_FR_DUMP_TEMP_FILE": f"{tmp_path}/nccl-trace-"}


def test_a_wrong_sum_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(rank=1, local_rank=1, processes=3)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.fill_(6.0))
    assert wrong_results(place, torch.device("cpu")) == []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda total: total.fill_(4.0))
    assert wrong_results(place, torch.device("cpu")) == [
        "cpu: a sum over all processes is 4, not 6"
    ]
