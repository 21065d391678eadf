"""Positions of the residues with coordinates in the full sequence of a chain."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

# A peptide bond is 1.33 angstrom; CA to CA across one is 3.8 (trans) or 2.9 (cis). The limits leave
# room for poor geometry and stay below what a missing residue would make of the distance.
_PEPTIDE_BOND: Final = 2.0
_ALPHA_STEP: Final = 4.3

# Less than one match: the numbering decides only between placements that match equally well.
_NUMBERING_BONUS: Final = 0.5


def bonded_segments(
    residues: Sequence[NDArray[np.float64]] | NDArray[np.float64],
) -> list[tuple[int, int]]:
    """Return the runs `(start, stop)` of residues that follow one another without a gap.

    `residues` are N, CA, C and CB of each, `[4, 3]` in angstrom, NaN where unknown. Without C or
    the next N, the distance of the CA atoms decides.
    """
    if len(residues) == 0:
        return []
    atoms = np.array(residues)
    before, after = atoms[:-1], atoms[1:]
    bond = np.linalg.norm(before[:, 2] - after[:, 0], axis=1)
    step = np.linalg.norm(before[:, 1] - after[:, 1], axis=1)
    bonded = np.where(np.isnan(bond), step < _ALPHA_STEP, bond < _PEPTIDE_BOND)
    ends = [*(np.flatnonzero(~bonded) + 1).tolist(), len(residues)]
    return list(pairwise([0, *ends]))


def place_segments(
    sequence: str, observed: str, numbers: Sequence[int], segments: Sequence[tuple[int, int]]
) -> list[int]:
    """Return the position in `sequence`, from 0, of every observed residue; empty if none fits.

    Segments keep their order, do not overlap and hold together; among such placements the one with
    the most equal letters wins, then the one whose gaps agree with the residue numbers, then the
    leftmost. Found by dynamic programming over (segment, start).

    Args:
        sequence: all residues of the chain, one letter each.
        observed: residues with coordinates.
        numbers: the author's number of each observed residue.
        segments: `(start, stop)` runs of `observed` without a gap inside.
    """
    letters = np.frombuffer(sequence.encode(), dtype=np.uint8)
    seen = np.frombuffer(observed.encode(), dtype=np.uint8)
    places = len(sequence)
    scores = np.zeros(places)
    came_from: list[NDArray[np.int64]] = []
    for index, (start, stop) in enumerate(segments):
        matches = _matches(letters, seen[start:stop])
        if index > 0:
            length = segments[index - 1][1] - segments[index - 1][0]
            gap = numbers[start] - numbers[start - 1] - 1
            scores, origin = _best_before(scores, length, gap)
            came_from.append(origin)
        scores = scores + matches
    place = int(np.argmax(scores))
    if not segments or not np.isfinite(scores[place]):
        return []
    positions: list[int] = []
    for start, stop in reversed(segments):
        positions[:0] = range(place, place + stop - start)
        if came_from:
            place = int(came_from.pop()[place])
    return positions


def _matches(letters: NDArray[np.uint8], segment: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return how many letters of `segment` match at each start; -inf where it runs over the end."""
    matches = np.full(letters.size, -np.inf)
    if segment.size <= letters.size:
        windows = np.lib.stride_tricks.sliding_window_view(letters, segment.size)
        matches[: len(windows)] = (windows == segment).sum(axis=1)
    return matches


def _best_before(
    scores: NDArray[np.float64], length: int, gap: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return, for each start, the best score of the segment before it and the start of that one.

    Args:
        scores: scores of the segment before, by its start.
        length: length of the segment before.
        gap: number of residues missing between the two, by their numbers.
    """
    places = scores.size
    best, origin = np.full(places, -np.inf), np.full(places, -1)
    leader = 0
    for place in range(length, places):
        if scores[place - length] > scores[leader]:
            leader = place - length
        best[place], origin[place] = scores[leader], leader
        numbered = place - length - gap
        if gap >= 0 and numbered >= 0 and scores[numbered] + _NUMBERING_BONUS > best[place]:
            best[place], origin[place] = scores[numbered] + _NUMBERING_BONUS, numbered
    return best, origin
