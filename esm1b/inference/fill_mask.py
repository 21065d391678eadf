"""The most probable tokens at masked positions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from esm1b.alphabet import MASK, TOKENS
from esm1b.errors import UserError
from esm1b.inference.long_sequences import LongSequences
from esm1b.inference.model import Model

_CONTEXT: Final = 8  # residues shown on either side


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One of the 33 tokens for one `<mask>`: `residue`, in brackets in its `context`.

    The position counts residues from 1, and rank 1 is the most probable token.
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
    in the order of the alphabet. Spaces in the sequence are ignored.

    Raises:
        UserError: the sequence is invalid, or has no `<mask>`, or truncation would cut one off.
    """
    if not 1 <= top <= len(TOKENS):
        raise UserError(f"top {top}: expected 1 to {len(TOKENS)}, the number of tokens")
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
    probabilities = softmax(logits[masks].astype(np.float64), axis=1)
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


def _context(tokens: NDArray[np.uint8], place: int, filled: str) -> str:
    start, stop = max(place - _CONTEXT, 0), place + 1 + _CONTEXT
    before = "".join(TOKENS[token] for token in tokens[start:place])
    after = "".join(TOKENS[token] for token in tokens[place + 1 : stop])
    left = "..." if start else ""
    right = "..." if stop < len(tokens) else ""
    return f"{left}{before}[{filled}]{after}{right}"
