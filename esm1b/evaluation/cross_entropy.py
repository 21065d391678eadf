"""Cross-entropy at fixed masked positions: of networks, of frequencies and of exact references."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.alphabet import AMINO_ACIDS, FIRST_AMINO_ACID, TOKENS
from esm1b.batches.masking import VALIDATION_SEED, Corruption
from esm1b.batches.micro_batch import BatchRecipe, MicroBatch, make_batch
from esm1b.batches.packing import share_out
from esm1b.corpus.tokens.dataset import TokenDataset
from esm1b.errors import UserError
from esm1b.inference.model import Model
from esm1b.synthetic.dataset import load_truth
from esm1b.synthetic.exact_predictions import exact_predictions

CrossEntropy = NDArray[np.float64]
"""Sums over the targets of each sequence, in nats, `[2, sequences]`: over the 33 tokens, and
renormalised to the 20 amino acids."""

_AMINO_ACIDS: Final = slice(FIRST_AMINO_ACID, FIRST_AMINO_ACID + len(AMINO_ACIDS))
# Residue frequencies settle long before this; a shard holds a random share of the corpus.
_FREQUENCY_SEQUENCES: Final = 100_000


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedSequences:
    """Sequences under fixed masks; the targets are the masked positions that hold an amino acid.

    `batches` hold every draw of every sequence, a few thousand tokens each; `owners` the sequence
    of each masked position of each batch.
    """

    batches: Sequence[MicroBatch]
    owners: Sequence[NDArray[np.int64]]
    sequences: int

    def targets(self) -> NDArray[np.float64]:
        """Return the number of targets of each sequence, `[sequences]`."""
        ones = [np.ones((1, batch.targets.size)) for batch in self.batches]
        counts: NDArray[np.float64] = self.sums(ones)[0]
        return counts

    def sums(self, values: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
        """Return values summed over the targets of each sequence, `[rows, sequences]`.

        They are given at the masked positions of each batch, `[rows, positions]`.
        """
        targets = np.concatenate([batch.targets for batch in self.batches])
        kept = (targets >= _AMINO_ACIDS.start) & (targets < _AMINO_ACIDS.stop)
        owners = np.concatenate(self.owners)[kept]
        weights = np.concatenate(values, axis=1)[:, kept]
        # Counted, not taken from the largest owner: a short sequence may have nothing masked.
        return np.stack([np.bincount(owners, row, minlength=self.sequences) for row in weights])


def mask_sequences(
    dataset: TokenDataset,
    sequences: int,
    model: Model,
    *,
    draws: int,
    corruption: Corruption,
    batch_tokens: int,
) -> MaskedSequences:
    """Return `draws` maskings of the first `sequences` of `dataset`, as `model` reads them.

    Each batch has about `batch_tokens` tokens.
    """
    batches, owners = [], []
    for draw in range(draws):
        recipe = BatchRecipe(
            crop_residues=model.longest_sequence,
            append_eos=model.append_eos,
            rare_residues=model.rare_residues,
            seed=VALIDATION_SEED + draw,
        )
        for share in share_out(
            recipe.framed_lengths(dataset.lengths[:sequences]),
            micro_batch_tokens=batch_tokens,
            maximum_tokens=recipe.maximum_tokens,
            width=model.shape.width,
        ):
            if len(share) == 0:
                continue
            first_epoch = np.zeros_like(share)
            batch = make_batch(dataset, share, first_epoch, recipe, corruption=corruption)
            batches.append(batch)
            owners.append(np.repeat(share, batch.lengths)[batch.masked_positions])
    return MaskedSequences(batches=batches, owners=owners, sequences=sequences)


def score_network(model: Model, masked: MaskedSequences) -> CrossEntropy:
    """Return the cross-entropy of a network."""
    nats = []
    for batch in masked.batches:
        log_probabilities = model.log_probabilities(
            batch.tokens, batch.lengths, batch.masked_positions
        )
        target = np.take_along_axis(log_probabilities, batch.targets[:, None], 1)[:, 0]
        amino_acids = np.logaddexp.reduce(log_probabilities[:, _AMINO_ACIDS], axis=1)
        nats.append(np.stack([-target, amino_acids - target]))
    return masked.sums(nats)


def score_frequencies(dataset: TokenDataset, masked: MaskedSequences) -> CrossEntropy:
    """Return the cross-entropy of always predicting the residue frequencies of `dataset`."""
    counts = np.ones(len(AMINO_ACIDS))  # Laplace's rule: no amino acid is impossible
    chosen = np.arange(min(_FREQUENCY_SEQUENCES, len(dataset)), dtype=np.int64)
    for share in np.array_split(chosen, max(1, len(chosen) // 1000)):
        lengths = dataset.lengths[share].astype(np.int64)
        residues = dataset.gather(share, np.zeros_like(lengths), lengths)
        counts += np.bincount(residues, minlength=_AMINO_ACIDS.stop)[_AMINO_ACIDS]
    by_token = np.zeros(len(TOKENS))  # other tokens are no targets
    by_token[_AMINO_ACIDS] = -np.log(counts / counts.sum())
    return masked.sums([np.stack([by_token[batch.targets]] * 2) for batch in masked.batches])


def score_truth(
    truth: Path, masked: MaskedSequences, *, append_eos: bool
) -> dict[str, CrossEntropy]:
    """Return the exact references of synthetic families by name, where chosen residues are hidden.

    Raises:
        UserError: the truth is about other sequences.
    """
    families = load_truth(truth)
    inside = slice(1, -1 if append_eos else None)
    nats: dict[str, list[NDArray[np.float64]]] = {"site_independent": [], "exact_optimum": []}
    for batch in masked.batches:
        is_hidden = np.zeros(len(batch.tokens), dtype=bool)
        is_hidden[batch.masked_positions] = True
        bounds = np.cumsum(batch.lengths)[:-1]
        residues = np.split(batch.tokens.astype(np.uint8), bounds)
        try:
            predictions = exact_predictions(
                families,
                [piece[inside] for piece in residues],
                [piece[inside] for piece in np.split(is_hidden, bounds)],
            )
        except ValueError as error:
            raise UserError(
                f"{truth}: does not describe the held-out sequences: {error}; expected the file "
                "that synthesize wrote with them"
            ) from error
        columns = (batch.targets - FIRST_AMINO_ACID)[:, None]
        for name, rows in nats.items():
            target = np.take_along_axis(getattr(predictions, name), columns, 1)[:, 0]
            rows.append(np.stack([-target] * 2))
    return {name: masked.sums(rows) for name, rows in nats.items()}
