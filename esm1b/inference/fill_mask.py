"""What the model expects at masked positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import MASK, TOKENS
from esm1b.errors import UserError
from esm1b.inference.long_sequences import LongSequences
from esm1b.inference.model import Model

_CONTEXT: Final = 8  # residues shown on either side


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One token for one `<mask>`.

    Attributes:
        position: number of the residue, from 1.
        rank: 1 is the most probable of this position.
        residue: one of the 33 tokens; a trained model ranks residues first.
        probability: over the 33 tokens.
        context: the token in brackets between its neighbours.
    """

    position: int
    rank: int
    residue: str
    probability: float
    context: str


def fill_mask(
    model: Model, sequence: str, top: int = 5, *, long_sequences: LongSequences = "error"
) -> list[Candidate]:
    """Return the `top` most probable tokens of every `<mask>`, position by position.

    Several masks are predicted together: each sees the others as `<mask>`. Equal probabilities are
    in the order of the alphabet.

    Example:
        >>> fill_mask(esm1b.load("model"), "MKT<mask>RQG", top=1)  # doctest: +SKIP
        [Candidate(position=4, rank=1, residue='V', probability=0.31, context='MKT[V]RQG')]

    Args:
        model: the model.
        sequence: residues and `<mask>`; spaces are left out.
        top: tokens for each mask.
        long_sequences: what is done to a sequence that is longer than the model takes.

    Raises:
        UserError: no `<mask>`, one that truncation cuts off, or what is no residue.
    """
    if not 1 <= top <= len(TOKENS):
        raise UserError(f"top {top}: expected 1 to {len(TOKENS)}, for there are so many tokens")
    tokens = model.tokens(sequence)
    masks = np.flatnonzero(tokens == MASK)
    if not len(masks):
        raise UserError("sequence: has no <mask>; expected at least one, as in MKT<mask>RQG")
    logits = model.logits([tokens], long_sequences=long_sequences)[0]
    if masks[-1] >= len(logits):
        raise UserError(
            f"sequence: <mask> at position {masks[-1] + 1:,}, beyond the first {len(logits):,} "
            "residues that truncation keeps; expected long sequences in windows"
        )
    probabilities = _softmax(logits[masks])
    candidates = []
    for mask, of_mask in zip(masks.tolist(), probabilities, strict=True):
        best = np.argsort(-of_mask, kind="stable")[:top]
        candidates += [
            Candidate(
                position=mask + 1,
                rank=rank,
                residue=TOKENS[token],
                probability=float(of_mask[token]),
                context=_context(tokens, mask, TOKENS[token]),
            )
            for rank, token in enumerate(best, start=1)
        ]
    return candidates


def candidate_table(candidates: Sequence[Candidate]) -> str:
    """Return candidates as lines of aligned columns, an empty line between positions."""
    lines = ["position  rank  residue  probability  context"]
    for candidate in candidates:
        if candidate.rank == 1 and len(lines) > 1:
            lines.append("")
        lines.append(
            f"{candidate.position:8d}  {candidate.rank:4d}  {candidate.residue:7s}  "
            f"{candidate.probability:11.4f}  {candidate.context}"
        )
    return "\n".join(lines)


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


def _context(tokens: NDArray[np.uint8], place: int, filled: str) -> str:
    start, stop = max(place - _CONTEXT, 0), place + 1 + _CONTEXT
    before = "".join(TOKENS[token] for token in tokens[start:place])
    after = "".join(TOKENS[token] for token in tokens[place + 1 : stop])
    left = "..." if start else ""
    right = "..." if stop < len(tokens) else ""
    return f"{left}{before}[{filled}]{after}{right}"
