"""A model in use: representations, attention maps and predictions of sequences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from esm1b.alphabet import merge_rare_residues
from esm1b.batches.masking import RareResidues
from esm1b.batches.stream import MicroBatch
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.packed import PackedTokens, pack_sequences
from esm1b.model.shape import EncoderShape
from esm1b.model.weights import load_encoder, read_provenance

__all__ = ["Model", "load_model", "untrained_model"]

_TOKENS_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class Model:
    """An encoder in evaluation mode, float32, used as it was trained.

    Attributes:
        encoder: the network.
        rare_residues: "replace" merges B, U, Z and O into X.
        append_eos: whether `<eos>` closes each sequence.
        longest_sequence: most residues of a sequence.
        device: where it runs.
    """

    encoder: Encoder
    rare_residues: RareResidues
    append_eos: bool
    longest_sequence: int
    device: torch.device

    @property
    def config(self) -> EncoderShape:
        """The shape of the encoder."""
        return self.encoder.shape

    @torch.no_grad()
    def attentions(self, residues: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return `[layers * heads, length, length]`: softmax weights, row = query.

        The rows and columns of `<cls>` and `<eos>` are left out after the softmax; channel =
        layer * heads + head. `residues` are uint8 tokens `[length]`.
        """
        packed = self._pack([residues])
        encoded = self.encoder.encode(packed, attentions=True)
        maps = torch.cat([layer[0][0] for layer in encoded.attentions])
        inner = slice(1, 1 + len(residues))
        result: NDArray[np.float32] = maps[:, inner, inner].cpu().numpy()
        return result

    @torch.no_grad()
    def representations(
        self, sequences: Sequence[NDArray[np.uint8]], *, layer: int = -1
    ) -> list[NDArray[np.float32]]:
        """Return `[length, width]` for each sequence of uint8 tokens.

        Args:
            sequences: residue tokens, `[length]` each.
            layer: 0 is the input of the stack, `layers` (or -1) what leaves the last layer norm.
        """
        number = layer % (self.config.layers + 1)
        results: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(sequences)
        for indices in _by_length([len(residues) for residues in sequences]):
            packed = self._pack([sequences[index] for index in indices])
            encoded = self.encoder.encode(packed, representation_layers=(number,))
            values = encoded.representations[number].cpu().numpy()
            parts = np.split(values, np.cumsum(packed.lengths)[:-1])
            for index, part in zip(indices, parts, strict=True):
                results[index] = part[1 : 1 + len(sequences[index])]
        return results

    @torch.no_grad()
    def masked_log_probabilities(self, batch: MicroBatch) -> NDArray[np.float64]:
        """Return log-probabilities `[masked, 33]` at the masked positions of a batch."""
        packed = PackedTokens.from_tokens(
            torch.from_numpy(batch.tokens).to(self.device), batch.lengths.tolist()
        )
        logits = self.encoder(packed, torch.from_numpy(batch.masked_positions).to(self.device))
        result: NDArray[np.float64] = logits.double().log_softmax(-1).cpu().numpy()
        return result

    def _pack(self, sequences: Sequence[NDArray[np.uint8]]) -> PackedTokens:
        if self.rare_residues == "replace":
            sequences = [merge_rare_residues(residues) for residues in sequences]
        return pack_sequences(sequences, self.device, append_eos=self.append_eos)


def load_model(directory: Path) -> Model:
    """Read a model directory; it runs on CUDA where there is a device.

    Raises:
        UserError: a file is missing or damaged, or does not describe an ESM-1b.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = load_encoder(directory)
    provenance = read_provenance(directory)
    return Model(
        encoder=encoder.to(device),
        rare_residues=provenance.rare_residues,
        append_eos=provenance.append_eos,
        longest_sequence=provenance.longest_sequence(encoder.shape),
        device=device,
    )


def untrained_model(like: Model, seed: int) -> Model:
    """Return a network of the same shape as training starts it, drawn with `seed`, used alike."""
    encoder = Encoder(like.config)
    initialise(encoder, seed)
    return replace(like, encoder=encoder.to(like.device).eval())


def _by_length(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield indices in groups of similar length that hold about `_TOKENS_AT_ONCE` residues."""
    group: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if group and tokens + lengths[index] > _TOKENS_AT_ONCE:
            yield group
            group, tokens = [], 0
        group.append(index)
        tokens += lengths[index]
    if group:
        yield group
