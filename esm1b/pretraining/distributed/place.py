"""The place of this process among those of the run, whatever started it, from the environment."""

import platform
import re
import socket
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from esm1b.errors import UserError

_TORCH: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SLURM: Final = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")
# rank, rank on the node, processes, processes on the node
_OPEN_MPI: Final = (
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
)
# the launcher of MPICH and of Intel MPI
_HYDRA: Final = ("PMI_RANK", "MPI_LOCALRANKID", "PMI_SIZE", "MPI_LOCALNRANKS")
# Names of a job: equal in all processes that one mpirun starts, and most likely in no others
_JOB_NAMES: Final = (
    "PMIX_NAMESPACE",  # Open MPI 5
    "OMPI_MCA_ess_base_jobid",  # Open MPI 4
    "I_MPI_HYDRA_UUID",
    "SLURM_JOB_ID",
    "PBS_JOBID",
    "LSB_JOBID",
    "JOB_ID",  # Grid Engine
)
_PORTS: Final = range(20_000, 40_000)
# a prime, so that the steps of a job listen far apart
_PORTS_PER_STEP: Final = 7919


@dataclass(frozen=True, kw_only=True)
class Place:
    """This process among those of the run.

    Attributes:
        rank: number of the process, from 0, over all nodes.
        local_rank: number of the process, from 0, on this node; chooses the GPU.
        processes: number of processes, over all nodes.
        address: host of rank 0.
        port: port on which rank 0 listens; 0 for a single process.
        launcher: program that started the process: "torchrun", "deepspeed", "srun", "mpirun" or
            "none".
    """

    rank: int = 0
    local_rank: int = 0
    processes: int = 1
    address: str = "127.0.0.1"
    port: int = 0
    launcher: str = "none"

    def environment(self) -> dict[str, str]:
        """Return torch's five variables."""
        values = (self.rank, self.local_rank, self.processes, self.address, self.port)
        return dict(zip(_TORCH, map(str, values), strict=True))


def place_from_environment(environment: Mapping[str, str]) -> Place:
    """Return the place that the variables of a launcher name, or else a single process.

    torchrun and the deepspeed launcher set torch's variables, which count before all others; then
    come Open MPI's mpirun, Hydra (the mpirun of MPICH and Intel MPI), which both start their
    daemons with srun inside a SLURM job, and srun.

    MASTER_ADDR and MASTER_PORT, where they are set, are the host and the port of rank 0. Otherwise
    the port follows from the number of the job, so that jobs on one host do not meet (outside a
    batch system MPICH has no such number: a second run on the host needs its own MASTER_PORT).

    Raises:
        UserError: some variables of a launcher are set and others are missing, not integers, or
            contradict each other; or mpirun spans several nodes and MASTER_ADDR is not set.
    """
    place = _read_place(environment)
    if not 0 <= place.local_rank <= place.rank < place.processes:
        raise UserError(
            f"environment: {place.launcher} names rank {place.rank} (on its node "
            f"{place.local_rank}) of {place.processes} processes; expected ranks from 0, below the "
            "number of processes"
        )
    if place.processes > 1 and not 0 < place.port < 1 << 16:
        raise UserError(f"environment: MASTER_PORT={place.port}; expected 1 to 65535")
    return place


def is_first_process(environment: Mapping[str, str]) -> bool:
    """Return whether this is rank 0, or cannot tell: the process that speaks to the user."""
    try:
        return place_from_environment(environment).rank == 0
    except UserError:
        return True


def _read_place(environment: Mapping[str, str]) -> Place:
    names = environment.keys()
    if names & {"RANK", "WORLD_SIZE"}:
        return _from_torch(environment)
    if names & {*_OPEN_MPI}:
        return _from_mpi(environment, _OPEN_MPI, "Open MPI", "mpirun -x MASTER_ADDR=HOST")
    # srun --mpi=pmi2 sets PMI_RANK and PMI_SIZE too
    is_step = "SLURM_STEP_ID" in environment
    if names & {"MPI_LOCALRANKID", "MPI_LOCALNRANKS"} or (not is_step and names & {*_HYDRA}):
        return _from_mpi(environment, _HYDRA, "MPICH", "mpirun -genv MASTER_ADDR HOST")
    # sbatch sets SLURM_PROCID for the script itself, which is not a step
    return _from_slurm(environment) if is_step and "SLURM_PROCID" in environment else Place()


def _from_torch(environment: Mapping[str, str]) -> Place:
    _require(environment, _TORCH, "torchrun")
    return Place(
        rank=_integer(environment, "RANK"),
        local_rank=_integer(environment, "LOCAL_RANK"),
        processes=_integer(environment, "WORLD_SIZE"),
        address=environment["MASTER_ADDR"],
        port=_integer(environment, "MASTER_PORT"),
        launcher="deepspeed" if "CROSS_RANK" in environment else "torchrun",
    )


def _from_mpi(
    environment: Mapping[str, str], names: tuple[str, str, str, str], launcher: str, example: str
) -> Place:
    _require(environment, names, f"{launcher}'s mpirun")
    rank, local_rank, processes, local_processes = (_integer(environment, name) for name in names)
    address = environment.get("MASTER_ADDR")
    if not address and local_processes != processes:
        raise UserError(
            "environment: MASTER_ADDR not set; expected the host of rank 0, since mpirun does not "
            f"give it to {processes} processes on several nodes: {example}"
        )
    job = ":".join(environment[name] for name in _JOB_NAMES if environment.get(name))
    return Place(
        rank=rank,
        local_rank=local_rank,
        processes=processes,
        address=address or "127.0.0.1",
        port=_port(environment, zlib.crc32(job.encode())) if processes > 1 else 0,
        launcher="mpirun",
    )


def _from_slurm(environment: Mapping[str, str]) -> Place:
    _require(environment, (*_SLURM, "SLURM_JOB_ID", "SLURM_STEP_ID"), "srun")
    # In the interactive step of salloc, which is one process, SLURM_NTASKS is that of the job.
    tasks = "SLURM_STEP_NUM_TASKS" if environment.get("SLURM_STEP_NUM_TASKS") else "SLURM_NTASKS"
    processes = _integer(environment, tasks)
    address = environment.get("MASTER_ADDR") or "127.0.0.1"
    if processes > 1 and not environment.get("MASTER_ADDR"):
        # SLURM_LAUNCH_NODE_IPADDR is the node where srun was typed: under salloc, the login node
        _require(environment, ("SLURM_STEP_NODELIST",), "srun")
        address = _first_host(environment["SLURM_STEP_NODELIST"])
    step = _integer(environment, "SLURM_STEP_ID")
    job = _integer(environment, "SLURM_JOB_ID") + _PORTS_PER_STEP * step
    return Place(
        rank=_integer(environment, "SLURM_PROCID"),
        local_rank=_integer(environment, "SLURM_LOCALID"),
        processes=processes,
        address=address,
        port=_port(environment, job) if processes > 1 else 0,
        launcher="srun",
    )


def _first_host(nodes: str) -> str:
    """Return the first of SLURM's list of hosts: "gpu07" of "gpu[07-08,11],login1"."""
    # the first item: commas inside brackets do not end it
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)
    # in each pair of brackets, the first number: it ends at a comma or a hyphen
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group() if first else "")


def _port(environment: Mapping[str, str], job: int) -> int:
    if environment.get("MASTER_PORT"):
        return _integer(environment, "MASTER_PORT")
    return _PORTS[job % len(_PORTS)]


def _require(environment: Mapping[str, str], names: tuple[str, ...], launcher: str) -> None:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise UserError(
            f"environment: {', '.join(missing)} not set; expected with the other variables of "
            f"{launcher}"
        )


def _integer(environment: Mapping[str, str], name: str) -> int:
    try:
        return int(environment[name])
    except ValueError as error:
        text = environment[name]
        raise UserError(f"environment: {name}={text!r}; expected an integer") from error


def with_known_address(place: Place) -> Place:
    """Return `place` with an address for rank 0 that can be reached.

    srun gives the name of a node. Where that is not a host name, as with virtual nodes, SLURM knows
    the node's address.

    Raises:
        UserError: neither the network nor SLURM knows the name.
    """
    if place.launcher != "srun" or place.processes == 1 or _is_host(place.address):
        return place
    command = ["scontrol", "show", "node", "--oneliner", place.address]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        answer = ""
    found = re.search(r"\bNodeAddr=(\S+)", answer)
    if found is None or not _is_host(found.group(1)):
        raise UserError(
            f"environment: rank 0 is on {place.address} according to MASTER_ADDR or else "
            f"SLURM_STEP_NODELIST, and {platform.node()} cannot resolve that name; expected "
            "MASTER_ADDR with its address"
        )
    return replace(place, address=found.group(1))


def _is_host(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True
