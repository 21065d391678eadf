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

WINDOW: Final = 15  # residues: seven on either side
# TAPE's head begins with a convolution of this width (songlab-cal/tape, modeling_utils.py).
REPRESENTATION_WINDOW: Final = 5

_SYMBOLS: Final = X - FIRST_AMINO_ACID + 1  # the 20 amino acids and X
_STATES: Final = len(SECONDARY_STRUCTURE)
_PROTEINS_AT_ONCE: Final = 128

Features = Callable[[Sequence[Protein]], list[NDArray[np.float32]]]
"""Returns `[length, features]` for each protein."""

Represent = Callable[[Sequence[NDArray[np.uint8]]], list[NDArray[np.float32]]]
"""Returns the representations of a network, `[length, width]` for the tokens of each sequence."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeSplit:
    """The proteins to fit probes on and the `rest` to test them.

    Attributes:
        fit: proteins for the fit.
        held_out: proteins that choose the penalty, then join the fit.
        rest: proteins for the test.
    """

    fit: Sequence[Protein]
    held_out: Sequence[Protein]
    rest: Sequence[Protein]

    @property
    def fitted(self) -> list[Protein]:
        """All proteins that a probe is fitted on in the end, those held out last."""
        return [*self.fit, *self.held_out]


def representation_windows(represent: Represent) -> Features:
    """Return the features of a frozen network, `[length, 5 * width]` for each protein.

    The representations, after the last layer norm, of a residue and its two neighbours on either
    side: the probe is one linear convolution.
    """
    return lambda proteins: [
        _windows(values, REPRESENTATION_WINDOW)
        for values in represent([protein.residues for protein in proteins])
    ]


def one_hot_windows(proteins: Sequence[Protein]) -> list[NDArray[np.float32]]:
    """Return the 15 residues around each residue, one-hot over 21 symbols, `[length, 315]`.

    The rare symbols count as X; places beyond the ends are zero.
    """
    symbols = [merge_rare_residues(protein.residues) - FIRST_AMINO_ACID for protein in proteins]
    one_hot = np.eye(_SYMBOLS, dtype=np.float32)
    return [_windows(one_hot[each], WINDOW) for each in symbols]


def known_residues(proteins: Sequence[Protein]) -> int:
    """Return the number of residues whose state is known."""
    return sum(int((state_labels(protein) >= 0).sum()) for protein in proteins)


def confusion_of_probe(
    features: Features, split: ProbeSplit, *, label: str
) -> tuple[LinearProbe, NDArray[np.float64]]:
    """Fit a probe and return it with its confusion on `split.rest`.

    Returns:
        The probe, and counts `[proteins, true state, predicted state]`.
    """
    rows, labels = _labelled_rows(features, split.fitted, label)
    held_out = known_residues(split.held_out)
    probe = fit_linear_probe(rows, labels, classes=_STATES, held_out=held_out)
    confusion = np.zeros((len(split.rest), _STATES, _STATES))
    number = 0
    for chunk in _chunks(split.rest, f"structure, {label}, test"):
        for protein, values in zip(chunk, features(chunk), strict=True):
            known = state_labels(protein)
            counted = known >= 0
            predicted = probe.predict(values[counted])
            np.add.at(confusion[number], (known[counted], predicted), 1)
            number += 1
    return probe, confusion


def majority_class(proteins: Sequence[Protein]) -> int:
    """Return the most frequent state of `proteins`, the first of equals."""
    counts = np.zeros(_STATES, dtype=np.int64)
    for protein in proteins:
        labels = state_labels(protein)
        counts += np.bincount(labels[labels >= 0], minlength=_STATES)
    return int(counts.argmax())


def confusion_of_majority(state: int, proteins: Sequence[Protein]) -> NDArray[np.float64]:
    """Return the confusion `[proteins, true state, predicted state]` of always saying `state`."""
    confusion = np.zeros((len(proteins), _STATES, _STATES))
    for number, protein in enumerate(proteins):
        labels = state_labels(protein)
        confusion[number, :, state] = np.bincount(labels[labels >= 0], minlength=_STATES)
    return confusion


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
    labels = np.concatenate([state_labels(protein) for protein in proteins])
    labels = labels[labels >= 0]
    rows = np.empty((0, 0), dtype=np.float32)
    filled = 0
    for chunk in _chunks(proteins, f"structure, {label}, fit"):
        for protein, values in zip(chunk, features(chunk), strict=True):
            if rows.size == 0:
                rows = np.empty((labels.size, values.shape[1]), dtype=np.float32)
            counted = values[state_labels(protein) >= 0]
            rows[filled : filled + len(counted)] = counted
            filled += len(counted)
    return rows, labels


def _chunks(proteins: Sequence[Protein], label: str) -> Iterator[Sequence[Protein]]:
    with tqdm(total=len(proteins), desc=label, unit="protein", disable=None) as progress:
        for start in range(0, len(proteins), _PROTEINS_AT_ONCE):
            chunk = proteins[start : start + _PROTEINS_AT_ONCE]
            yield chunk
            progress.update(len(chunk))
