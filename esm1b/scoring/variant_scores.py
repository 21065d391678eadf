"""Effects of mutations, by the conventions of Meier et al. 2021."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import encode
from esm1b.inference.model import Model
from esm1b.scoring.mutations import Mutation, Variant
from esm1b.scoring.weighted_passes import (
    Terms,
    WeightedPass,
    Window,
    likelihood_passes,
    summed,
    weighted_passes,
)

Convention = Literal[
    "masked-marginals",
    "masked-marginals-joint",
    "wildtype-marginals",
    "mutant-marginals",
    "pseudo-perplexity",
]


def score_variants(
    model: Model,
    wild_type: str,
    variants: Sequence[Variant],
    *,
    convention: Convention = "masked-marginals",
    window: Window = "optimal",
    batch_tokens: int | None = None,
) -> NDArray[np.float64]:
    """Return the score of each variant `[variants]`; the higher, the fitter.

    Sums of log p(mutant) - log p(wild type) over the mutations of a variant, p over all 33 tokens
    (Meier et al. 2021, appendix A, and fair-esm's `examples/variant-prediction/predict.py`):

    - masked-marginals: each mutated position alone is hidden in the wild type; ProteinGym's for
      ESM-1v;
    - masked-marginals-joint: all mutated positions of the variant are hidden together;
    - wildtype-marginals: nothing is hidden in the wild type; ProteinGym's for ESM-1b;
    - mutant-marginals: nothing is hidden in the mutated sequence;
    - pseudo-perplexity: the sum over *all* positions of log p(residue), each alone hidden, of the
      mutated sequence less that of the wild type. predict.py's `compute_pppl` starts at `<cls>` + 1
      but ends two residues early and looks up each residue one place off; this is the definition.

    Args:
        model: the model.
        wild_type: upper-case sequence.
        variants: variants of it, as `parse_variant` returns them.
        convention: definition of the score.
        window: pieces of a wild type longer than the model takes, see `weighted_passes`.
        batch_tokens: tokens of a forward pass; by the device if None.
    """
    passes = variant_passes(model, wild_type, variants, convention=convention, window=window)
    sums = summed(model, passes, len(variants) + 1, batch_tokens)
    scores: NDArray[np.float64] = sums[1:] - sums[0]
    return scores


def variant_passes(
    model: Model,
    wild_type: str,
    variants: Sequence[Variant],
    *,
    convention: Convention,
    window: Window,
) -> Iterator[WeightedPass]:
    """Yield the passes of `score_variants`.

    The score of variant i is sum i + 1 of their terms less sum 0, which is that of the wild type.
    """
    framed = model.framed(encode(wild_type))
    if convention == "pseudo-perplexity":
        sequences = [wild_type, *(variant.applied(wild_type) for variant in variants)]
        for row, sequence in enumerate(sequences):
            tokens = model.framed(encode(sequence))
            yield from likelihood_passes(
                model, tokens, np.full(len(sequence), row), is_masked=True, window=window
            )
        return
    if convention == "mutant-marginals":
        for row, variant in enumerate(variants, start=1):
            tokens = model.framed(encode(variant.applied(wild_type)))
            terms = _differences(framed, [(row, each) for each in variant.mutations])
            yield from weighted_passes(model, tokens, [], terms, window)
        return
    # What is hidden decides what a pass can answer.
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    mutations: list[tuple[int, Mutation]] = []
    for row, variant in enumerate(variants, start=1):
        places = tuple(mutation.position + 1 for mutation in variant.mutations)
        for place, mutation in zip(places, variant.mutations, strict=True):
            if convention == "masked-marginals":
                hidden: tuple[int, ...] = (place,)
            else:
                hidden = places if convention == "masked-marginals-joint" else ()
            groups[hidden].append(len(mutations))
            mutations.append((row, mutation))
    terms = _differences(framed, mutations)
    for hidden, members in groups.items():
        chosen = np.array(members)[:, None] * 2 + [0, 1]
        yield from weighted_passes(model, framed, hidden, terms.at(chosen.ravel()), window)


def _differences(framed: NDArray[np.uint8], mutations: Sequence[tuple[int, Mutation]]) -> Terms:
    """Return log p(mutant) - log p(wild type) of each mutation, two terms each, into its row."""
    rows = np.array([row for row, _ in mutations], dtype=np.int64)
    positions = np.array([each.position + 1 for _, each in mutations], dtype=np.int64)
    mutants = encode("".join(each.mutant for _, each in mutations)).astype(np.int64)
    return Terms(
        positions=np.repeat(positions, 2),
        targets=np.stack([mutants, framed[positions]], axis=1).ravel(),
        rows=np.repeat(rows, 2),
        weights=np.tile([1.0, -1.0], len(rows)),
    )
