"""The same run under any layout: processes, ZeRO stage, micro-batch, loader workers.

A row of each kind is quick; the whole table is `slow` and prints what it found.
"""

import os
import shutil
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.dataset import open_tokens
from esm1b.corpus.tokens.tokenize import tokenize
from esm1b.model.packed import pack_sequences
from esm1b.model.shape import Positions
from esm1b.weights.model_directory import ModelDirectory
from tests.conftest import residues
from tests.pretraining.batch_record import FOLDER, digests_by_update, record_batches
from tests.pretraining.fork_server import ForkServer
from tests.pretraining.runs import Run

UPDATES = 60
MODEL = {"layers": 2, "width": 24, "heads": 3, "feed_forward": 40, "maximum_tokens": 102}
CONFIGURATION = {
    "run": "layouts",
    "seed": 3,
    "model": MODEL,
    "pretraining": {
        "updates": UPDATES,
        "tokens_per_update": 1500,
        "crop_residues": 100,
        "learning_rate": 0.004,
        "warmup_updates": 10,
        "log_interval": 1,
        "validation_interval": 30,
        "validation_sequences": 20,
        "checkpoint_interval": 30,
        "checkpoints_kept": 100,
        "gradient_clipping": 1.0,
    },
}
MICRO_BATCHES = (1500, 700, 210)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a run is spread out."""

    processes: int = 1
    stage: int = 0
    micro_batch_tokens: int = 1500
    workers: int = 1

    def __str__(self) -> str:
        return f"{self.processes}x zero{self.stage} {self.micro_batch_tokens} w{self.workers}"


SINGLE = Layout()
QUICK = (
    Layout(processes=1, stage=1, micro_batch_tokens=210, workers=0),
    Layout(processes=2, stage=2, micro_batch_tokens=700, workers=4),
    Layout(processes=3, stage=3, micro_batch_tokens=210),
    Layout(processes=4, stage=0, micro_batch_tokens=210),
)
EVERY = tuple(
    Layout(processes=processes, stage=stage, micro_batch_tokens=tokens, workers=workers)
    for processes, stage, tokens, workers in product(
        (1, 2, 3, 4), (0, 1, 2, 3), MICRO_BATCHES, (0, 1, 4)
    )
)


class Runs:
    """Runs of one configuration."""

    def __init__(
        self, server: ForkServer, folder: Path, tokens: Path, positions: Positions
    ) -> None:
        self.tokens = tokens
        configuration = {**CONFIGURATION, "model": MODEL | {"positions": positions}}
        self._runs = (Run(server, folder / str(n), tokens, configuration) for n in count())

    def start(self, layout: Layout, *, checkpoint: Path | None = None, **recipe: Any) -> Run:
        """Return a run that has come to its end, begun anew or from a checkpoint."""
        run = next(self._runs)
        (run.folder / "batches").mkdir()
        if checkpoint is not None:
            shutil.copytree(checkpoint, run.checkpoints / checkpoint.name)
            shutil.copy(checkpoint.parent / "run.json", run.checkpoints / "run.json")
        statuses, started = run.start(
            f"--micro-batch-tokens={layout.micro_batch_tokens}",
            f"--zero-stage={layout.stage}",
            f"--loader-workers={layout.workers}",
            processes=layout.processes,
            environment={FOLDER: str(run.folder / "batches")},
            patch=record_batches,
            **recipe,
        )
        assert statuses == [0] * layout.processes, f"{layout}: {statuses}\n{started.errors()}"
        return run


@pytest.fixture(scope="module", params=["learned", pytest.param("rotary", marks=pytest.mark.slow)])
def runs(
    request: pytest.FixtureRequest,
    server: ForkServer,
    tmp_path_factory: pytest.TempPathFactory,
    tokens_directory: Path,
) -> Runs:
    folder = tmp_path_factory.mktemp("layouts")
    return Runs(server, folder, real_tokens(folder) or tokens_directory, request.param)


def real_tokens(folder: Path) -> Path | None:
    """Return tokens of some real proteins, if there are any."""
    data = os.environ.get("ESM1B_REAL_DATA")
    if data is None:
        return None
    source = Path(data) / "sequences" / "uniref90_sample_6000.fasta.gz"
    selection = Selection(validation_fraction=0.05, sample=0.04)
    shard([str(source)], folder / "corpus", selection, shards=3)
    tokenize(folder / "corpus", folder / "tokens")
    return folder / "tokens"


@pytest.fixture(scope="module")
def single(runs: Runs) -> Run:
    """The run in one process, with a checkpoint of every update."""
    return runs.start(SINGLE, milestone_interval=1)  # those are waited for, each


def checkpoint(run: Run, update: int) -> Path:
    return run.checkpoints / f"update-{update:08d}"


def state(path: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a checkpoint, whatever wrote it."""
    return {
        f"{file.name.split('-')[0]} {name}": tensor
        for file in path.glob("*.safetensors")
        for name, tensor in load_file(file).items()
    }


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far a run lies from the run in one process."""

    losses: float
    weights: float
    logits: float


def difference(run: Run, single: Run, tokens: Path, *, first: int = 0) -> Difference:
    """Compare updates after `first`: losses relatively, weights and logits absolutely.

    The true gradient of a key's bias is zero, so Adam turns its rounding into steps: those are
    seen in the logits alone.
    """
    batches = digests_by_update(run.folder / "batches")
    assert batches == digests_by_update(single.folder / "batches")[first : first + len(batches)]
    ours, theirs = run.losses(), single.losses()[first : first + len(batches)]
    assert len(ours) == len(theirs) == len(batches)
    one, other = (
        state(checkpoint(run, first + len(ours))),
        state(checkpoint(single, first + len(ours))),
    )
    assert one.keys() == other.keys()
    weights = max(
        (one[name] - other[name]).abs().max().item()
        for name in one
        if name.startswith("weights") and not name.endswith("k_proj.bias")
    )
    logits = []
    for each in (run, single):
        encoder = ModelDirectory(each.model).read().encoder
        dataset = open_tokens(tokens, "validation")
        packed = pack_sequences(
            [residues(dataset, number)[:100] for number in range(10)], torch.device("cpu")
        )
        with torch.no_grad():
            logits.append(encoder(packed))
    return Difference(
        losses=max(abs(a - b) / b for a, b in zip(ours, theirs, strict=True)),
        weights=weights,
        logits=(logits[0] - logits[1]).abs().max().item(),
    )


def check(found: Difference) -> None:
    assert found.losses <= 1e-6
    assert found.weights <= 1e-5
    assert found.logits <= 1e-4


@pytest.mark.parametrize("layout", QUICK, ids=str)
def test_a_layout_changes_nothing(runs: Runs, single: Run, layout: Layout) -> None:
    check(difference(runs.start(layout), single, runs.tokens))


def test_the_run_learns_and_spans_epochs(runs: Runs, single: Run) -> None:
    curve = single.losses()
    assert np.mean(curve[-10:]) < np.mean(curve[:10]) - 0.1
    dataset = open_tokens(runs.tokens, "train")
    epoch = int(np.minimum(dataset.lengths, 100).sum()) + 2 * len(dataset)
    assert 1.5 * epoch < UPDATES * 1500


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_layout_changes_anything(runs: Runs, single: Run) -> None:
    table = []
    for layout in EVERY:
        run = runs.start(layout)
        found = difference(run, single, runs.tokens)
        table.append((layout, found))
        shutil.rmtree(run.folder)
    for layout, found in table:
        print(f"{layout}: losses {found.losses:.1e} weights {found.weights:.1e} "
              f"logits {found.logits:.1e}")  # fmt: skip
    for _, found in table:
        check(found)


def resumed(runs: Runs, single: Run, update: int, layout: Layout, *, updates: int) -> Run:
    return runs.start(layout, checkpoint=checkpoint(single, update), updates=updates)


def same_layout_goes_on_bitwise(runs: Runs, single: Run, update: int) -> None:
    """One update more gives the next checkpoint; by induction all that follow are the same."""
    run = resumed(runs, single, update, SINGLE, updates=update + 1)
    assert run.losses() == single.losses()[update : update + 1]
    assert (
        digests_by_update(run.folder / "batches")
        == digests_by_update(single.folder / "batches")[update : update + 1]
    )
    one, other = (state(checkpoint(folder, update + 1)) for folder in (run, single))
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name
    shutil.rmtree(run.folder)


@pytest.mark.parametrize("update", [1, 31, 59])
def test_resumed_under_the_same_layout_it_is_bitwise_the_same(
    runs: Runs, single: Run, update: int
) -> None:
    same_layout_goes_on_bitwise(runs, single, update)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_resumed_at_every_update_it_is_bitwise_the_same(runs: Runs, single: Run) -> None:
    for update in range(1, UPDATES):
        same_layout_goes_on_bitwise(runs, single, update)


def spanning_update(runs: Runs) -> int:
    """Return the update that holds the end of the first epoch, counted from 0."""
    dataset = open_tokens(runs.tokens, "train")
    epoch = int(np.minimum(dataset.lengths, 100).sum()) + 2 * len(dataset)
    return epoch // 1500


def test_resumed_twice_and_where_an_epoch_ends(runs: Runs, single: Run) -> None:
    update = spanning_update(runs)
    first = resumed(runs, single, update - 3, SINGLE, updates=update)
    second = runs.start(SINGLE, checkpoint=checkpoint(first, update), updates=UPDATES)
    assert second.losses() == single.losses()[update:]
    one, other = (state(checkpoint(folder, UPDATES)) for folder in (second, single))
    assert all(torch.equal(one[name], other[name]) for name in other)


RESUMES = (
    (Layout(processes=1, stage=1), Layout(processes=2, stage=3)),
    (Layout(processes=2, stage=3), Layout(processes=1, stage=0)),
    (Layout(processes=2, stage=0), Layout(processes=4, stage=2)),
    (Layout(processes=4, stage=2), Layout(processes=3, stage=1)),
    (Layout(processes=2, stage=1), Layout(processes=2, stage=2)),
    (Layout(processes=2, stage=2), Layout(processes=2, stage=3)),
    (Layout(processes=2, stage=3), Layout(processes=2, stage=1)),
    (Layout(processes=1, stage=0), Layout(processes=3, stage=3)),
)


def check_resumed_elsewhere(runs: Runs, single: Run, before: Layout, after: Layout) -> None:
    half = UPDATES // 2
    first = runs.start(before, updates=half)
    second = runs.start(after, checkpoint=checkpoint(first, half))
    check(difference(second, single, runs.tokens, first=half))


@pytest.mark.parametrize(("before", "after"), RESUMES[:2], ids=str)
def test_resumed_under_another_layout(
    runs: Runs, single: Run, before: Layout, after: Layout
) -> None:
    check_resumed_elsewhere(runs, single, before, after)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), RESUMES[2:], ids=str)
def test_resumed_under_further_layouts(
    runs: Runs, single: Run, before: Layout, after: Layout
) -> None:
    check_resumed_elsewhere(runs, single, before, after)
