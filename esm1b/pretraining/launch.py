"""Which process this is, whatever started it."""

from collections.abc import Mapping
from dataclasses import dataclass

from esm1b.errors import UserError

__all__ = ["Place", "place_from_environment"]

_TORCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS")
_FIRST_PORT = 20_000
_PORTS = 20_000


@dataclass(frozen=True, kw_only=True)
class Place:
    """This process among those of the run.

    Attributes:
        rank: from 0, over all nodes.
        local_rank: from 0, on this node; chooses the GPU.
        processes: over all nodes.
        address: host of rank 0.
        port: where rank 0 listens; 0 for a single process.
        launcher: what started it, for the log.
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
    """Return the place that torchrun's variables name, or else srun's, or else a single process.

    The port of a SLURM job follows from its number, so that jobs on one host do not meet.

    Raises:
        UserError: some variables of a launcher are there and others are missing or no integers.
    """
    if "RANK" in environment or "WORLD_SIZE" in environment:
        values = _required(environment, _TORCH, "torchrun")
        return Place(
            rank=_integer(values, "RANK"),
            local_rank=_integer(values, "LOCAL_RANK"),
            processes=_integer(values, "WORLD_SIZE"),
            address=values["MASTER_ADDR"],
            port=_integer(values, "MASTER_PORT"),
            launcher="torchrun",
        )
    if "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        values = _required(environment, (*_SLURM, "SLURM_JOB_ID"), "srun")
        processes = _integer(values, "SLURM_NTASKS")
        if processes > 1:
            values |= _required(environment, ("SLURM_LAUNCH_NODE_IPADDR",), "srun")
        return Place(
            rank=_integer(values, "SLURM_PROCID"),
            local_rank=_integer(values, "SLURM_LOCALID"),
            processes=processes,
            address=values.get("SLURM_LAUNCH_NODE_IPADDR", "127.0.0.1"),
            port=_FIRST_PORT + _integer(values, "SLURM_JOB_ID") % _PORTS if processes > 1 else 0,
            launcher="srun",
        )
    return Place()


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
