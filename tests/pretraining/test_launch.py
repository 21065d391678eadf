import pytest

from esm1b.errors import UserError
from esm1b.pretraining.launch import Place, place_from_environment

TORCHRUN = {
    "RANK": "5",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "8",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29400",
}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_JOB_ID": "1234567",
    "SLURM_STEP_ID": "0",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
}


def refusal(environment: dict[str, str]) -> str:
    with pytest.raises(UserError) as caught:
        place_from_environment(environment)
    return str(caught.value)


def test_alone() -> None:
    alone = Place(rank=0, local_rank=0, processes=1, address="127.0.0.1", port=0, launcher="none")
    assert place_from_environment({"HOME": "/root"}) == alone


def test_under_torchrun() -> None:
    place = place_from_environment(TORCHRUN)
    assert place == Place(
        rank=5, local_rank=1, processes=8, address="node1", port=29400, launcher="torchrun"
    )
    assert place.environment() == TORCHRUN
    # torchrun within a SLURM job: its own variables count
    assert place_from_environment(SRUN | TORCHRUN) == place


def test_under_srun() -> None:
    place = place_from_environment(SRUN)
    assert place == Place(
        # 1,234,567 mod 20,000 = 14,567
        rank=5,
        local_rank=1,
        processes=8,
        address="10.0.0.7",
        port=34567,
        launcher="srun",
    )
    assert place.environment() == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "10.0.0.7",
        "MASTER_PORT": "34567",
    }


def test_one_task_under_srun_needs_no_address() -> None:
    environment = SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}
    del environment["SLURM_LAUNCH_NODE_IPADDR"]
    place = place_from_environment(environment)
    assert (place.processes, place.port, place.launcher) == (1, 0, "srun")


def test_in_a_batch_script_without_srun() -> None:
    # sbatch sets SLURM_PROCID for the script itself, which is no step
    environment = {"SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}
    assert place_from_environment(environment) == Place()


@pytest.mark.parametrize("name", sorted(TORCHRUN))
def test_incomplete_torchrun(name: str) -> None:
    environment = {key: value for key, value in TORCHRUN.items() if key != name}
    assert refusal(environment) == (
        f"environment: {name} not set; expected with the other variables of torchrun"
    )


@pytest.mark.parametrize(
    "name", ["SLURM_LOCALID", "SLURM_NTASKS", "SLURM_JOB_ID", "SLURM_LAUNCH_NODE_IPADDR"]
)
def test_incomplete_srun(name: str) -> None:
    environment = {key: value for key, value in SRUN.items() if key != name}
    assert refusal(environment) == (
        f"environment: {name} not set; expected with the other variables of srun"
    )


def test_no_integer() -> None:
    assert refusal(TORCHRUN | {"RANK": "first"}) == (
        "environment: RANK='first'; expected an integer"
    )
    assert refusal(SRUN | {"SLURM_NTASKS": "8x2"}) == (
        "environment: SLURM_NTASKS='8x2'; expected an integer"
    )
