import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from esm1b.config import TrainingPrecision
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.planning.gpus import find_gpu
from esm1b.pretraining.planning.memory import TrainingMemory, ZeroStage
from esm1b.pretraining.planning.network import (
    Traffic,
    slowest_connection,
    transfers,
    update_traffic,
)
from tests.pretraining.fork_server import environment

ROOT = Path(__file__).parents[3]
P = 652_358_433  # parameters


def memory(
    precision: TrainingPrecision, processes: int = 64, shape: EncoderShape | None = None
) -> TrainingMemory:
    return TrainingMemory(
        shape=EncoderShape() if shape is None else shape, precision=precision, processes=processes
    )


def rate(gpu: str, gpus: int, link_gbit: float | None = None) -> float | None:
    return slowest_connection(find_gpu(gpu), gpus=gpus, gpus_per_node=8, link_gbit=link_gbit)


@pytest.mark.parametrize(
    ("precision", "stage", "rounds", "reduced", "scattered", "gathered"),
    [
        ("fp32", 0, 3, 4 * P, 0, 0),
        ("fp32", 1, 3, 4 * P, 0, 4 * P),
        ("bf16", 1, 3, 4 * P, 0, 2 * P),
        ("bf16", 2, 1, 4 * P, 0, 2 * P),
        ("bf16", 2, 3, 12 * P, 0, 2 * P),
        ("bf16", 3, 1, 0, 4 * P, 2 * P),
        ("fp16", 3, 3, 0, 12 * P, 6 * P),
    ],
)
def test_what_an_update_moves(
    precision: TrainingPrecision,
    stage: ZeroStage,
    rounds: int,
    reduced: int,
    scattered: int,
    gathered: int,
) -> None:
    assert update_traffic(memory(precision), stage, rounds=rounds) == Traffic(
        all_reduced=reduced, reduce_scattered=scattered, gathered=gathered
    )


def test_weights_that_stage_3_does_not_keep_are_gathered_twice() -> None:
    traffic = update_traffic(memory("bf16"), 3, rounds=1, live_parameters=500_000_000)
    assert traffic.gathered == 2 * (P + 152_358_433)


def test_a_ring_passes_on_all_but_a_processs_own_share() -> None:
    traffic = Traffic(all_reduced=1000, reduce_scattered=100, gathered=10)
    assert traffic.sent(1) == 0
    assert traffic.sent(2) == 1055
    assert traffic.sent(4) == 1582.5


def test_the_slowest_connection_counts() -> None:
    assert rate("A100", 64, 200) == 25e9
    assert rate("A100", 64, 8 * 400) == 300e9  # NVLink
    assert rate("A100", 8, 200) == 300e9
    assert rate("A40", 16, 100) == 12.5e9
    assert rate("A100", 64) is None
    assert rate("RTX4090", 2) is None


def test_times_by_hand() -> None:
    (found,) = transfers(
        memory("bf16", 64),
        bytes_per_second=25e9,
        micro_batch_tokens={1: 1024, 2: None},
        tokens_per_update=131_072,
        updates=500_000,
        compute_seconds=0.054,
        time_limit_seconds=12 * 3600,
    ).values()
    assert found.rounds == 2
    assert found.sent_bytes == 10 * P * 63 / 64  # 6.42 GB
    assert found.seconds == pytest.approx(0.25686, abs=1e-5)  # at 25 GB/s
    assert found.hours_overlapped == pytest.approx(35.68, abs=0.01)
    assert found.hours_in_turn == pytest.approx(43.18, abs=0.01)
    assert found.jobs == 4
    assert found.is_slow
    assert found.wanted_gbit == pytest.approx(1903, abs=1)  # 6.42 GB in 27 ms


CASES: list[tuple[TrainingPrecision, ZeroStage, int, int | None]] = [
    *(("fp32", 0, 1, None), ("fp32", 1, 1, None), ("fp32", 2, 1, None), ("fp32", 3, 1, None)),
    *(("bf16", 1, 2, None), ("bf16", 2, 2, None), ("bf16", 3, 2, None)),
    # less than the network keeps by default
    ("fp32", 3, 1, 1_500_000),
]


def _namespace() -> tuple[str, ...]:
    """Return what runs a command in a network of its own."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    return ("unshare", *user, "--net")


def _nodes_can_be_made() -> bool:
    link = ("ip", "link", "add", "link0", "type", "veth", "peer", "name", "link1")
    try:
        return not subprocess.run([*_namespace(), *link], capture_output=True).returncode
    except OSError:
        return False


@pytest.mark.slow
def test_the_link_between_two_nodes_sees_what_is_told() -> None:
    if not _nodes_can_be_made():
        pytest.skip("needs unshare, ip and the right to make network namespaces")
    from tests.pretraining.planning.traffic import PROCESSES, SHAPE

    cases: list[dict[str, Any]] = [
        {
            "precision": precision,
            "stage": stage,
            "rounds": rounds,
            "settings": {}
            if live is None
            else {
                "stage3_max_live_parameters": live,
                "stage3_max_reuse_distance": live,
                "stage3_prefetch_bucket_size": live // 20,
            },
        }
        for precision, stage, rounds, live in CASES
    ]
    result = subprocess.run(
        [*_namespace(), sys.executable, "-m", "tests.pretraining.planning.traffic"],
        cwd=ROOT,
        env=environment(),
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    for case, line in zip(CASES, result.stdout.splitlines(), strict=True):
        found = json.loads(line)
        precision, stage, rounds, live = case
        assert found["parameters"] == SHAPE.parameters()
        limit = {} if live is None else {"live_parameters": live}
        traffic = update_traffic(memory(precision, PROCESSES, SHAPE), stage, rounds=rounds, **limit)
        # gloo has no reduce-scatter: torch makes an all-reduce of it, which moves twice as much
        gloo = Traffic(
            all_reduced=traffic.all_reduced + traffic.reduce_scattered,
            reduce_scattered=0,
            gathered=traffic.gathered,
        )
        expected = gloo.sent(PROCESSES)
        print(f"{case}: {found['sent'] / 1e6:.2f} MB, expected {expected / 1e6:.2f}")
        assert found["sent"] == pytest.approx(expected, rel=0.1), case
        assert found["received"] == pytest.approx(expected, rel=0.1), case
