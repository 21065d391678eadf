"""Runs a function in several processes of their own, as a launcher would.

They are forked from a server that has imported what they need, so that each starts at once.
"""

import multiprocessing
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed

from esm1b.pretraining.distributed.place import Place
from tests.pretraining.fork_server import PRELOADED, environment

__all__ = ["gloo", "in_world"]

_LIMIT_SECONDS = 1200
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([*PRELOADED, "esm1b.pretraining.trainer"])


def in_world(processes: int, function: Callable[..., Any], *arguments: object) -> list[Any]:
    """Return what `function(place, *arguments)` returns in each process, by rank.

    `function` is one of a module, and what it takes and returns can be pickled.
    """
    port = _free_port()
    with patch.dict(os.environ, environment(), clear=True):
        ensure_running()  # or DeepSpeed would look for another accelerator when it is imported
    with TemporaryDirectory() as folder:
        children = []
        for rank in range(processes):
            place = Place(rank=rank, local_rank=rank, processes=processes, port=port)
            target = (Path(folder) / str(rank), environment(), place, function, arguments)
            children.append(_CONTEXT.Process(target=_child, args=target))
        for child in children:
            child.start()
        last = time.monotonic() + _LIMIT_SECONDS
        while any(child.is_alive() for child in children) and time.monotonic() < last:
            if any(child.exitcode for child in children):
                break  # the others would wait for it
            time.sleep(0.05)
        ended = [child.exitcode for child in children]
        for child in children:
            child.kill()
            child.join()
        outcomes = {
            rank: pickle.loads((Path(folder) / str(rank)).read_bytes())
            for rank in range(processes)
            if (Path(folder) / str(rank)).exists()
        }
    failures = [f"process {rank}: {what}" for rank, (failed, what) in outcomes.items() if failed]
    assert not failures, "\n".join([f"exit statuses {ended}", *failures])
    assert len(outcomes) == processes, f"exit statuses {ended}"
    return [outcomes[rank][1] for rank in range(processes)]


@contextmanager
def gloo(place: Place) -> Iterator[None]:
    """Join the other processes of the world without DeepSpeed."""
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{place.port}",
        rank=place.rank,
        world_size=place.processes,
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def _child(
    path: Path,
    variables: dict[str, str],
    place: Place,
    function: Callable[..., Any],
    arguments: tuple[object, ...],
) -> None:
    os.environ.clear()
    os.environ |= variables
    torch.set_num_threads(1)
    try:
        outcome = (False, function(place, *arguments))
    except BaseException:  # the parent shows it
        outcome = (True, traceback.format_exc())
    path.write_bytes(pickle.dumps(outcome))
    if outcome[0]:
        sys.exit(1)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
