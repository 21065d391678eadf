"""Measures what an update moves between two nodes: network namespaces, joined by one link.

    unshare --net python -m tests.pretraining.planning.traffic < CASES.json

Four processes train, two on each node; the counters of the link tell what passed it. A line of JSON
for each case has the parameters, and the bytes of an update in each direction.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed

from esm1b.batches.micro_batch import MicroBatch
from esm1b.config import PretrainingConfig
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.options import Layout
from esm1b.pretraining.start_processes import start_processes

__all__ = ["PROCESSES", "SHAPE"]

PROCESSES = 4
# Matrices of more than 100,000 numbers, which ZeRO 3 does not keep whole.
SHAPE = EncoderShape(layers=2, width=320, heads=4, feed_forward=1280, maximum_tokens=66)
_ADDRESSES = ("10.78.0.1", "10.78.0.2")
_LINK = "link{}"
_CLONE_NEWNET = 0x40000000
_UPDATES = 3


def passed() -> tuple[int, int]:
    """Return the bytes that the link of this node has sent and received."""
    for line in Path("/proc/self/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip().startswith("link"):
            return int(counts.split()[8]), int(counts.split()[0])
    raise AssertionError("no link")


def micro_batch() -> MicroBatch:
    tokens = np.array([0, *range(4, 24), 2])
    return MicroBatch(
        tokens=tokens,
        lengths=np.array([len(tokens)]),
        masked_positions=np.array([3]),
        targets=tokens[[3]],
    )


def measured(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return what passes the link in an update; the first ones also record ZeRO 3's order."""
    encoder = Encoder(SHAPE)
    initialise(encoder, 1)
    file = folder / "deepspeed.json"
    file.write_text(json.dumps({"zero_optimization": case["settings"]}))
    changed = {**PretrainingConfig().model_dump(), "precision": case["precision"]}
    layout = Layout(device="cpu", zero_stage=case["stage"], deepspeed_file=file)
    engine = Engine(
        encoder, PretrainingConfig.model_construct(**changed), layout, torch.device("cpu")
    )
    batches = [micro_batch() for _ in range(case["rounds"])]
    marks = []
    for update in range(2 + _UPDATES + 1):
        if update in (2, 2 + _UPDATES):
            torch.distributed.barrier()
            marks.append(passed())
            torch.distributed.barrier()
        engine.update(batches, masked_in_update=PROCESSES * case["rounds"], learning_rate=1e-4)
    (sent, received), (sent_later, received_later) = marks
    return {
        "parameters": sum(parameter.numel() for parameter in Encoder(SHAPE).parameters()),
        "sent": (sent_later - sent) / _UPDATES,
        "received": (received_later - received) / _UPDATES,
    }


def train(rank: int, cases: list[dict[str, Any]], folder: Path) -> None:
    node = rank // 2
    os.environ["GLOO_SOCKET_IFNAME"] = _LINK.format(node)
    place = Place(
        rank=rank, local_rank=rank % 2, processes=PROCESSES, address=_ADDRESSES[0], port=29500
    )
    start_processes(place, Layout(device="cpu"))
    for case in cases:
        found = measured(case, folder)
        if rank == 0:
            print(json.dumps(found), flush=True)
    torch.distributed.destroy_process_group()


def main() -> None:
    """Make the second node, then be four processes."""
    cases = json.load(sys.stdin)

    def ip(*words: str, node: tuple[str, ...] = ()) -> None:
        subprocess.run([*node, "ip", *words], check=True)

    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) as second,
    ):
        try:
            _wait_for_namespace(second.pid)
            there = ("nsenter", f"--target={second.pid}", "--net")
            ip("link", "add", "link0", "type", "veth", "peer", "name", "link1")
            ip("link", "set", "link1", "netns", str(second.pid))
            for number, node in enumerate(((), there)):
                ip(
                    "addr",
                    "add",
                    f"{_ADDRESSES[number]}/24",
                    "dev",
                    _LINK.format(number),
                    node=node,
                )
                ip("link", "set", _LINK.format(number), "up", node=node)
                ip("link", "set", "lo", "up", node=node)
            children = []
            for rank in range(PROCESSES):
                if (child := os.fork()) == 0:
                    _be(rank, cases, Path(folder), second.pid)
                children.append(child)
            statuses = [os.waitpid(child, 0)[1] for child in children]
        finally:
            second.kill()
    sys.exit(any(statuses))


def _wait_for_namespace(process: int) -> None:
    mine = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{process}/ns/net") == mine:
        pass


def _be(rank: int, cases: list[dict[str, Any]], folder: Path, second: int) -> None:
    try:
        if rank // 2 == 1:
            namespace = os.open(f"/proc/{second}/ns/net", os.O_RDONLY)
            assert ctypes.CDLL(None).setns(namespace, _CLONE_NEWNET) == 0
        own = folder / str(rank)
        own.mkdir()
        train(rank, cases, own)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
