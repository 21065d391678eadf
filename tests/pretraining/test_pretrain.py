"""Whole runs of a tiny network, as processes of their own: the same updates however they are run.

A start takes seconds (imports of DeepSpeed), so the tests share runs.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import EsmForMaskedLM

from esm1b.alphabet import MASK, PAD
from esm1b.batches.micro_batch import MicroBatch
from esm1b.batches.stream import UpdateStream
from esm1b.config import Config, load_config
from esm1b.corpus.tokens.dataset import open_tokens
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.packed import PackedTokens
from esm1b.pretraining.losses import masked_losses
from esm1b.pretraining.metrics.metrics_file import read_metrics
from esm1b.pretraining.recipe import batch_recipe, learning_rate, sequence_order
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model

REPOSITORY = Path(__file__).parents[2]
UPDATES = 12
CONFIGURATION = {
    "run": "tiny",
    "seed": 5,
    "model": {"layers": 2, "width": 16, "heads": 4, "feed_forward": 32, "maximum_tokens": 102},
    "pretraining": {
        "updates": UPDATES,
        "tokens_per_update": 2000,
        "crop_residues": 100,
        "learning_rate": 0.01,
        "warmup_updates": 4,
        "log_interval": 1,
        "validation_interval": 6,
        "validation_sequences": 30,
        "checkpoint_interval": 4,
        "checkpoints_kept": 2,
    },
}
# Losses of the undisturbed run, to notice any change of order, masks, network or optimiser.
GOLDEN = [
    3.5022084,
    3.5000469,
    3.4853804,
    3.4535799,
    3.3908801,
    3.3163081,
    3.2803370,
    3.2307268,
    3.2039354,
    3.1636091,
    3.1499201,
    3.1153495,
]

# Runs the command line, and stops itself as a scheduler would, after update 6.
STOP_AFTER_SIX = """
import os, signal
from esm1b.cli import main
from esm1b.pretraining.metrics.monitor import Monitor
advance = Monitor.advance
def advance_and_stop(self, update):
    advance(self, update)
    if update == 6:
        os.kill(os.getpid(), signal.SIGTERM)
Monitor.advance = advance_and_stop
main()
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A folder with the configuration, the checkpoints and the model of a run."""

    folder: Path
    tokens: Path

    def start(
        self, *launcher: str, hardware: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        command = launcher or (sys.executable, "-m", "esm1b")
        return subprocess.run(
            [
                *command,
                "pretrain",
                str(self.folder / "config.json"),
                f"--tokens={self.tokens}",
                f"--checkpoints={self.checkpoints}",
                f"--output={self.model}",
                "--micro-batch-tokens=700",
                *hardware,
            ],
            cwd=REPOSITORY,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def weights(self) -> bytes:
        return (self.model / "model.safetensors").read_bytes()

    def losses(self) -> list[float]:
        lines = read_metrics(self.checkpoints / "metrics.jsonl")
        return [line["loss"] for line in lines if "loss" in line]

    def saved(self) -> list[str]:
        return sorted(path.name for path in self.checkpoints.glob("update-*"))


def environment() -> dict[str, str]:
    """Return the environment of a run on CPU, without a launcher's variables."""
    launchers = ("SLURM_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")
    mine = {key: value for key, value in os.environ.items() if not key.startswith(launchers)}
    # DeepSpeed imports the compiler whether it is used or not; without it a start takes 5 s, not 9.
    return {
        **mine,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCHDYNAMO_DISABLE": "1",
    }


def new_run(folder: Path, tokens: Path) -> Run:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGURATION))
    return Run(folder=folder, tokens=tokens)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tokens_directory: Path) -> Run:
    run = new_run(tmp_path_factory.mktemp("pretrain") / "undisturbed", tokens_directory)
    result = run.start()
    assert result.returncode == 0, result.stderr
    return run


def test_the_run_leaves_a_model_checkpoints_and_metrics(undisturbed: Run) -> None:
    assert undisturbed.saved() == ["update-00000008", "update-00000012"]
    assert sorted(path.name for path in undisturbed.checkpoints.iterdir()) == [
        "attempts.jsonl",
        "lock",
        "metrics.jsonl",
        "run.json",
        "tensorboard",
        "update-00000008",
        "update-00000012",
    ]
    details = json.loads((undisturbed.model / "esm1b.json").read_text())
    assert details["updates"] == UPDATES
    assert details["rare_residues"] == "replace"
    assert details["tokens_fingerprint"] == open_tokens(undisturbed.tokens, "train").fingerprint
    lines = read_metrics(undisturbed.checkpoints / "metrics.jsonl")
    training = [line for line in lines if "loss" in line]
    assert [line["update"] for line in training] == list(range(1, UPDATES + 1))
    assert [line["learning_rate"] for line in training[:5]] == pytest.approx(
        [0.0025, 0.005, 0.0075, 0.01, 0.01 * (4 / 5) ** 0.5]
    )
    assert all(line["gradient_norm"] > 0 and line["tokens_per_second"] > 0 for line in training)
    validated = [line["update"] for line in lines if "validation_loss" in line]
    assert validated == [6, 12]


def test_the_loss_curve_is_pinned(undisturbed: Run) -> None:
    assert undisturbed.losses() == pytest.approx(GOLDEN, rel=1e-5)
    assert GOLDEN[-1] < GOLDEN[0] - 0.2


def test_plain_adam_gives_the_same_losses(undisturbed: Run) -> None:
    """The trainer adds no arithmetic of its own to the network and Adam."""
    config = load_config(undisturbed.folder / "config.json")
    losses, encoder = plain_adam(config, undisturbed.tokens)
    assert losses == pytest.approx(undisturbed.losses(), rel=1e-5)
    trained = load_file(undisturbed.model / "model.safetensors")
    torch.testing.assert_close(
        trained["esm.encoder.layer.1.intermediate.dense.weight"],
        encoder.state_dict()["layers.1.fc1.weight"],
        rtol=0,
        atol=1e-4,
    )


def test_transformers_and_plain_adam_give_the_same_losses(undisturbed: Run, tmp_path: Path) -> None:
    """Another implementation of the network, padded batches, and Adam as it comes."""
    config = load_config(undisturbed.folder / "config.json")
    encoder = Encoder(config.model.shape())
    initialise(encoder, config.seed)
    save_model(encoder, tmp_path / "initial", Provenance())
    loader: Any = EsmForMaskedLM
    network = loader.from_pretrained(tmp_path / "initial")
    # Here the <mask> row takes no part in training; see `LanguageModelHead`.
    embedding = network.esm.embeddings.word_embeddings.weight
    embedding.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([MASK]), 0.0))
    losses = train(config, undisturbed.tokens, network.parameters(), partial(padded_loss, network))
    assert losses == pytest.approx(undisturbed.losses(), rel=1e-5)


def padded_loss(network: Any, batch: MicroBatch) -> torch.Tensor:
    """Return the mean loss of the masked positions of a batch, laid out with padding."""
    packed = PackedTokens.from_tokens(torch.from_numpy(batch.tokens), batch.lengths.tolist())
    rows, columns = packed.sequence_index, packed.offsets
    shape = (len(batch.lengths), int(batch.lengths.max()))
    tokens = torch.full(shape, PAD)
    tokens[rows, columns] = packed.tokens
    labels = torch.full(shape, -100)
    masked = torch.from_numpy(batch.masked_positions)
    labels[rows[masked], columns[masked]] = torch.from_numpy(batch.targets)
    output = network(input_ids=tokens, attention_mask=(tokens != PAD).long(), labels=labels)
    loss: torch.Tensor = output.loss
    return loss


def plain_adam(config: Config, tokens: Path) -> tuple[list[float], Encoder]:
    encoder = Encoder(config.model.shape())
    initialise(encoder, config.seed)

    def mean_loss(batch: MicroBatch) -> torch.Tensor:
        return masked_losses(encoder, batch, torch.device("cpu")).loss / len(batch.targets)

    return train(config, tokens, encoder.parameters(), mean_loss), encoder


def train(
    config: Config,
    tokens: Path,
    parameters: Iterator[torch.nn.Parameter],
    mean_loss: Callable[[MicroBatch], torch.Tensor],
) -> list[float]:
    """Return the losses of the run's updates, each in one batch."""
    recipe = config.pretraining
    dataset = open_tokens(tokens, "train")
    stream = UpdateStream(
        dataset,
        sequence_order(config, dataset.lengths),
        batch_recipe(config),
        micro_batch_tokens=10_000,
        width=config.model.width,
    )
    adam = torch.optim.Adam(parameters, betas=(0.9, 0.999), eps=1e-8)
    losses = []
    for number in range(recipe.updates):
        (batch,) = stream.update(number)
        adam.param_groups[0]["lr"] = learning_rate(recipe, number + 1)
        adam.zero_grad()
        loss = mean_loss(batch)
        torch.autograd.backward(loss)
        adam.step()
        losses.append(loss.item())
    return losses


def test_two_processes_do_the_same_updates(undisturbed: Run, tmp_path: Path) -> None:
    run = new_run(tmp_path / "two", undisturbed.tokens)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    result = run.start(
        *torchrun,
        "--nproc-per-node=2",
        "--no-python",
        sys.executable,
        "-m",
        "esm1b",
        hardware=("--micro-batch-tokens=450", "--zero-stage=2"),
    )
    assert result.returncode == 0, result.stderr
    assert run.losses() == pytest.approx(undisturbed.losses(), rel=1e-6)
    ours, theirs = (load_file(r.model / "model.safetensors") for r in (run, undisturbed))
    for name, tensor in theirs.items():
        # The key biases' true gradient is zero, so Adam turns rounding into steps.
        if not name.endswith("self.key.bias"):
            torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-4)


def test_stopped_by_a_signal_it_goes_on_later(undisturbed: Run, tmp_path: Path) -> None:
    run = new_run(tmp_path / "stopped", undisturbed.tokens)
    stopped = run.start(sys.executable, "-c", STOP_AFTER_SIX)
    assert stopped.returncode == 75, stopped.stderr
    last_line = stopped.stderr.splitlines()[-1]
    assert last_line == (
        "esm1b: stopped: saved after update 7 of 12 (SIGTERM); the same command goes on"
    )
    # the update after the signal was agreed upon already
    assert run.saved() == ["update-00000004", "update-00000007"]
    assert not run.model.exists()
    finished = run.start()
    assert finished.returncode == 0, finished.stderr
    assert run.weights() == undisturbed.weights()
    assert run.losses() == undisturbed.losses()
    attempts = [line["attempt"] for line in read_metrics(run.checkpoints / "metrics.jsonl")]
    assert sorted(set(attempts)) == [1, 2]


def test_without_the_newest_checkpoint_it_repeats_the_updates(
    undisturbed: Run, tmp_path: Path
) -> None:
    run = new_run(tmp_path / "lost", undisturbed.tokens)
    shutil.copytree(undisturbed.checkpoints, run.checkpoints)
    # damaged, so that it is passed over and its place is taken again
    (run.checkpoints / "update-00000012" / "state.json").unlink()
    result = run.start()
    assert result.returncode == 0, result.stderr
    assert "resuming after update 8" in result.stderr
    assert (run.checkpoints / "damaged-update-00000012").is_dir()
    assert run.saved() == ["update-00000008", "update-00000012"]
    assert run.weights() == undisturbed.weights()
    assert run.losses() == undisturbed.losses()


def test_another_learning_rate_is_refused(undisturbed: Run, tmp_path: Path) -> None:
    run = new_run(tmp_path / "changed", undisturbed.tokens)
    shutil.copytree(undisturbed.checkpoints, run.checkpoints)
    changed = {**CONFIGURATION["pretraining"], "learning_rate": 0.02, "updates": 13}  # type: ignore[dict-item]  # a dictionary of both
    (run.folder / "config.json").write_text(json.dumps({**CONFIGURATION, "pretraining": changed}))
    result = run.start()
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"esm1b: error: {run.checkpoints}: holds checkpoints of another run: "
        "pretraining.learning_rate was 0.01 and is 0.02; "
        "expected the same data and recipe, or another directory"
    ]
    assert not run.model.exists()


def with_recipe(run: Run, **changes: object) -> Run:
    recipe = {**CONFIGURATION["pretraining"], **changes}  # type: ignore[dict-item]  # mixed values
    (run.folder / "config.json").write_text(json.dumps({**CONFIGURATION, "pretraining": recipe}))
    return run


def test_fewer_updates_than_were_done_are_refused(undisturbed: Run, tmp_path: Path) -> None:
    run = with_recipe(new_run(tmp_path / "fewer", undisturbed.tokens), updates=9)
    shutil.copytree(undisturbed.checkpoints, run.checkpoints)
    result = run.start()
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"esm1b: error: {run.checkpoints}: its newest checkpoint is of update 12; expected at most "
        "pretraining.updates 9, or another directory"
    )
    assert not run.model.exists()


def test_every_process_ends_when_the_first_one_refuses(undisturbed: Run, tmp_path: Path) -> None:
    run = with_recipe(new_run(tmp_path / "refused", undisturbed.tokens), learning_rate=0.02)
    shutil.copytree(undisturbed.checkpoints, run.checkpoints)
    result = run.start(
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
        *("--no-python", sys.executable, "-m", "esm1b"),
    )
    assert result.returncode == 1  # torchrun's own; the processes end with 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("esm1b: error:")]
    assert len(errors) == 1
    assert "pretraining.learning_rate was 0.01 and is 0.02" in errors[0]


def test_bfloat16_goes_on_from_its_float32_weights(undisturbed: Run, tmp_path: Path) -> None:
    whole = with_recipe(new_run(tmp_path / "whole", undisturbed.tokens), precision="bf16")
    assert whole.start().returncode == 0
    # bfloat16 keeps eight bits of a number: 2 ** -8 is 0.004
    assert whole.losses() == pytest.approx(undisturbed.losses(), rel=0.004)
    again = with_recipe(new_run(tmp_path / "again", undisturbed.tokens), precision="bf16")
    shutil.copytree(whole.checkpoints, again.checkpoints)
    shutil.rmtree(again.checkpoints / "update-00000012")
    assert again.start().returncode == 0
    assert again.losses() == whole.losses()
    assert again.weights() == whole.weights()


def test_a_process_without_a_gpu_says_so(undisturbed: Run, tmp_path: Path) -> None:
    run = new_run(tmp_path / "cuda", undisturbed.tokens)
    result = run.start(hardware=("--device=cuda",))
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        "esm1b: error: --device cuda: process 0 of this node has no GPU, 0 are there; expected one "
        "for each process, or --device cpu"
    ]


def test_checkpointed_activations_change_nothing(undisturbed: Run, tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", undisturbed.tokens)
    done = run.start(hardware=("--activation-checkpointing", "--attention=sdpa"))
    assert done.returncode == 0, done.stderr
    assert run.weights() == undisturbed.weights()


def test_varlen_attention_is_refused_on_cpu(undisturbed: Run, tmp_path: Path) -> None:
    done = new_run(tmp_path / "run", undisturbed.tokens).start(hardware=("--attention=varlen",))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "esm1b: error: attention: varlen, but the network is on cpu; expected CUDA, bf16"
    )
