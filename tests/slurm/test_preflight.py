"""Nodes that differ do not train: status 2, and a message that names each of them."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import torch

from tests.slurm.cluster import ROOT, Workflow, cluster, environment
from tests.slurm.conftest import prepare
from tests.slurm.runs import Script

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def run(reference: Workflow, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Script]:
    folder = tmp_path_factory.mktemp("preflight")
    with cluster(folder / "cluster", nodes=3) as running:
        yield Script(prepare(reference, folder / "run"), running, reference, updates=5)


Put = Callable[[Path], object]
"""Writes what a node has under a path instead, at the path given, which is a copy."""


def other_line(path: Path) -> None:
    with path.open("a") as file:
        file.write("# another line\n")


def other_version(path: Path) -> None:
    path.write_text(path.read_text().replace(torch.__version__, "2.12.1"))


def other_fingerprint(tokens: Path) -> None:
    manifest = tokens / "manifest.json"
    fingerprint = json.loads(manifest.read_text())["fingerprint"]
    manifest.write_text(manifest.read_text().replace(fingerprint, 64 * "7"))


def nothing(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.mkdir()


def torn_manifest(tokens: Path) -> None:
    (tokens / "manifest.json").write_text('{"format')


def no_route(hosts: Path) -> None:
    hosts.write_text(re.sub(r"^\S+ n1$", "10.99.0.1 n1", hosts.read_text(), flags=re.M))


def own_name_is_local(hosts: Path) -> None:
    """Write what Debian has; the copy has the name of its node."""
    hosts.write_text(f"127.0.1.1 {hosts.name}\n{hosts.read_text()}")


SOURCE = str(ROOT / "esm1b" / "alphabet.py")
TORCH = str(Path(torch.__file__).with_name("version.py"))
HOSTS, TOKENS, CHECKPOINTS = "/etc/hosts", "results/corpora/small/tokens", "checkpoints/small"
DIFFERENCES: list[tuple[str, dict[str, tuple[str, Put]], list[str]]] = [
    ("other source", {"n2": (SOURCE, other_line)}, [r"n2 \(rank 1\): package source \w+, others "]),
    ("other torch", {"n3": (TORCH, other_version)}, [r"n3 \(rank 2\): torch 2\.12\.1, others 2"]),
    (
        "other tokens",
        {"n2": (TOKENS, other_fingerprint)},
        [r"n2 \(rank 1\): tokens 7{12}, others "],
    ),
    ("of rank 0", {"n1": (TOKENS, other_fingerprint)}, [r"n1 \(rank 0\): tokens 7{12}, others "]),
    ("no tokens", {"n2": (TOKENS, nothing)}, [r"n2 \(rank 1\): \S*tokens: no manifest.json"]),
    (
        "torn tokens",
        {"n2": (TOKENS, torn_manifest)},
        [r"n2 \(rank 1\): \S*tokens/manifest\.json: "],
    ),
    (
        "other checkpoints",
        {"n2": (CHECKPOINTS, nothing)},
        [rf"n2 \(rank 1\): {CHECKPOINTS}: not the directory that rank 0 has there"],
    ),
    (
        "two culprits",
        {"n2": (SOURCE, other_line), "n3": (TOKENS, other_fingerprint)},
        [r"n2 \(rank 1\): package source ", r"n3 \(rank 2\): tokens 7{12}, others "],
    ),
]


@pytest.mark.parametrize(
    ("name", "elsewhere", "told"), DIFFERENCES, ids=[d[0] for d in DIFFERENCES]
)
def test_a_node_that_differs_is_named(
    run: Script,
    tmp_path: Path,
    name: str,
    elsewhere: dict[str, tuple[str, Put]],
    told: list[str],
) -> None:
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    with ExitStack() as mounted:
        for node, (place, put) in elsewhere.items():
            mounted.enter_context(instead(run, node, place, tmp_path / node, put))
        status, text = train(run)
    assert status == 2, text
    for pattern in told:
        assert re.search(pattern, text), text
    assert [*run.checkpoints.iterdir()] == []


def test_a_full_disk(run: Script) -> None:
    (run.directory / "full").symlink_to(run.cluster.directory / "full")
    status, text = train(run, checkpoints="full")
    assert status == 2, text
    assert re.search(r"n1 \(rank 0\): .*free", text), text


def test_no_route_to_rank_0(run: Script, tmp_path: Path) -> None:
    with instead(run, "n2", HOSTS, tmp_path / "hosts", no_route):
        status, text = train(run)
    assert status == 1, text
    assert re.search(r"rank 1 on n2 waits for rank 0 at n1:\d+: .*unreachable", text), text
    assert "rank 1 of 3 processes did not come to n1" in text


def test_an_own_name_that_leads_to_itself_is_no_obstacle(run: Script, tmp_path: Path) -> None:
    with ExitStack() as mounted:
        for node in run.cluster.nodes:
            mounted.enter_context(instead(run, node, HOSTS, tmp_path / node, own_name_is_local))
        status, text = train(run, checkpoints="checkpoints/own")
    assert status == 0, text
    assert "GLOO_SOCKET_IFNAME=eth0, as this host's own name leads to itself" in text


def train(run: Script, *, checkpoints: str = CHECKPOINTS) -> tuple[int, str]:
    """Train with a process on each node; return the status and all that is said."""
    words = run.command_there(
        *("srun", "--nodes=3", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--wait=30"),
        *(str(Path(sys.executable).with_name("esm1b")), "pretrain"),
        *("results/small/run_config.json", "--device=cpu", f"--tokens={TOKENS}"),
        *(f"--checkpoints={checkpoints}", "--output=results/small/model", "--start-limit=20s"),
        "--micro-batch-tokens=4096",
    )
    # what a node has instead must not be compiled for all
    own = environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, env=own, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@contextmanager
def instead(run: Script, node: str, place: str, copy: Path, put: Put) -> Iterator[None]:
    """Let one node have something else under a path."""
    path = run.directory / place
    original = run.cluster.directory / "etc/hosts" if place == HOSTS else path
    (shutil.copytree if path.is_dir() else shutil.copy)(original, copy)
    put(copy)
    assert run.cluster.on(node, "mount", "--bind", str(copy), str(path)).returncode == 0
    yield
    assert run.cluster.on(node, "umount", str(path)).returncode == 0
