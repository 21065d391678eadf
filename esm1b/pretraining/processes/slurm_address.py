"""The address of a SLURM node whose name the network does not know."""

import re
import socket
import subprocess
from dataclasses import replace

from esm1b.errors import UserError
from esm1b.pretraining.processes.launch import Place

__all__ = ["with_known_address"]


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
