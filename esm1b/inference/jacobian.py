"""Contacts from the categorical Jacobian of a language model: without a fitted head, of any model.

Z. Zhang et al., "Protein language models learn evolutionary statistics of interacting sequence
motifs" (PNAS 121 (2024) e2406285121), step by step as in the authors' published code.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import AMINO_ACIDS, FIRST_AMINO_ACID
from esm1b.inference.cost import Cost

_STATES: Final = len(AMINO_ACIDS)
_AMINO_ACIDS: Final = np.arange(FIRST_AMINO_ACID, FIRST_AMINO_ACID + _STATES, dtype=np.uint8)
_RESIDUES_AT_ONCE: Final = 32_768  # of mutants whose logits are held, in whole sites

Logits = Callable[[Sequence[NDArray[np.uint8]]], Sequence[NDArray[np.float32]]]
"""Returns the logits `[length, 33]` of each sequence of tokens `[length]`."""


def coupling_scores(logits: Logits, residues: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the coupling of each pair of sites, `[length, length]`: contacts have high ones.

    The Jacobian J[i, a, j, b] is the logit of amino acid b at site j with a at site i, minus that
    in the sequence as it is. It is centred over each of its axes and symmetrised,
    (J[i, a, j, b] + J[j, b, i, a]) / 2. The score is its Frobenius norm over a and b, 0 on the
    diagonal, after `average_product_correction`. It has the units of logits.

    This takes 20 passes for each residue, and 800 `length`^2 bytes: 0.8 GB for 1,022 residues.

    Args:
        logits: the model.
        residues: residue tokens `[length]`.
    """
    length = len(residues)
    first, second = np.triu_indices(length, 1)
    pair = np.zeros((length, length), dtype=np.intp)
    pair[first, second] = np.arange(len(first))
    sums = np.zeros((len(first), _STATES, _STATES), dtype=np.float32)  # both orders of each pair
    mean = np.zeros((_STATES, length, _STATES))
    for site, row in enumerate(_rows(logits, residues)):
        mean += row / length
        blocks = row.transpose(1, 0, 2)
        sums[pair[site, site + 1 :]] += blocks[site + 1 :]
        sums[pair[:site, site]] += blocks[:site].transpose(0, 2, 1)
    scores = np.zeros((length, length))
    for site in range(length):
        # Only now is the mean over the sites of mutations known.
        after = np.s_[site + 1 :]
        centred = sums[pair[site, after]] - mean[:, after].transpose(1, 0, 2) - mean[:, site].T
        scores[site, after] = scores[after, site] = np.linalg.norm(centred, axis=(1, 2)) / 2
    corrected = average_product_correction(scores)
    np.fill_diagonal(corrected, 0)
    return corrected.astype(np.float32)


def average_product_correction(maps: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return maps `[..., length, length]` without what their rows and columns explain.

    `x_ij - (sum_j x_ij)(sum_i x_ij) / sum_ij x_ij` (Dunn, Wahl and Gloor 2008, Bioinformatics
    24:333); a map that sums to zero has nothing to correct.
    """
    rows = maps.sum(axis=-1, keepdims=True)
    columns = maps.sum(axis=-2, keepdims=True)
    total = maps.sum(axis=(-1, -2), keepdims=True)
    corrected: NDArray[np.floating] = maps - rows * columns / np.where(total == 0, 1, total)
    return corrected


def log_cost(logits: Logits, lengths: Sequence[int], ends: int, batch_tokens: int) -> None:
    """Log what `coupling_scores` of sequences of these `lengths` takes, see `Cost.tell`.

    Args:
        logits: the model.
        lengths: residues of each sequence.
        ends: number of special tokens that the model adds to each.
        batch_tokens: number of tokens that `logits` takes at once.
    """
    if not lengths:
        return
    sample = np.full(sorted(lengths)[len(lengths) // 2], FIRST_AMINO_ACID, dtype=np.uint8)
    batch = [sample] * max(1, batch_tokens // len(sample))
    tokens = sum(length * (length + ends) for length in lengths)
    Cost(passes=_STATES * sum(lengths), tokens=_STATES * tokens).tell(
        f"categorical Jacobian in {2e-6 * _STATES**2 * max(lengths) ** 2:,.0f} MB of memory",
        batch,
        len(batch) * (len(sample) + ends),
        logits,
    )


def _rows(logits: Logits, residues: NDArray[np.uint8]) -> Iterator[NDArray[np.float64]]:
    """Yield J[i] `[20, length, 20]` for each site i, centred over its three axes."""
    (native,) = logits([residues])
    length = len(residues)
    sites_at_once = max(1, _RESIDUES_AT_ONCE // (_STATES * length))
    for start in range(0, length, sites_at_once):
        sites = range(start, min(start + sites_at_once, length))
        mutations = [(s, state) for s in sites for state in _AMINO_ACIDS if state != residues[s]]
        mutants = np.tile(residues, (len(mutations), 1))
        for mutant, (site, state) in zip(mutants, mutations, strict=True):
            mutant[site] = state
        rows = np.zeros((len(sites), _STATES, length, _STATES))
        for (site, state), found in zip(mutations, logits(list(mutants)), strict=True):
            difference = found[:, _AMINO_ACIDS] - native[:, _AMINO_ACIDS]
            rows[site - start, state - FIRST_AMINO_ACID] = difference
        for axis in (1, 2, 3):
            rows -= rows.mean(axis=axis, keepdims=True)
        yield from rows
