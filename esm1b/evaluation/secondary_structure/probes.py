"""How well the same linear probe reads secondary structure from each kind of feature."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.alphabet import FIRST_AMINO_ACID, SECONDARY_STRUCTURE, X, merge_rare_residues
from esm1b.evaluation.secondary_structure.data import state_labels
from esm1b.evaluation.secondary_structure.linear_probe import LinearProbe, fit_linear_probe
from esm1b.evaluation.structures.proteins import Protein
from esm1b.inference.model import Model

WINDOW: Final = 15  # residues: seven on either side
# TAPE's head begins with a convolution of this width (songlab-cal/tape, modeling_utils.py).
REPRESENTATION_WINDOW: Final = 5

_SYMBOLS: Final = X - FIRST_AMINO_ACID + 1  # the 20 amino acids and X
_STATES: Final = len(SECONDARY_STRUCTURE)
_PROTEINS_AT_ONCE: Final = 128

Features = Callable[[Sequence[Protein]], list[NDArray[np.float32]]]
"""Returns `[length, features]` for each protein."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeSplit:
    """Proteins to `fit` probes on, `held_out` to choose the penalty, and the `rest` to test."""

    fit: Sequence[Protein]
    held_out: Sequence[Protein]
    rest: Sequence[Protein]

    @property
    def fitted(self) -> list[Protein]:
        """All proteins that a probe is fitted on once the penalty is chosen, held out last."""
        return [*self.fit, *self.held_out]


def network_windows(model: Model, *, layer: int, batch_tokens: int) -> Features:
    """Return the features of a frozen network, `[length, 5 * width]` for each protein.

    The representations in a layer, the last one after the last layer norm, of a residue and its two
    neighbours on either side: the probe is one linear convolution.
    """
    return lambda proteins: [
        _windows(values, REPRESENTATION_WINDOW)
        for values in model.representations(
            [protein.residues for protein in proteins], layer=layer, batch_tokens=batch_tokens
        )
    ]


def one_hot_windows(proteins: Sequence[Protein]) -> list[NDArray[np.float32]]:
    """Return the 15 residues around each residue, one-hot over 21 symbols, `[length, 315]`.

    The rare symbols count as X; places beyond the ends are zero.
    """
    symbols = [merge_rare_residues(protein.residues) - FIRST_AMINO_ACID for protein in proteins]
    one_hot = np.eye(_SYMBOLS, dtype=np.float32)
    return [_windows(one_hot[each], WINDOW) for each in symbols]


def known_states(proteins: Sequence[Protein]) -> NDArray[np.int64]:
    """Return how many residues of each protein have each state, `[proteins, states]`."""
    labels = [state_labels(protein) for protein in proteins]
    counts = [np.bincount(each[each >= 0], minlength=_STATES) for each in labels]
    return np.array(counts, dtype=np.int64).reshape(-1, _STATES)


def majority_class(proteins: Sequence[Protein]) -> int:
    """Return the most frequent state of `proteins`, the first of equals."""
    return int(known_states(proteins).sum(axis=0).argmax())


def confusion_of_majority(state: int, proteins: Sequence[Protein]) -> NDArray[np.float64]:
    """Return the confusion `[proteins, true state, predicted state]` of always saying `state`."""
    confusion = np.zeros((len(proteins), _STATES, _STATES))
    confusion[:, :, state] = known_states(proteins)
    return confusion


def confusion_of_probe(
    features: Features, split: ProbeSplit, *, label: str
) -> tuple[LinearProbe, NDArray[np.float64]]:
    """Fit a probe; return it and its counts on the rest `[proteins, true state, predicted state]`.

    The penalty is chosen on the proteins held out.
    """
    rows, labels = _labelled_rows(features, split.fitted, f"structure, {label}, fit")
    held_out = int(known_states(split.held_out).sum())
    probe = fit_linear_probe(rows, labels, classes=_STATES, held_out=held_out)
    confusion = np.zeros((len(split.rest), _STATES, _STATES))
    tested = _labelled(features, split.rest, f"structure, {label}, test")
    for counts, (values, known) in zip(confusion, tested, strict=True):
        np.add.at(counts, (known, probe.predict(values)), 1)
    return probe, confusion


def _windows(values: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return `[length, features * size]` from `[length, features]`, zero beyond the ends."""
    padded = np.pad(values, ((size // 2, size // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, axis=0)
    return windows.reshape(len(values), -1)


def _labelled_rows(
    features: Features, proteins: Sequence[Protein], label: str
) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """Return features `[residues, features]` and labels of the residues with a known state.

    Filled in place, a few proteins at a time: at full size two copies would not fit in memory.
    """
    rows = np.empty((0, 0), dtype=np.float32)
    labels = np.empty(int(known_states(proteins).sum()), dtype=np.int8)
    filled = 0
    for values, known in _labelled(features, proteins, label):
        if rows.size == 0:
            rows = np.empty((labels.size, values.shape[1]), dtype=np.float32)
        rows[filled : filled + known.size] = values
        labels[filled : filled + known.size] = known
        filled += known.size
    return rows, labels


def _labelled(
    features: Features, proteins: Sequence[Protein], label: str
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int8]]]:
    """Yield features and labels of the residues with a known state, protein by protein."""
    with tqdm(total=len(proteins), desc=label, unit="protein", disable=None) as progress:
        for start in range(0, len(proteins), _PROTEINS_AT_ONCE):
            chunk = proteins[start : start + _PROTEINS_AT_ONCE]
            for protein, values in zip(chunk, features(chunk), strict=True):
                labels = state_labels(protein)
                yield values[labels >= 0], labels[labels >= 0]
            progress.update(len(chunk))
