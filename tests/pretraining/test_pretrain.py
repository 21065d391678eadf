"""Whole runs of a tiny network, as processes of their own: the same updates however they are run.

A start takes seconds (imports of DeepSpeed), so they are forked from one server.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
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
from esm1b.pretraining.attempt_log import read_attempts
from esm1b.pretraining.losses import masked_losses
from esm1b.pretraining.metrics.metrics_file import read_metrics
from esm1b.pretraining.recipe import batch_recipe, learning_rate, sequence_order
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.pretraining import run_patches
from tests.pretraining.fork_server import REPOSITORY, ForkServer, environment
from tests.pretraining.runs import Run

UPDATES = 12
MODEL = {"layers": 2, "width": 16, "heads": 4, "feed_forward": 32, "maximum_tokens": 102}
RECIPE = {
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
}
CONFIGURATION = {"run": "tiny", "seed": 5, "model": MODEL, "pretraining": RECIPE}
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

OPTIONS = ("--micro-batch-tokens=700",)


def torchrun(run: Run, *options: str, **recipe: Any) -> subprocess.CompletedProcess[str]:
    """Start two processes of a run as users do."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python")
    command = (sys.executable, "-m", *launcher, sys.executable, "-m", "esm1b")
    return subprocess.run(
        [*command, *run.command(*OPTIONS, *options, **recipe)],
        cwd=REPOSITORY,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def start(run: Run, *options: str, **details: Any) -> tuple[int, list[str]]:
    """Return the exit status of one process, and what it wrote to stderr."""
    (status,), started = run.start(*OPTIONS, *options, **details)
    return status, (started.folder / "rank-0.err").read_text().splitlines()


@pytest.fixture(scope="module")
def undisturbed(
    server: ForkServer, tmp_path_factory: pytest.TempPathFactory, tokens_directory: Path
) -> Run:
    run = Run(server, tmp_path_factory.mktemp("pretrain"), tokens_directory, CONFIGURATION)
    status, errors = start(run)
    assert status == 0, errors
    return run


@pytest.fixture
def run(server: ForkServer, tmp_path: Path, tokens_directory: Path) -> Run:
    return Run(server, tmp_path / "run", tokens_directory, CONFIGURATION)


@pytest.fixture
def again(run: Run, undisturbed: Run) -> Run:
    """A run that finds the checkpoints of the undisturbed one."""
    shutil.copytree(undisturbed.checkpoints, run.checkpoints)
    return run


def test_the_run_leaves_a_model_checkpoints_and_metrics(undisturbed: Run) -> None:
    assert undisturbed.saved() == ["update-00000008", "update-00000012"]
    assert sorted(path.name for path in undisturbed.checkpoints.iterdir()) == [
        "attempts.jsonl",
        "lock",
        "log.txt",
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
    assert transformers_losses(undisturbed, tmp_path) == pytest.approx(
        undisturbed.losses(), rel=1e-5
    )


def test_an_esm2_trains_as_in_transformers_and_resumes_bitwise(
    server: ForkServer, tokens_directory: Path, tmp_path: Path
) -> None:
    model = {**MODEL, "positions": "rotary"}
    recipe = {**RECIPE, "learning_rate_decay": "linear"}
    configuration = {**CONFIGURATION, "model": model, "pretraining": recipe}
    run = Run(server, tmp_path / "run", tokens_directory, configuration)
    assert start(run)[0] == 0
    curve = run.losses()
    assert transformers_losses(run, tmp_path) == pytest.approx(curve, rel=1e-5)
    rates = [line["learning_rate"] for line in run.metrics()]
    assert rates[3:6] == pytest.approx([0.01, 0.01 - 0.009 / 6.8, 0.01 - 0.018 / 6.8])
    weights = (run.model / "model.safetensors").read_bytes()
    shutil.rmtree(run.checkpoints / "update-00000012")
    assert start(run)[0] == 0
    assert run.losses() == curve
    assert (run.model / "model.safetensors").read_bytes() == weights
    loader: Any = EsmForMaskedLM
    network, loading = loader.from_pretrained(run.model, output_loading_info=True)
    assert network.config.position_embedding_type == "rotary"
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]


def transformers_losses(run: Run, folder: Path) -> list[float]:
    """Return the losses of another network, padded batches, and Adam as it comes."""
    config = load_config(run.folder / "config.json")
    encoder = Encoder(config.model.shape())
    initialise(encoder, config.seed)
    save_model(encoder, folder / "initial", Provenance())
    loader: Any = EsmForMaskedLM
    network = loader.from_pretrained(folder / "initial")
    # Here the <mask> row takes no part in training; see `LanguageModelHead`.
    embedding = network.esm.embeddings.word_embeddings.weight
    embedding.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([MASK]), 0.0))
    return train(config, run.tokens, network.parameters(), partial(padded_loss, network))


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


def test_two_processes_do_the_same_updates(undisturbed: Run, run: Run) -> None:
    result = torchrun(run, "--micro-batch-tokens=450", "--zero-stage=2")
    assert result.returncode == 0, result.stderr
    assert run.losses() == pytest.approx(undisturbed.losses(), rel=1e-6)
    ours, theirs = (load_file(r.model / "model.safetensors") for r in (run, undisturbed))
    for name, tensor in theirs.items():
        # The key biases' true gradient is zero, so Adam turns rounding into steps.
        if not name.endswith("self.key.bias"):
            torch.testing.assert_close(ours[name], tensor, rtol=0, atol=1e-4)


def test_stopped_by_a_signal_it_goes_on_later(undisturbed: Run, run: Run) -> None:
    status, errors = start(run, patch=run_patches.stop_after_six)
    assert status == 75, errors
    assert errors[-1] == (
        "esm1b: stopped: saved after update 7 of 12 (SIGTERM); run the same command to resume"
    )
    # the update after the signal was agreed upon already
    assert run.saved() == ["update-00000004", "update-00000007"]
    assert not run.model.exists()
    status, errors = start(run)
    assert status == 0, errors
    assert run.weights() == undisturbed.weights()
    assert run.losses() == undisturbed.losses()
    assert sorted({line["attempt"] for line in run.metrics()}) == [1, 2]


def test_a_bare_machine_resumes_from_the_mirror(undisturbed: Run, run: Run, tmp_path: Path) -> None:
    options = (*OPTIONS, f"--mirror=file://{tmp_path / 'mirror'}")
    statuses, started = run.start(*options, processes=2, patch=run_patches.stop_after_six)
    assert statuses == [75, 75], started.errors()
    shutil.rmtree(run.checkpoints)
    statuses, started = run.start(*options, processes=2)
    assert statuses == [0, 0], started.errors()
    assert "resuming after update 7" in started.errors()
    assert run.losses() == pytest.approx(undisturbed.losses(), rel=1e-6)
    attempts = read_attempts(run.checkpoints / "attempts.jsonl")
    assert [line["event"] for line in attempts if line["attempt"] == 2] == ["started", "finished"]
    assert (tmp_path / "mirror" / "update-00000012" / "state.json").exists()


def test_without_the_newest_checkpoint_it_repeats_the_updates(undisturbed: Run, again: Run) -> None:
    # damaged, so that it is passed over and its place is taken again
    (again.checkpoints / "update-00000012" / "state.json").unlink()
    status, errors = start(again)
    assert status == 0, errors
    assert any("resuming after update 8" in line for line in errors)
    assert (again.checkpoints / "damaged-update-00000012").is_dir()
    assert again.saved() == ["update-00000008", "update-00000012"]
    assert again.weights() == undisturbed.weights()
    assert again.losses() == undisturbed.losses()


def test_another_learning_rate_is_refused(again: Run) -> None:
    status, errors = start(again, learning_rate=0.02, updates=13)
    assert status == 2
    assert errors == [
        f"esm1b: error: {again.checkpoints}: holds checkpoints of another run: "
        "pretraining.learning_rate was 0.01 and is 0.02; "
        "expected the same data and recipe, or another directory"
    ]
    assert not again.model.exists()


def test_fewer_updates_than_were_done_are_refused(again: Run) -> None:
    status, errors = start(again, updates=9)
    assert status == 2
    assert errors[-1] == (
        f"esm1b: error: {again.checkpoints}: its newest checkpoint is of update 12; expected at "
        "most pretraining.updates 9, or another directory"
    )
    assert not again.model.exists()


def test_every_process_ends_when_the_first_one_refuses(again: Run) -> None:
    result = torchrun(again, learning_rate=0.02)
    assert result.returncode == 1  # torchrun's own; the processes end with 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("esm1b: error:")]
    assert len(errors) == 1
    assert "pretraining.learning_rate was 0.01 and is 0.02" in errors[0]


def test_bfloat16_goes_on_from_its_float32_weights(undisturbed: Run, run: Run) -> None:
    assert start(run, precision="bf16")[0] == 0
    # bfloat16 keeps eight bits of a number: 2 ** -8 is 0.004
    assert run.losses() == pytest.approx(undisturbed.losses(), rel=0.004)
    other = run.beside("other")
    shutil.copytree(run.checkpoints, other.checkpoints)
    shutil.rmtree(other.checkpoints / "update-00000012")
    assert start(other, precision="bf16")[0] == 0
    assert other.losses() == run.losses()
    assert other.weights() == run.weights()


def test_a_process_without_a_gpu_says_so(run: Run) -> None:
    status, errors = start(run, "--device=cuda")
    assert status == 2
    assert errors[-1:] == [
        "esm1b: error: --device cuda: process 0 of this node has no GPU, 0 are there; expected one "
        "for each process, or --device cpu"
    ]


def test_checkpointed_activations_change_nothing(undisturbed: Run, run: Run) -> None:
    status, errors = start(run, "--activation-checkpointing", "--attention=sdpa")
    assert status == 0, errors
    assert run.weights() == undisturbed.weights()


def test_varlen_attention_is_refused_on_cpu(run: Run) -> None:
    status, errors = start(run, "--attention=varlen")
    assert status == 2
    assert errors[-1].startswith(
        "esm1b: error: attention: varlen, but the network is on cpu; expected CUDA, bf16"
    )
