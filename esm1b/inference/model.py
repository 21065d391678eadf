"""A model in use: logits, representations, attention maps and contacts of sequences."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esm1b.alphabet import (
    FIRST_AMINO_ACID,
    MASK,
    RESIDUES,
    RareResidues,
    encode_masked,
    merge_rare_residues,
)
from esm1b.batches.micro_batch import MicroBatch
from esm1b.errors import UserError
from esm1b.files import read_json
from esm1b.inference.long_sequences import LongSequences, Window, windows_of
from esm1b.inference.network import EncoderNetwork, Network
from esm1b.model.contact_head import ContactHead
from esm1b.model.packed import PackedTokens, pack_sequences
from esm1b.weights.hugging_face_reader import read_hugging_face
from esm1b.weights.provenance import read_provenance

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
ProteinSequence = str | NDArray[np.uint8]
"""A text such as `MKT<mask>V`, or tokens uint8 `[length]` without special tokens around them."""

_BATCH_TOKENS = 8192
_RESIDUE_OR_MASK = np.zeros(256, dtype=bool)
_RESIDUE_OR_MASK[FIRST_AMINO_ACID : FIRST_AMINO_ACID + len(RESIDUES)] = True
_RESIDUE_OR_MASK[MASK] = True
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A protein language model, used as it was trained.

    Sequences are taken together up to `batch_tokens` residues, the short ones with the short ones.
    Those longer than `longest_sequence` are refused, seen through overlapping windows, or cut
    ("error", "windows", "truncate"); results of a cut sequence are as short as it.

    Attributes:
        network: the network.
        rare_residues: "replace" merges B, U, Z and O into X.
        append_eos: whether `<eos>` closes each sequence.
        longest_sequence: most residues of a sequence.
        contact_head: None where none was fitted.
        name: of its directory.
    """

    network: Network
    rare_residues: RareResidues
    append_eos: bool
    longest_sequence: int
    contact_head: ContactHead | None
    name: str

    @property
    def layers(self) -> int:
        """Transformer layers."""
        return self.network.layers

    @property
    def width(self) -> int:
        """Width of the representations."""
        return self.network.width

    @property
    def heads(self) -> int:
        """Attention heads of a layer."""
        return self.network.heads

    def tokens(self, sequence: ProteinSequence) -> NDArray[np.uint8]:
        """Return the tokens `[length]` of a sequence, without `<cls>` and `<eos>`.

        Raises:
            UserError: the sequence is empty, or a character or token stands for no residue.
        """
        try:
            tokens = encode_masked(sequence) if isinstance(sequence, str) else sequence
        except ValueError as error:
            raise UserError(f"sequence: {error}") from error
        if len(tokens) == 0:
            raise UserError("sequence: is empty; expected at least one residue")
        if tokens.dtype != np.uint8 or not _RESIDUE_OR_MASK[tokens].all():
            raise UserError(
                "sequence: tokens that are no residues; expected uint8 of 4 to 28, or 32 (<mask>), "
                "as esm1b.alphabet.encode gives"
            )
        return tokens

    def logits(
        self,
        sequences: Sequence[ProteinSequence],
        *,
        long_sequences: LongSequences = "error",
        batch_tokens: int = _BATCH_TOKENS,
    ) -> list[NDArray[np.float32]]:
        """Return logits `[length, 33]` for each sequence.

        Raises:
            UserError: a sequence is no sequence, or too long.
        """

        def run(packed: PackedTokens) -> Tensor:
            logits = self.network.run(packed, logits=True).logits
            assert logits is not None
            return logits[:, None]

        values = self._by_residue(sequences, run, long_sequences, batch_tokens)
        return [value[0] for value in values]

    def representations(
        self,
        sequences: Sequence[ProteinSequence],
        *,
        layer: int = -1,
        long_sequences: LongSequences = "error",
        batch_tokens: int = _BATCH_TOKENS,
    ) -> list[NDArray[np.float32]]:
        """Return `[length, width]` for each sequence.

        Args:
            sequences: texts or tokens.
            layer: 0 is the input of the stack, `layers` (or -1) what leaves the last layer norm.
            long_sequences: what to do with those that are too long.
            batch_tokens: residues that the network takes at once, about.

        Raises:
            UserError: a sequence is no sequence, or too long; there is no such layer.
        """
        values = self.layer_representations(
            sequences, layers=[layer], long_sequences=long_sequences, batch_tokens=batch_tokens
        )
        return [value[0] for value in values]

    def layer_representations(
        self,
        sequences: Sequence[ProteinSequence],
        *,
        layers: Sequence[int],
        long_sequences: LongSequences = "error",
        batch_tokens: int = _BATCH_TOKENS,
    ) -> list[NDArray[np.float32]]:
        """Return `[len(layers), length, width]` for each sequence; see `representations`."""
        for layer in layers:
            if not -self.layers - 1 <= layer <= self.layers:
                raise UserError(
                    f"layer {layer}: {self.name} has {self.layers} layers; expected 0 (the input "
                    f"of the first) to {self.layers}, or -1 for the last"
                )
        numbers = [layer % (self.layers + 1) for layer in layers]

        def run(packed: PackedTokens) -> Tensor:
            kept = self.network.run(packed, representation_layers=set(numbers)).representations
            return torch.stack([kept[number] for number in numbers], dim=1)

        return self._by_residue(sequences, run, long_sequences, batch_tokens)

    def attentions(self, sequence: ProteinSequence) -> NDArray[np.float32]:
        """Return `[layers * heads, length, length]`: softmax weights, row = query.

        The rows and columns of `<cls>` and `<eos>` are left out after the softmax; channel =
        layer * heads + head.

        Raises:
            UserError: the sequence is no sequence, or too long.
        """
        residues = self.tokens(sequence)
        windows_of(len(residues), self.longest_sequence, "error")
        return np.concatenate([maps.cpu().numpy() for maps in self._attention_maps(residues)])

    @torch.no_grad()
    def contacts(
        self, sequence: ProteinSequence, *, long_sequences: LongSequences = "error"
    ) -> NDArray[np.float32]:
        """Return the probability of a contact, `[length, length]`, symmetric.

        Through windows, a pair is taken from the window in whose middle it lies most, and is NaN
        where no window holds both residues.

        Raises:
            UserError: the model has no fitted contact head; the sequence is none, or too long.
        """
        contact_head = self.fitted_contact_head()
        residues = self.tokens(sequence)
        windows = windows_of(len(residues), self.longest_sequence, long_sequences)
        length = windows[-1].stop
        probabilities = np.full((length, length), np.nan, dtype=np.float32)
        depths = np.zeros((length, length), dtype=np.int32)
        for window in windows:
            maps = self._attention_maps(residues[window.start : window.stop])
            square = np.s_[window.start : window.stop, window.start : window.stop]
            depth = _depth(window, length)
            deeper = depth > depths[square]
            found = contact_head.probabilities(maps).cpu().numpy()
            probabilities[square] = np.where(deeper, found, probabilities[square])
            depths[square] = np.maximum(depth, depths[square])
        return probabilities

    def fitted_contact_head(self) -> ContactHead:
        """Return the contact head.

        Raises:
            UserError: none was fitted.
        """
        if self.contact_head is None:
            raise UserError(
                f"{self.name}: the contact head is not fitted; expected a model directory with a "
                "fitted one, such as results/<run>/release or what export --evaluation writes"
            )
        return self.contact_head

    def masked_log_probabilities(self, batch: MicroBatch) -> NDArray[np.float64]:
        """Return log-probabilities `[masked, 33]` at the masked positions of a batch."""
        packed = PackedTokens.from_tokens(
            torch.from_numpy(batch.tokens).to(self.network.device), batch.lengths.tolist()
        )
        positions = torch.from_numpy(batch.masked_positions).to(self.network.device)
        logits = self.network.run(packed, logits=True, masked_positions=positions).logits
        assert logits is not None
        result: NDArray[np.float64] = logits.double().log_softmax(-1).cpu().numpy()
        return result

    def _by_residue(
        self,
        sequences: Sequence[ProteinSequence],
        run: Callable[[PackedTokens], Tensor],
        long_sequences: LongSequences,
        batch_tokens: int,
    ) -> list[NDArray[np.float32]]:
        """Return `[K, length, ...]` for each sequence, where `run` gives `[T, K, ...]`."""
        if isinstance(sequences, str | np.ndarray):
            raise UserError("sequences: one sequence; expected several, such as a list of one")
        tokens = [self.tokens(sequence) for sequence in sequences]
        windows = [
            windows_of(len(residues), self.longest_sequence, long_sequences, name=f"sequence {n}")
            for n, residues in enumerate(tokens, start=1)
        ]
        pieces = [(owner, window) for owner, found in enumerate(windows) for window in found]
        kept: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(pieces)
        for indices in _by_length(
            [window.stop - window.start for _, window in pieces], batch_tokens
        ):
            packed = self._pack(
                [
                    tokens[owner][window.start : window.stop]
                    for owner, window in (pieces[i] for i in indices)
                ]
            )
            values = run(packed).transpose(0, 1).float().cpu().numpy()
            starts = np.cumsum((0, *packed.lengths)) + 1  # after <cls>
            for index, start in zip(indices, starts, strict=False):
                _, window = pieces[index]
                first, last = (
                    start + place - window.start for place in (window.first, window.last)
                )
                kept[index] = values[:, first:last]
        parts = iter(kept)
        return [np.concatenate([next(parts) for _ in found], axis=1) for found in windows]

    def _attention_maps(self, residues: NDArray[np.uint8]) -> Iterator[Tensor]:
        inner = slice(1, 1 + len(residues))
        for maps in self.network.attention_maps(self._pack([residues])):
            yield maps[:, inner, inner]

    def _pack(self, sequences: Sequence[NDArray[np.uint8]]) -> PackedTokens:
        if self.rare_residues == "replace":
            sequences = [merge_rare_residues(residues) for residues in sequences]
        return pack_sequences(sequences, self.network.device, append_eos=self.append_eos)


def load_model(
    directory: Path | str, *, device: Device = "auto", precision: Precision = "fp32"
) -> Model:
    """Read a model directory: ESM-1b's or ESM-1v's, or, through `transformers`, ESM-2's.

    Args:
        directory: in Hugging Face's format.
        device: "auto" is CUDA where there is any.
        precision: of weights and arithmetic.

    Raises:
        UserError: a file is missing or damaged, or does not describe such a model.
    """
    directory = Path(directory)
    if directory.is_file():
        raise UserError(
            f"{directory}: is a file; expected a model directory, which esm1b import makes of a "
            ".pt file"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device: cuda, but PyTorch finds no CUDA device; expected cpu or auto")
    has_cuda = device != "cpu" and torch.cuda.is_available()
    place = torch.device("cuda" if has_cuda else "cpu")
    config = read_json(directory / "config.json")
    if isinstance(config, dict) and config.get("position_embedding_type") == "rotary":
        from esm1b.inference.transformers_network import load_transformers

        network, contact_head, longest = load_transformers(directory, place, _DTYPES[precision])
        return Model(
            network=network,
            rare_residues="keep",
            append_eos=True,
            longest_sequence=longest,
            contact_head=contact_head,
            name=directory.absolute().name,
        )
    encoder, contact_head = read_hugging_face(directory)
    provenance = read_provenance(directory)
    return Model(
        network=EncoderNetwork(encoder.to(place, _DTYPES[precision])),
        rare_residues=provenance.rare_residues,
        append_eos=provenance.append_eos,
        longest_sequence=provenance.longest_sequence(encoder.shape),
        contact_head=contact_head,
        name=directory.absolute().name,
    )


def untrained_model(like: Model, seed: int) -> Model:
    """Return a network of the same shape as training starts it, drawn with `seed`, used alike."""
    return replace(like, network=like.network.untrained(seed), contact_head=None)


def _depth(window: Window, length: int) -> NDArray[np.int32]:
    """Return how far, in residues, each pair lies from an end of the window, at least 1.

    The ends of the sequence, which is `length` long, are no ends.
    """
    places = np.arange(window.start, window.stop)
    left = np.full_like(places, length) if window.start == 0 else places - window.start + 1
    right = np.full_like(places, length) if window.stop == length else window.stop - places
    depth = np.minimum(left, right).astype(np.int32)
    return np.minimum(depth[:, None], depth)


def _by_length(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Yield indices in groups of similar length that hold about `batch_tokens` residues."""
    group: list[int] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: lengths[index]):
        if group and tokens + lengths[index] > batch_tokens:
            yield group
            group, tokens = [], 0
        group.append(index)
        tokens += lengths[index]
    if group:
        yield group
