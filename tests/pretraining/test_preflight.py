"""Nodes that differ: threads play their processes, and each fact is made to differ once."""

import platform
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]  # not in __all__

from esm1b.config import Config, parse_config
from esm1b.errors import Ending
from esm1b.files import read_json, write_json
from esm1b.pretraining import preflight as module
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.options import Layout
from esm1b.pretraining.preflight import preflight, source_digest


def configuration(**recipe: Any) -> Config:
    content = {"model": {"layers": 2, "width": 16, "heads": 2}, "pretraining": recipe}
    return parse_config(content, origin="config.yaml")


@dataclass(frozen=True, kw_only=True)
class Node:
    """What a node has, and what its commands are given."""

    name: str
    tokens: Path
    checkpoints: Path
    config: Config = field(default_factory=configuration)
    layout: Layout = field(default_factory=lambda: Layout(device="cpu"))
    versions: dict[str, str] = field(default_factory=dict)
    source: str = "0123456789ab"


class Cluster:
    """Nodes with two processes each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, tokens: Path) -> None:
        self.output = folder / "model"
        self.good = [
            Node(name=f"n{number}", tokens=tokens, checkpoints=folder / "checkpoints")
            for number in (1, 2, 3)
        ]
        self._local = threading.local()
        monkeypatch.setattr(platform, "node", lambda: self._local.node.name)
        monkeypatch.setattr(module, "source_digest", lambda: self._local.node.source)
        monkeypatch.setattr(module, "versions", lambda: self._local.node.versions)
        monkeypatch.setattr(module, "_SIGHT_SECONDS", 0.2)

    def messages(self, *nodes: Node) -> set[str]:
        """Return the messages of all processes, which must end with status 2."""
        places = [
            Place(rank=rank, local_rank=rank % 2, processes=2 * len(nodes), launcher="srun")
            for rank in range(2 * len(nodes))
        ]
        store = HashStore()

        def start(place: Place) -> str:
            self._local.node = node = nodes[place.rank // 2]
            try:
                train, held_out = preflight(
                    *(node.config, node.tokens, node.checkpoints, self.output, node.layout),
                    place,
                    store,
                    limit_seconds=30,
                )
            except Ending as ending:
                is_shared = (ending.status, ending.is_shared) == (2, True)
                return str(ending) if is_shared else repr(ending)
            assert len(train) > len(held_out) > 0
            return ""

        with ThreadPoolExecutor(len(places)) as executor:
            return set(executor.map(start, places))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tokens_directory: Path) -> Cluster:
    return Cluster(monkeypatch, tmp_path, tokens_directory)


@pytest.fixture
def other_tokens(tmp_path: Path, tokens_directory: Path) -> Path:
    """Tokens of another corpus, as far as their manifest says."""
    copy = tmp_path / "n2" / "tokens"
    shutil.copytree(tokens_directory, copy)
    write_json(
        copy / "manifest.json", read_json(copy / "manifest.json") | {"fingerprint": "f" * 64}
    )
    return copy


def test_nodes_that_are_alike_leave_no_mark(cluster: Cluster) -> None:
    assert cluster.messages(*cluster.good) == {""}
    assert list(cluster.good[0].checkpoints.iterdir()) == []


Change = Callable[[Node, Path], Node]
CHANGES: list[tuple[Change, str]] = [
    (lambda node, _: replace(node, source="x"), "package source x, others 0123456789ab"),
    (
        lambda node, _: replace(node, config=configuration(learning_rate=0.5)),
        "pretraining.learning_rate 0.5, others 0.006",
    ),
    (
        lambda node, _: replace(node, layout=Layout(device="cpu", zero_stage=2)),
        "--zero-stage 2, others 1",
    ),
    (
        lambda node, folder: replace(node, tokens=folder / "none"),
        "{folder}/none: no manifest.json; expected a directory of esm1b-tokens",
    ),
    (
        lambda node, folder: replace(node, checkpoints=folder / "n2"),
        "{folder}/n2: not the directory that rank 0 has there; expected a shared one",
    ),
]


@pytest.mark.parametrize(("change", "told"), CHANGES, ids=[told for _, told in CHANGES])
def test_each_difference_is_told(
    cluster: Cluster, tmp_path: Path, change: Change, told: str
) -> None:
    first, second, third = cluster.good
    culprit = change(second, tmp_path)
    message = f"n2 (ranks 2-3): {told.format(folder=tmp_path)}"
    assert cluster.messages(first, culprit, third) == {message}


def test_two_culprits_at_once_are_both_told(cluster: Cluster, other_tokens: Path) -> None:
    first, second, third = cluster.good
    ours = {"python": "3.11.2", "deepspeed": "0.19.8"}
    fingerprint = read_json(first.tokens / "manifest.json")["fingerprint"]
    assert cluster.messages(
        replace(first, versions=ours),
        replace(second, versions=ours, tokens=other_tokens),
        replace(third, versions=ours | {"deepspeed": "0.18.0"}),
    ) == {
        "n3 (ranks 4-5): deepspeed 0.18.0, others 0.19.8; "
        f"n2 (ranks 2-3): tokens {'f' * 12}, others {fingerprint[:12]}"
    }


def test_another_torch_is_told(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    class Torch:
        """The module, with a version of its own on n2."""

        def __getattr__(self, name: str) -> Any:
            is_other = name == "__version__" and cluster._local.node.name == "n2"
            return "2.12.0" if is_other else getattr(torch, name)

    monkeypatch.setattr(module, "torch", Torch())
    assert cluster.messages(*cluster.good) == {
        f"n2 (ranks 2-3): torch 2.12.0, others {torch.__version__}"
    }


def test_unreadable_tokens(cluster: Cluster, other_tokens: Path) -> None:
    first, second, third = cluster.good
    shutil.copy(first.tokens / "manifest.json", other_tokens)
    path = other_tokens / "train" / "00000.arrow"
    path.write_bytes(b"\0" * path.stat().st_size)
    (message,) = cluster.messages(first, replace(second, tokens=other_tokens), third)
    assert message.startswith(f"n2 (ranks 2-3): {path}: ")
    assert message.endswith("; expected an Arrow file of tokens")


def test_a_full_disk_is_told_beside_another_culprit(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(free=5)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    first, second, third = cluster.good
    (message,) = cluster.messages(first, replace(second, source="x"), third)
    assert f"n1 (rank 0): {first.checkpoints}: 5 bytes are free; expected " in message
    assert "n2 (ranks 2-3): package source x, others 0123456789ab" in message


def test_a_job_with_gpus_that_torch_does_not_see(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_GPUS", "0,1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cluster.messages(*cluster.good) == {""}  # --device cpu
    automatic = [replace(node, layout=Layout()) for node in cluster.good]
    assert cluster.messages(*automatic) == {
        f"--device auto: the job has GPUs (SLURM_JOB_GPUS=0,1), but torch {torch.__version__} "
        "sees none; expected a driver and a torch that fits it, or --device cpu"
    }


def test_a_step_smaller_than_its_job_is_warned_of(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in (("STEP_ID", "0"), ("JOB_NUM_NODES", "4"), ("STEP_NUM_NODES", "3")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert cluster.messages(*cluster.good) == {""}
    assert [message[:47] for message in caplog.messages] == [
        "the step runs on 3 of the job's 4 nodes; expect"
    ]


def test_the_source_is_that_of_the_package(tmp_path: Path) -> None:
    before = source_digest()
    assert len(before) == 12
    shutil.copytree(Path(module.__file__).parents[1], tmp_path / "esm1b")
    assert source_digest(tmp_path / "esm1b") == before
    with (tmp_path / "esm1b" / "batches" / "masking.py").open("a") as file:
        file.write("\n")
    assert source_digest(tmp_path / "esm1b") != before
