from dataclasses import replace
from pathlib import Path

import pytest

from esm1b.errors import UserError
from esm1b.pretraining.distributed.place import (
    Place,
    is_first_process,
    place_from_environment,
    with_known_address,
)

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
    "SLURM_STEP_NODELIST": "gpu[07-08,11]",
}
# As Open MPI 5.0.11, MPICH 5.0.2 and Intel MPI 2021.18 set them.
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "PMIX_NAMESPACE": "prterun-vm-7183@1",
    "PMIX_RANK": "1",
}
HYDRA = {
    "PMI_RANK": "1",
    "PMI_SIZE": "2",
    "PMI_FD": "11",
    "MPI_LOCALRANKID": "1",
    "MPI_LOCALNRANKS": "2",
}
# srun starts one daemon of mpirun on each node, which the processes inherit from
MPI_DAEMON = SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "1"}
OTHER_NODE = {"MASTER_ADDR": "node1", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"} | {
    "OMPI_COMM_WORLD_LOCAL_RANK": "0"
}
BY_TORCH = Place(
    rank=5, local_rank=1, processes=8, address="node1", port=29400, launcher="torchrun"
)
# 1,234,567 mod 20,000 = 14,567
BY_SLURM = Place(rank=5, local_rank=1, processes=8, address="gpu07", port=34567, launcher="srun")
# zlib.crc32(b"prterun-vm-7183@1") = 4,271,229,112
BY_MPI = Place(
    rank=1, local_rank=1, processes=2, address="127.0.0.1", port=29112, launcher="mpirun"
)

PLACES: dict[str, tuple[dict[str, str], Place]] = {
    "alone": ({"HOME": "/root"}, Place()),
    "torchrun": (TORCHRUN, BY_TORCH),
    "torchrun within a SLURM job": (
        SRUN | TORCHRUN,
        BY_TORCH,
    ),
    "deepspeed": (
        TORCHRUN | {"CROSS_RANK": "1", "CROSS_SIZE": "2", "LOCAL_SIZE": "4"},
        replace(BY_TORCH, launcher="deepspeed"),
    ),
    "srun": (SRUN, BY_SLURM),
    # 1,234,567 + 7,919 = 1,242,486, mod 20,000 = 2,486
    "another step of the job": (
        SRUN | {"SLURM_STEP_ID": "1"},
        replace(BY_SLURM, port=22486),
    ),
    "srun, address told": (
        SRUN | {"MASTER_ADDR": "node1", "MASTER_PORT": "30000"},
        replace(BY_SLURM, address="node1", port=30000),
    ),
    "srun --mpi=pmi2": (
        SRUN | {"PMI_RANK": "5", "PMI_SIZE": "8"},
        BY_SLURM,
    ),
    "one task under srun": (
        {key: value for key, value in MPI_DAEMON.items() if key != "SLURM_STEP_NODELIST"},
        Place(launcher="srun"),
    ),
    "the whole job told beside the step": (
        SRUN | {"SLURM_NTASKS": "16", "SLURM_STEP_NUM_TASKS": "8"},
        BY_SLURM,
    ),
    # as SLURM sets them in the shell that salloc -n 8 gives (LaunchParameters=use_interactive_step)
    "the interactive step of salloc": (
        SRUN
        | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
        | {"SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"},
        Place(launcher="srun"),
    ),
    # sbatch sets SLURM_PROCID for the script itself, which is no step
    "a batch script without srun": (
        {"SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"},
        Place(),
    ),
    "Open MPI": (OPEN_MPI, BY_MPI),
    "Open MPI on two nodes": (
        OPEN_MPI | OTHER_NODE | {"MASTER_PORT": "31000"},
        replace(BY_MPI, local_rank=0, address="node1", port=31000),
    ),
    # without the name of a job: crc32 of nothing is 0
    "MPICH": (HYDRA, replace(BY_MPI, port=20000)),
    # zlib.crc32(b"1234567") = 1,342,400,927
    "MPICH within a SLURM job": (MPI_DAEMON | HYDRA, replace(BY_MPI, port=20927)),
    "one process under mpirun": (
        {"PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"},
        Place(launcher="mpirun"),
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_place(name: str) -> None:
    environment, place = PLACES[name]
    assert place_from_environment(environment) == place


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("n[1-2]", "n1"),
        ("gpu-a[009,011-014].cluster,cpu1", "gpu-a009.cluster"),
        ("rack[2-3]-node[01-16]", "rack2-node01"),
    ],
)
def test_rank_0_of_srun_is_on_the_first_node_of_the_step(nodes: str, host: str) -> None:
    assert place_from_environment(SRUN | {"SLURM_STEP_NODELIST": nodes}).address == host


def missing(environment: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key != name}


REFUSED: list[tuple[dict[str, str], str]] = [
    *(
        (
            missing(TORCHRUN, name),
            f"environment: {name} not set; expected with the other variables of torchrun",
        )
        for name in TORCHRUN
    ),
    *(
        (
            missing(SRUN, name),
            f"environment: {name} not set; expected with the other variables of srun",
        )
        for name in ("SLURM_LOCALID", "SLURM_NTASKS", "SLURM_JOB_ID", "SLURM_STEP_NODELIST")
    ),
    *(
        (
            missing(OPEN_MPI, name),
            f"environment: {name} not set; expected with the other variables of Open MPI's mpirun",
        )
        for name in list(OPEN_MPI)[:4]
    ),
    *(
        (
            missing(HYDRA, name),
            f"environment: {name} not set; expected with the other variables of MPICH's mpirun",
        )
        for name in ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
    ),
    (
        OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"},
        "environment: MASTER_ADDR not set; expected the host of rank 0, since mpirun does not give "
        "it to 2 processes on several nodes: mpirun -x MASTER_ADDR=HOST",
    ),
    (
        HYDRA | {"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"},
        "environment: MASTER_ADDR not set; expected the host of rank 0, since mpirun does not give "
        "it to 2 processes on several nodes: mpirun -genv MASTER_ADDR HOST",
    ),
    (TORCHRUN | {"RANK": "first"}, "environment: RANK='first'; expected an integer"),
    (SRUN | {"SLURM_NTASKS": "8x2"}, "environment: SLURM_NTASKS='8x2'; expected an integer"),
    *(
        (
            TORCHRUN | {"MASTER_PORT": port},
            f"environment: MASTER_PORT={port}; expected 1 to 65535",
        )
        for port in ("0", "65536")
    ),
    (
        TORCHRUN | {"RANK": "8"},
        "environment: torchrun names rank 8 (on its node 1) of 8 processes; expected ranks from 0, "
        "below the number of processes",
    ),
]


@pytest.mark.parametrize(("environment", "message"), REFUSED)
def test_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        place_from_environment(environment)
    assert str(caught.value) == message


def test_for_torch() -> None:
    assert place_from_environment(TORCHRUN).environment() == TORCHRUN
    assert place_from_environment(SRUN).environment() == {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "MASTER_ADDR": "gpu07",
        "MASTER_PORT": "34567",
    }


def test_the_process_that_speaks() -> None:
    assert is_first_process({})
    assert not is_first_process(TORCHRUN)
    assert is_first_process(TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"})
    assert not is_first_process(MPI_DAEMON | HYDRA)
    # a refusal has to be heard
    assert is_first_process(missing(TORCHRUN, "MASTER_PORT"))


# reserved names never resolve (RFC 2606)
VIRTUAL = Place(rank=1, local_rank=0, processes=2, address="n1.invalid", port=20000)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "scontrol"
    program.write_text(
        '#!/bin/sh\n[ "$*" = "show node --oneliner n1.invalid" ] || exit 1\n'
        "echo 'NodeName=n1.invalid CPUTot=1 NodeAddr=127.0.0.1 NodeHostName=vm Port=17001'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return program


def test_slurm_tells_the_address_of_a_node_that_is_no_host(scontrol: Path) -> None:
    place = with_known_address(replace(VIRTUAL, launcher="srun"))
    assert place == replace(VIRTUAL, launcher="srun", address="127.0.0.1")


def test_a_host_and_other_launchers_addresses_stay(scontrol: Path) -> None:
    scontrol.write_text("#!/bin/sh\necho NodeAddr=10.0.0.9\n")
    for place in (
        replace(VIRTUAL, launcher="srun", address="localhost"),
        replace(VIRTUAL, launcher="torchrun"),
        replace(VIRTUAL, launcher="srun", rank=0, processes=1),
    ):
        assert with_known_address(place) == place


@pytest.mark.parametrize("program", ["#!/bin/sh\nexit 1\n", None])
def test_a_node_that_nobody_knows_is_refused(scontrol: Path, program: str | None) -> None:
    scontrol.unlink() if program is None else scontrol.write_text(program)
    with pytest.raises(UserError, match=r"rank 0 is on n1\.invalid.*expected MASTER_ADDR"):
        with_known_address(replace(VIRTUAL, launcher="srun"))
