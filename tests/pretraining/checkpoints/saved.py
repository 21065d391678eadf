"""Checkpoints of a stand-in for the engine: whole tensors in every process."""

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from pathlib import Path

import torch
from torch import Size, Tensor

from esm1b.pretraining.checkpoints.checkpoint import load_newest
from esm1b.pretraining.checkpoints.files import StoredState
from esm1b.pretraining.checkpoints.save import Save
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.engine.zero_state import PARTS
from esm1b.pretraining.skipped_updates import SkippedUpdate

ALONE = Place()
SHAPES = {
    "embed_tokens.weight": Size([33, 8]),
    "layers.0.fc1.weight": Size([24, 8]),
    "layers.0.fc1.bias": Size([24]),
    "lm_head.bias": Size([33]),
}
SKIPPED = [SkippedUpdate(update=2, epochs=[0, 0, 1], sequences=[5, 1, 7])]
FILES = [f"{part}-00001-of-00001.safetensors" for part in PARTS]
State = dict[str, dict[str, Tensor]]


class Holder(Engine):
    """Holds random tensors that depend on a seed, and has no network."""

    def __init__(self, seed: int = 0, shapes: dict[str, Size] = SHAPES) -> None:
        self.shapes = shapes
        generator = torch.Generator().manual_seed(seed)
        self.held: State = {
            part: {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
            for part in PARTS
        }
        self.steps = seed
        self.loss_scale: dict[str, float] | None = {"scale": 2.0**seed, "updates": seed}

    def tensors(self, part: str, names: Collection[str]) -> dict[str, Tensor]:
        return {name: self.held[part][name].clone() for name in names}

    def copies(self, names: Collection[str]) -> Future[dict[str, dict[str, Tensor]]]:
        copied: Future[dict[str, dict[str, Tensor]]] = Future()
        copied.set_result({part: self.tensors(part, names) for part in PARTS})
        return copied

    def load(
        self,
        read: Callable[[str, str], Tensor],
        *,
        adam_steps: int,
        scaler: Mapping[str, float] | None,
    ) -> None:
        self.held = {part: {name: read(part, name) for name in self.shapes} for part in PARTS}
        self.steps = adam_steps
        self.loss_scale = None if scaler is None else dict(scaler)

    def adam_steps(self) -> int:
        return self.steps

    def scaler(self) -> dict[str, float] | None:
        return self.loss_scale

    def equals(self, other: "Holder") -> bool:
        return (self.steps, self.loss_scale) == (other.steps, other.loss_scale) and all(
            torch.equal(tensor, other.held[part][name])
            for part, tensors in self.held.items()
            for name, tensor in tensors.items()
        )


def save_as(directory: Path, updates: int, place: Place = ALONE) -> Path:
    """Save a state that depends on `updates`."""
    begin(directory, Holder(updates), place).commit()
    return directory / f"update-{updates:08d}"


def begin(directory: Path, holder: Holder, place: Place = ALONE) -> Save:
    """Begin to save a state at the update of its number of steps."""
    return Save.begin(directory, holder, updates=holder.steps, skipped=SKIPPED, place=place)


def loaded(directory: Path, place: Place = ALONE) -> tuple[StoredState | None, Holder]:
    holder = Holder(99)
    return load_newest(directory, holder, place=place), holder


def updates_loaded(directory: Path, place: Place = ALONE) -> int:
    """Load the newest checkpoint, check that it is what was saved, and return its updates."""
    state, holder = loaded(directory, place)
    assert state is not None
    assert (state.skipped, state.scaler) == (SKIPPED, holder.loss_scale)
    assert (directory / f"update-{state.updates:08d}").is_dir()
    assert holder.equals(Holder(state.updates))
    return state.updates


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
