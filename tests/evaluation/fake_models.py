"""Networks whose answers a test chooses, and proteins for them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from esm1b.alphabet import AMINO_ACIDS, encode
from esm1b.evaluation.structures.table import STRUCTURE_SCHEMA
from esm1b.model.shape import EncoderShape
from esm1b.weights.model_directory import ModelDirectory

SHAPE = EncoderShape(layers=1, width=8, heads=3, feed_forward=8, maximum_tokens=64)


@dataclass(frozen=True, kw_only=True)
class Example:
    """A row of the structure table."""

    id: str
    group: str
    kind: str | None
    sequence: str
    contacts: Sequence[tuple[int, int]]
    ss3: str

    def contact_map(self) -> NDArray[np.float32]:
        contact_map = np.zeros((len(self.sequence),) * 2, dtype=np.float32)
        for i, j in self.contacts:
            contact_map[i, j] = contact_map[j, i] = 1
        return contact_map


def examples(kinds: dict[str | None, int], *, members: int = 2, length: int = 30) -> list[Example]:
    """Return families of each kind: random sequences, five contacts, a state by residue type."""
    generator = np.random.default_rng(7)
    made = []
    for kind, families in kinds.items():
        for family in range(families):
            contacts: set[tuple[int, int]] = set()
            while len(contacts) < 5:
                i = int(generator.integers(0, length - 6))
                contacts.add((i, int(generator.integers(i + 6, length))))
            for member in range(members):
                sequence = "".join(generator.choice(list(AMINO_ACIDS), length))
                made.append(
                    Example(
                        id=f"{kind}{family}_{member}",
                        group=f"{kind}{family}",
                        kind=kind,
                        sequence=sequence,
                        contacts=sorted(contacts),
                        ss3="".join("HEC"[AMINO_ACIDS.index(letter) % 3] for letter in sequence),
                    )
                )
    return made


def write_table(path: Path, rows: Sequence[Example]) -> Path:
    """Write a structure table, every residue observed."""
    table = [
        {
            "id": row.id,
            "group": row.group,
            "kind": row.kind,
            "sequence": row.sequence,
            "observed": "1" * len(row.sequence),
            "contact_i": [i for i, _ in row.contacts],
            "contact_j": [j for _, j in row.contacts],
            "ss3": row.ss3,
        }
        for row in rows
    ]
    pq.write_table(pa.Table.from_pylist(table, schema=STRUCTURE_SCHEMA), path)
    return path


@dataclass(frozen=True, kw_only=True)
class FakeModel:
    """Attends to what `attend` says, in its second head; the others hold noise of its own."""

    attend: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None
    represent: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = None
    seed: int = 0
    shape: EncoderShape = SHAPE
    longest_sequence: int = SHAPE.maximum_tokens - 2
    device: str = "cpu"
    precision: str = "fp32"

    @property
    def directory(self) -> ModelDirectory:
        return ModelDirectory(Path("absent", "model"))

    def layer_numbers(self, layers: Sequence[int]) -> list[int]:
        return [layer % (self.shape.layers + 1) for layer in layers]

    def attentions(self, residues: NDArray[np.uint8]) -> NDArray[np.float32]:
        noise = self._noise(residues, (3, residues.size, residues.size))
        maps = np.exp(noise / 4)
        maps /= maps.sum(axis=-1, keepdims=True)
        if self.attend is not None:
            maps[1] = self.attend(residues)
        return maps.astype(np.float32)

    def contacts(self, residues: NDArray[np.uint8], *, method: str) -> NDArray[np.float32]:
        assert method == "jacobian"
        found = self._noise(residues, (residues.size, residues.size)).astype(np.float32)
        return found if self.attend is None else self.attend(residues)

    def log_jacobian_cost(self, lengths: Sequence[int]) -> None:
        pass

    def representations(
        self, sequences: Sequence[NDArray[np.uint8]], *, layer: int, batch_tokens: int
    ) -> list[NDArray[np.float32]]:
        represent = self.represent or (
            lambda residues: self._noise(residues, (residues.size, 8)).astype(np.float32)
        )
        return [represent(residues) for residues in sequences]

    def _noise(self, residues: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.float64]:
        key = [self.seed, *residues.tolist()]
        return np.random.default_rng(key).normal(size=shape)


def truth_of(rows: Sequence[Example]) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return what attends to the contacts of `rows`."""
    maps = {encode(row.sequence).tobytes(): row.contact_map() for row in rows}
    return lambda residues: maps[residues.tobytes()]


def only_for(
    rows: Sequence[Example], others: Sequence[Example]
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Return what attends to the contacts of `rows` and evenly everywhere in `others`."""
    maps = {encode(row.sequence).tobytes(): row.contact_map() for row in rows}
    maps |= {
        encode(row.sequence).tobytes(): np.full_like(row.contact_map(), 1 / len(row.sequence))
        for row in others
    }
    return lambda residues: maps[residues.tobytes()]
