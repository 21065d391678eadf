"""Which process this is, whatever started it: a function of the environment."""

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
# What is the same in all processes that one mpirun starts, and most likely in no others.
_JOB_NAMES: Final = (
    "PMIX_NAMESPACE",  # Open MPI 5
    "OMPI_MCA_ess_base_jobid",  # Open MPI 4
    "I_MPI_HYDRA_UUID",
    "SLURM_JOB_ID",
    "PBS_JOBID",
    "LSB_JOBID",
    "JOB_ID",  # Grid Engine
)
_FIRST_PORT: Final = 20_000
_PORTS: Final = 20_000
# A prime, so that the steps of a job listen far apart.
_PORTS_PER_STEP: Final = 7919


@dataclass(frozen=True, kw_only=True)
class Place:
    """This process among those of the run.

    Attributes:
        rank: from 0, over all nodes.
        local_rank: from 0, on this node; chooses the GPU.
        processes: over all nodes.
        address: host of rank 0.
        port: where rank 0 listens; 0 for a single process.
        launcher: what started it: "torchrun", "deepspeed", "srun", "mpirun" or "none".
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

    MASTER_ADDR and MASTER_PORT, where they are set, are the host of rank 0 and where it listens.
    Otherwise the port follows from the number of the job, so that jobs on one host do not meet
    (MPICH outside a batch system tells none: a second run on the host needs its MASTER_PORT).

    Raises:
        UserError: some variables of a launcher are there and others are missing, no integers, or
            contradict each other; or mpirun spans several nodes and MASTER_ADDR is not set.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        return _from_torch(environment)
    if _any_of(_OPEN_MPI, environment):
        return _from_mpi(environment, _OPEN_MPI, "Open MPI", "mpirun -x MASTER_ADDR=HOST")
    is_hydra = _any_of(("MPI_LOCALRANKID", "MPI_LOCALNRANKS"), environment)
    # srun --mpi=pmi2 sets PMI_RANK and PMI_SIZE too
    if is_hydra or ("SLURM_STEP_ID" not in environment and _any_of(_HYDRA, environment)):
        return _from_mpi(environment, _HYDRA, "MPICH", "mpirun -genv MASTER_ADDR HOST")
    if "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        return _from_slurm(environment)
    return Place()


def is_first_process(environment: Mapping[str, str]) -> bool:
    """Return whether this is rank 0, or cannot tell: the process that speaks to the user."""
    try:
        return place_from_environment(environment).rank == 0
    except UserError:
        return True


def _from_torch(environment: Mapping[str, str]) -> Place:
    values = _required(environment, _TORCH, "torchrun")
    return _checked(
        Place(
            rank=_integer(values, "RANK"),
            local_rank=_integer(values, "LOCAL_RANK"),
            processes=_integer(values, "WORLD_SIZE"),
            address=values["MASTER_ADDR"],
            port=_integer(values, "MASTER_PORT"),
            launcher="deepspeed" if "CROSS_RANK" in environment else "torchrun",
        )
    )


def _from_mpi(
    environment: Mapping[str, str], names: tuple[str, str, str, str], launcher: str, example: str
) -> Place:
    values = _required(environment, names, f"{launcher}'s mpirun")
    rank, local_rank, processes, local_processes = (_integer(values, name) for name in names)
    address = environment.get("MASTER_ADDR")
    if not address:
        if local_processes != processes:
            raise UserError(
                f"environment: MASTER_ADDR not set; expected the host of rank 0, which mpirun does "
                f"not tell and {processes} processes on several nodes need: {example}"
            )
        address = "127.0.0.1"
    job = ":".join(environment[name] for name in _JOB_NAMES if environment.get(name))
    return _checked(
        Place(
            rank=rank,
            local_rank=local_rank,
            processes=processes,
            address=address,
            port=_port(environment, zlib.crc32(job.encode())) if processes > 1 else 0,
            launcher="mpirun",
        )
    )


def _from_slurm(environment: Mapping[str, str]) -> Place:
    values = _required(environment, (*_SLURM, "SLURM_JOB_ID", "SLURM_STEP_ID"), "srun")
    # In the interactive step of salloc, which is one process, SLURM_NTASKS is that of the job.
    is_told = bool(environment.get("SLURM_STEP_NUM_TASKS"))
    processes = _integer(environment, "SLURM_STEP_NUM_TASKS" if is_told else "SLURM_NTASKS")
    address = environment.get("MASTER_ADDR") or "127.0.0.1"
    if processes > 1 and not environment.get("MASTER_ADDR"):
        # SLURM_LAUNCH_NODE_IPADDR is where srun was typed: under salloc, the login node
        nodes = _required(environment, ("SLURM_STEP_NODELIST",), "srun")["SLURM_STEP_NODELIST"]
        address = _first_host(nodes)
    job = _integer(values, "SLURM_JOB_ID") + _PORTS_PER_STEP * _integer(values, "SLURM_STEP_ID")
    return _checked(
        Place(
            rank=_integer(values, "SLURM_PROCID"),
            local_rank=_integer(values, "SLURM_LOCALID"),
            processes=processes,
            address=address,
            port=_port(environment, job) if processes > 1 else 0,
            launcher="srun",
        )
    )


def _first_host(nodes: str) -> str:
    """Return the first of SLURM's list of hosts: "gpu07" of "gpu[07-08,11],login1"."""
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group() if first else "")


def _port(environment: Mapping[str, str], job: int) -> int:
    if environment.get("MASTER_PORT"):
        return _integer(environment, "MASTER_PORT")
    return _FIRST_PORT + job % _PORTS


def _checked(place: Place) -> Place:
    if not 0 <= place.local_rank <= place.rank < place.processes:
        raise UserError(
            f"environment: rank {place.rank} (on its node {place.local_rank}) of {place.processes} "
            f"processes, says {place.launcher}; expected ranks from 0, below the number of "
            "processes"
        )
    if place.processes > 1 and not 0 < place.port < 1 << 16:
        raise UserError(f"environment: MASTER_PORT={place.port}; expected 1 to 65535")
    return place


def _any_of(names: tuple[str, ...], environment: Mapping[str, str]) -> bool:
    return any(name in environment for name in names)


def _required(
    environment: Mapping[str, str], names: tuple[str, ...], launcher: str
) -> dict[str, str]:
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise UserError(
            f"environment: {', '.join(missing)} not set; expected with the other variables of "
            f"{launcher}"
        )
    return {name: environment[name] for name in names}


def _integer(values: Mapping[str, str], name: str) -> int:
    try:
        return int(values[name])
    except ValueError as error:
        raise UserError(f"environment: {name}={values[name]!r}; expected an integer") from error


def with_known_address(place: Place) -> Place:
    """Return `place` with an address for rank 0 that can be reached.

    srun tells the name of a node. Where that is no host name, as with virtual nodes, SLURM knows
    its address.

    Raises:
        UserError: neither the network nor SLURM knows the name.
    """
    if place.launcher != "srun" or place.processes == 1 or _is_host(place.address):
        return place
    command = ["scontrol", "show", "node", "--oneliner", place.address]
    try:
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        told = ""
    found = re.search(r"\bNodeAddr=(\S+)", told)
    if found is None or not _is_host(found.group(1)):
        raise UserError(
            f"environment: rank 0 is on {place.address}, says MASTER_ADDR or else "
            "SLURM_STEP_NODELIST, which is no host that this one knows; expected MASTER_ADDR with "
            "its address"
        )
    return replace(place, address=found.group(1))


def _is_host(name: str) -> bool:
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True
