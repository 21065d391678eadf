"""The engine under every ZeRO stage, in worlds of one and two processes.

A start takes seconds (imports of DeepSpeed), so a world is started once for many tests.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Event
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from esm1b.batches.micro_batch import MicroBatch
from esm1b.config import PretrainingConfig
from esm1b.errors import UserError
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.packed import PackedTokens
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.checkpoints import checkpoint
from esm1b.pretraining.checkpoints.save import Save
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.engine.deepspeed_engine import Engine, UpdateOutcome
from esm1b.pretraining.engine.zero_state import PARTS
from esm1b.pretraining.losses import masked_losses
from esm1b.pretraining.options import Layout
from esm1b.pretraining.skipped_updates import SkippedUpdate
from esm1b.pretraining.start_processes import start_processes
from tests.pretraining.worlds import in_world

CPU = torch.device("cpu")
# Sizes that neither 2 nor 3 divide: pieces of parameters are padded.
SHAPE = EncoderShape(layers=2, width=20, heads=4, feed_forward=35, maximum_tokens=33)
SEQUENCES = 5
MASKED = 3
UPDATES = 4
SAVED_AFTER = 2
RATE = 1e-3
SKIPPED = [SkippedUpdate(update=1, epochs=[0, 1], sequences=[7, 3])]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Attributes: `settings` are DeepSpeed's, in JSON."""

    precision: str = "fp32"
    zero_stage: int = 1
    settings: str = "{}"
    activation_checkpointing: bool = False

    def __str__(self) -> str:
        frugal = "-frugal" if self.activation_checkpointing else ""
        return f"{self.precision}-{self.zero_stage}{frugal}"


FLOAT32 = [Case(zero_stage=stage) for stage in (0, 1, 2, 3)]
BFLOAT16 = [Case(precision="bf16", zero_stage=stage) for stage in (1, 2, 3)]
FLOAT16 = [Case(precision="fp16", zero_stage=stage) for stage in (1, 2, 3)]
# Not even the small parameters stay whole; the token embedding, used twice, is one of them.
FRUGAL = Case(
    zero_stage=3,
    settings='{"zero_optimization": {"stage3_param_persistence_threshold": 0}}',
    activation_checkpointing=True,
)
ALONE = [*FLOAT32, *BFLOAT16[::2], FLOAT16[1]]
PAIR = [*FLOAT32, BFLOAT16[1], FLOAT16[0], FRUGAL]


class FaultyEncoder(Encoder):
    """Multiplies its logits, and the gradient of one bias, by factors that tests change."""

    loss_factor = 1.0
    bias_factor = 1.0

    def forward(self, packed: PackedTokens, masked_positions: Tensor | None = None) -> Tensor:
        logits = super().forward(packed, masked_positions)
        bias = self.lm_head.bias * 1.0
        if bias.requires_grad:
            bias.register_hook(lambda gradient: gradient * self.bias_factor)  # type: ignore[no-untyped-call]  # torch's
        return logits * self.loss_factor + 0.0 * bias


class HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's
    """Counts how often Python asks for the value of a tensor, for which it waits for the device."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def micro_batches(update: int, place: Place, rounds: int) -> list[MicroBatch]:
    """Return a process's share of some random sequences; a round may be empty for it."""
    random = np.random.default_rng(update)
    sequences = []
    for _ in range(SEQUENCES):
        length = int(random.integers(6, 20))
        tokens = np.concatenate(([0], random.integers(4, 24, length), [2]))
        positions = np.sort(random.choice(np.arange(1, length + 1), MASKED, replace=False))
        sequences.append((np.where(np.isin(np.arange(length + 2), positions), 32, tokens), tokens))
    shares: list[list[int]] = [[] for _ in range(rounds * place.processes)]
    for number in range(SEQUENCES):
        shares[number % min(len(shares), 3)].append(number)
    return [
        micro_batch([sequences[number] for number in share])
        for share in shares[place.rank :: place.processes]
    ]


def micro_batch(sequences: list[tuple[Any, Any]]) -> MicroBatch:
    if not sequences:
        sequences = [(np.array([0, 2]), np.array([0, 2]))]
    tokens, true = (np.concatenate(parts) for parts in zip(*sequences, strict=True))
    (positions,) = np.nonzero(tokens == 32)
    return MicroBatch(
        tokens=tokens,
        lengths=np.array([len(masked) for masked, _ in sequences]),
        masked_positions=positions,
        targets=true[positions],
    )


def recipe(precision: str, clipping: float | None = 2.0) -> PretrainingConfig:
    defaults = PretrainingConfig().model_dump()
    changes = {"precision": precision, "gradient_clipping": clipping, "weight_decay": 0.1}
    return PretrainingConfig.model_construct(**{**defaults, **changes})


def new_engine(
    layout: Case, folder: Path, *, seed: int = 1, clipping: float | None = 2.0
) -> Engine:
    encoder = FaultyEncoder(SHAPE, activation_checkpointing=layout.activation_checkpointing)
    initialise(encoder, seed)
    settings = folder / f"{layout}.json"
    settings.write_text(layout.settings)
    stages: dict[int, Literal[0, 1, 2, 3]] = {0: 0, 1: 1, 2: 2, 3: 3}
    ours = Layout(device="cpu", zero_stage=stages[layout.zero_stage], deepspeed_file=settings)
    return Engine(encoder, recipe(layout.precision, clipping), ours, CPU)


def do_update(engine: Engine, update: int, place: Place, rounds: int = 2) -> UpdateOutcome:
    return engine.update(
        micro_batches(update, place, rounds),
        masked_in_update=SEQUENCES * MASKED,
        learning_rate=RATE,
    )


def mean_loss(outcome: UpdateOutcome) -> float:
    """Return the mean over all processes."""
    total = outcome.loss.clone()
    torch.distributed.all_reduce(total)
    return float(total) / (SEQUENCES * MASKED)


def do_updates(engine: Engine, first: int, last: int, place: Place) -> list[float]:
    """Do some updates and return the mean loss of each."""
    return [mean_loss(do_update(engine, update, place)) for update in range(first, last)]


def evaluation_loss(engine: Engine, place: Place) -> float:
    """Return the mean loss over all processes of a network that is not trained on it."""
    total = torch.zeros(())
    engine.network.eval()
    with torch.no_grad():
        for batch in micro_batches(200, place, rounds=2):
            total += masked_losses(engine.network, batch, CPU).loss
    engine.network.train()
    torch.distributed.all_reduce(total)
    return float(total) / (SEQUENCES * MASKED)


@contextmanager
def faults(engine: Engine, place: Place, **factors: float) -> Iterator[None]:
    """Let the last process compute something that is not finite."""
    encoder: Any = engine.network.module
    if place.rank == place.processes - 1:
        for name, factor in factors.items():
            setattr(encoder, name, factor)
    yield
    encoder.loss_factor = encoder.bias_factor = 1.0


def state_of(engine: Engine) -> dict[str, dict[str, Tensor]]:
    return {part: engine.tensors(part, engine.shapes) for part in PARTS}


def same(one: dict[str, dict[str, Tensor]], other: dict[str, dict[str, Tensor]]) -> bool:
    """Tell whether two states are bitwise equal."""
    return all(
        torch.equal(tensor.view(torch.int32), other[part][name].view(torch.int32))
        for part, tensors in one.items()
        for name, tensor in tensors.items()
    )


@contextmanager
def started(place: Place) -> Iterator[None]:
    start_processes(place, Layout(device="cpu"))
    from deepspeed.accelerator import get_accelerator

    # DeepSpeed trains in fp16 on a CPU with instructions for it only; torch does on any.
    get_accelerator().is_fp16_supported = lambda: True
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


Seen = dict[Case, dict[str, Any]]
Resumes = list[tuple[Path, Case]]
Resumed = list[tuple[list[float], dict[str, dict[str, Tensor]]]]


def visit(
    place: Place, folder: Path, layouts: list[Case], resumes: Resumes
) -> tuple[Seen, Resumed, dict[str, str]]:
    """Do everything that one start is to show: train, go on from others, be refused."""
    with started(place):
        seen = {layout: trained_under(layout, place, folder) for layout in layouts}
        resumed = [resumed_from(path, layout, place, folder) for path, layout in resumes]
        return seen, resumed, refusals(folder)


def trained_under(layout: Case, place: Place, shared: Path) -> dict[str, Any]:
    folder = shared / str(place.rank)
    folder.mkdir(exist_ok=True)
    engine = new_engine(layout, folder)
    seen: dict[str, Any] = {"initial": {"weights": engine.tensors("weights", engine.shapes)}}
    seen["losses"] = do_updates(engine, 0, SAVED_AFTER, place)
    path = shared / f"{place.processes}-{layout}"
    save = Save.begin(path, engine, updates=SAVED_AFTER, skipped=SKIPPED, place=place)
    seen["saved"] = state_of(engine)
    seen["saved scaler"] = engine.scaler()
    seen["evaluation loss"] = evaluation_loss(engine, place)
    if layout.precision != "fp16":  # an overflow changes the scale, and that the rounding
        seen["skips"] = skips(engine, place)
    seen["losses"] += do_updates(engine, SAVED_AFTER, UPDATES - 1, place)
    with HostReads() as reads:  # type: ignore[no-untyped-call]  # torch's
        last = do_update(engine, UPDATES - 1, place)
    seen["host reads"] = reads.count
    seen["losses"].append(mean_loss(last))
    seen["norm"] = float(last.gradient_norm)
    seen["final"] = state_of(engine)

    save.commit()  # what was saved is the state before all these updates
    resumed = new_engine(layout, folder, seed=2)
    seen["loaded"] = checkpoint.load_newest(path, resumed, place=place)
    seen["loaded state"] = state_of(resumed)
    seen["loaded scaler"] = resumed.scaler()
    seen["loaded steps"] = resumed.adam_steps()
    do_updates(resumed, SAVED_AFTER, UPDATES, place)
    seen["resumed"] = state_of(resumed)
    seen["copied in time"] = not resumed._sharding.is_live or copied_in_time(resumed, place)
    if layout.precision == "fp16":
        seen["skips"] = skips(resumed, place)
        seen["least scale"] = scale_after_overflows(resumed, place)
    return seen


def copied_in_time(engine: Engine, place: Place) -> bool:
    """Return whether an update waits for copies that are not made before its backward pass."""
    before = state_of(engine)
    are_passes_done, tensors, gradient_norm = Event(), engine.tensors, engine._gradient_norm

    def late_tensors(part: str, names: Collection[str]) -> dict[str, Tensor]:
        assert are_passes_done.wait(30)
        return tensors(part, names)

    def tell() -> Tensor:
        are_passes_done.set()
        return gradient_norm()

    with (
        patch.object(engine, "tensors", late_tensors),
        patch.object(engine, "_gradient_norm", tell),
    ):
        copies = engine.copies(engine.shapes)
        do_update(engine, UPDATES, place)
    return same(before, copies.result())


def skips(engine: Engine, place: Place) -> list[dict[str, Any]]:
    """Do updates whose gradient is not finite in one process: all of it, and that of one bias."""
    results = []
    for factors in ({"loss_factor": float("nan")}, {"bias_factor": float("inf")}):
        before, steps = state_of(engine), engine.adam_steps()
        with faults(engine, place, **factors):
            outcome = do_update(engine, 100, place)
        results.append(
            {
                "skipped": bool(outcome.skipped),
                "norm": float(outcome.gradient_norm),
                "state unchanged": same(before, state_of(engine)),
                "steps": engine.adam_steps() - steps,
                "scaler": engine.scaler(),
            }
        )
    return results


def scale_after_overflows(engine: Engine, place: Place) -> float | None:
    """Return the loss scale after more overflows in a row than it has powers of two."""
    with faults(engine, place, loss_factor=float("nan")):
        outcomes = [do_update(engine, update, place) for update in range(101, 119)]
    assert all(outcome.skipped for outcome in outcomes)
    scaler = engine.scaler()
    return None if scaler is None else scaler["scale"]


def resumed_from(
    path: Path, layout: Case, place: Place, shared: Path
) -> tuple[list[float], dict[str, dict[str, Tensor]]]:
    """Go on from a checkpoint; return the losses and the state that was loaded."""
    engine = new_engine(layout, shared / str(place.rank), seed=2)
    checkpoint.load_newest(path, engine, place=place)
    state = state_of(engine)
    return do_updates(engine, SAVED_AFTER, UPDATES, place), state


def refusals(folder: Path) -> dict[str, str]:
    """Return what is said of layouts that do not train."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: False
    layouts = {
        "fp16 on a CPU": ("fp16", Layout(device="cpu")),
        "stage 0 in bf16": ("bf16", Layout(device="cpu", zero_stage=0)),
        "compiled in bf16": ("bf16", Layout(device="cpu", compile=True)),
        "compiled in fp32": ("fp32", Layout(device="cpu", compile=True)),
    }
    said = {}
    for name, (precision, layout) in layouts.items():
        with pytest.raises(UserError) as caught:
            Engine(Encoder(SHAPE), recipe(precision), layout, CPU)
        said[name] = str(caught.value)
    wrong = Case(zero_stage=3, settings='{"zero_optimization": {"overlap_comm": "loud"}}')
    with pytest.raises(UserError) as caught:
        new_engine(wrong, folder)
    said["settings"] = str(caught.value)
    return said


@dataclass(frozen=True, kw_only=True)
class Worlds:
    """What the first process saw, by number of processes."""

    seen: dict[int, Seen]
    resumed: dict[int, Resumed]
    said: dict[str, str]


# Each stage goes on from the one before.
CHAIN = list(zip(FLOAT32, [*FLOAT32[1:], FLOAT32[0]], strict=True))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Worlds:
    folder = tmp_path_factory.mktemp("engine")
    from_alone, from_pair = (
        [(folder / f"{processes}-{one}", other) for one, other in CHAIN] for processes in (1, 2)
    )
    alone, _, said = in_world(1, visit, folder, ALONE, [])[0]
    pair, resumed_by_pair, _ = in_world(2, visit, folder, PAIR, from_alone)[0]
    _, resumed_alone, _ = in_world(1, visit, folder, [], from_pair)[0]
    return Worlds(
        seen={1: alone, 2: pair}, resumed={1: resumed_alone, 2: resumed_by_pair}, said=said
    )


CASES = [
    pytest.param(processes, layout, id=f"{processes}-{layout}")
    for processes, layouts in ((1, ALONE), (2, PAIR))
    for layout in layouts
]
EVERY_CASE = pytest.mark.parametrize(("processes", "layout"), CASES)


@EVERY_CASE
def test_losses_are_those_of_the_first_layout(worlds: Worlds, processes: int, layout: Case) -> None:
    reference = worlds.seen[1][FLOAT32[0]]["losses"]
    # bfloat16 keeps eight bits of a number, float16 eleven
    bound = {"fp32": 1e-6, "bf16": 2**-9, "fp16": 2**-12}[layout.precision]
    assert worlds.seen[processes][layout]["losses"] == pytest.approx(reference, rel=bound)
    assert reference[0] != pytest.approx(reference[1], rel=1e-3)
    evaluation = worlds.seen[1][FLOAT32[0]]["evaluation loss"]
    assert worlds.seen[processes][layout]["evaluation loss"] == pytest.approx(evaluation, rel=bound)


@EVERY_CASE
def test_master_weights_start_unrounded(worlds: Worlds, processes: int, layout: Case) -> None:
    encoder = Encoder(SHAPE)
    initialise(encoder, 1)
    expected = {"weights": {name: p.detach() for name, p in encoder.named_parameters()}}
    assert same(expected, worlds.seen[processes][layout]["initial"])


@EVERY_CASE
def test_the_gradient_norm_is_that_of_the_first_layout(
    worlds: Worlds, processes: int, layout: Case
) -> None:
    norm = worlds.seen[1][FLOAT32[0]]["norm"]
    assert norm > 2.0  # more than the clipping of `recipe`, so clipping is at work
    bound = 1e-5 if layout.precision == "fp32" else 0.01
    assert worlds.seen[processes][layout]["norm"] == pytest.approx(norm, rel=bound)


@EVERY_CASE
def test_an_update_that_is_not_finite_changes_nothing(
    worlds: Worlds, processes: int, layout: Case
) -> None:
    scales: list[float | None] = [None, None]
    if layout.precision == "fp16":
        scales = [2.0**15, 2.0**14]
    for skip, scale in zip(worlds.seen[processes][layout]["skips"], scales, strict=True):
        scaler = skip.pop("scaler")
        assert (scaler and scaler["scale"]) == scale
        assert skip == {
            "skipped": True,
            "norm": float("inf"),
            "state unchanged": True,
            "steps": 0,
        }


@EVERY_CASE
def test_an_overflow_at_the_least_scale_is_skipped_too(
    worlds: Worlds, processes: int, layout: Case
) -> None:
    expected = 1.0 if layout.precision == "fp16" else None
    assert worlds.seen[processes][layout].get("least scale") == expected


@EVERY_CASE
def test_the_host_does_not_wait_for_the_device(
    worlds: Worlds, processes: int, layout: Case
) -> None:
    # In stage 3 DeepSpeed asks a tensor that it made on the host; in fp16 it needs the scale.
    expected = {"fp32": int(layout.zero_stage == 3), "bf16": int(layout.zero_stage == 3), "fp16": 2}
    assert worlds.seen[processes][layout]["host reads"] == expected[layout.precision]


@EVERY_CASE
def test_resumed_in_the_same_layout_it_is_bitwise_the_same(
    worlds: Worlds, processes: int, layout: Case
) -> None:
    seen = worlds.seen[processes][layout]
    assert same(seen["saved"], seen["loaded state"])
    assert not same(seen["saved"], seen["final"])
    assert same(seen["final"], seen["resumed"])
    assert seen["loaded scaler"] == seen["saved scaler"]
    assert seen["loaded steps"] == SAVED_AFTER
    assert seen["loaded"].updates == SAVED_AFTER
    assert seen["loaded"].skipped == SKIPPED


@EVERY_CASE
def test_an_update_waits_for_the_copies_of_the_state_before_it(
    worlds: Worlds, processes: int, layout: Case
) -> None:
    assert worlds.seen[processes][layout]["copied in time"]


def test_resumed_in_another_layout_it_goes_on(worlds: Worlds) -> None:
    expected = worlds.seen[1][FLOAT32[0]]["losses"][SAVED_AFTER:]
    for before, after in ((1, 2), (2, 1)):
        for (saved, _), (losses, state) in zip(CHAIN, worlds.resumed[after], strict=True):
            assert same(worlds.seen[before][saved]["saved"], state)
            assert losses == pytest.approx(expected, rel=1e-6)


def test_layouts_that_do_not_train_are_refused(worlds: Worlds) -> None:
    said = dict(worlds.said)
    for precision in ("bf16", "fp32"):
        assert said.pop(f"compiled in {precision}").startswith(f"--compile: on cpu in {precision}")
    assert "'loud': Input should be a valid boolean" in said.pop("settings")
    assert said == {
        "fp16 on a CPU": "pretraining.precision: fp16, in which DeepSpeed does not train on cpu "
        "here; expected CUDA, or bf16 or fp32",
        "stage 0 in bf16": "--zero-stage 0: with pretraining.precision bf16; expected 1, 2 or 3, "
        "which keep float32 master weights",
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_layout_goes_on_from_every_world(tmp_path: Path) -> None:
    families = ([*FLOAT32, FRUGAL], BFLOAT16, FLOAT16)
    layouts = [layout for family in families for layout in family]
    seen = {
        processes: [ours for ours, _, _ in in_world(processes, visit, tmp_path, layouts, [])]
        for processes in (1, 2, 3)
    }
    reference = seen[1][0][FLOAT32[0]]["losses"]
    for before, layout in product(seen, layouts):
        ranks = [ours[layout] for ours in seen[before]]
        if layout.precision == "fp32":
            assert ranks[0]["losses"] == pytest.approx(reference, rel=1e-6)
        assert all(skip["state unchanged"] for rank in ranks for skip in rank["skips"])
        assert all(same(rank["final"], ranks[0]["final"]) for rank in ranks)
        assert same(ranks[0]["final"], ranks[0]["resumed"])
        assert same(ranks[0]["saved"], ranks[0]["loaded state"])
    for after in seen:
        pairs = [
            (before, one, other)
            for family in families
            for before in seen
            for one, other in zip(family, [*family[1:], family[0]], strict=True)
        ]
        paths = [(tmp_path / f"{before}-{one}", other) for before, one, other in pairs]
        _, resumed, _ = in_world(after, visit, tmp_path, [], paths)[0]
        for (before, one, _), (losses, state) in zip(pairs, resumed, strict=True):
            assert same(seen[before][0][one]["saved"], state)
            if one.precision == "fp32":
                assert losses == pytest.approx(reference[SAVED_AFTER:], rel=1e-6)
