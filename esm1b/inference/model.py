"""Models in use: logits, representations, attention maps and contacts of sequences."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esm1b.alphabet import (
    CLS,
    EOS,
    FIRST_AMINO_ACID,
    MASK,
    RESIDUES,
    RareResidues,
    encode_masked,
    merge_rare_residues,
)
from esm1b.errors import UserError
from esm1b.freed_memory import LARGEST_KEPT, keep_freed_memory
from esm1b.inference.gain_of_bf16 import tell_gain_of_bf16
from esm1b.inference.jacobian import coupling_scores, log_cost
from esm1b.inference.long_sequences import LongSequences, groups_by_length, windows_of
from esm1b.model.encoder import Encoder
from esm1b.model.layers import ContactHead
from esm1b.model.packed import PackedTokens, pack_sequences
from esm1b.model.shape import EncoderShape
from esm1b.versions import versions
from esm1b.weights.model_directory import ModelDirectory

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16"]
ContactMethod = Literal["head", "jacobian"]
ProteinSequence = str | NDArray[np.uint8]
"""A text such as `MKT<mask>V`, or tokens uint8 `[length]` without special tokens around them."""

BATCH_TOKENS: Final = {"cpu": 4_608, "cuda": 32_768, "mps": 8_192}
"""Tokens of a pass over many variants of a sequence, by kind of device."""

_BATCH_TOKENS = 8192
_DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
_RESIDUES_AND_MASK = [*range(FIRST_AMINO_ACID, FIRST_AMINO_ACID + len(RESIDUES)), MASK]
_IS_RESIDUE_OR_MASK = np.isin(np.arange(256), _RESIDUES_AND_MASK)


@dataclass(frozen=True, kw_only=True)
class Model:
    """A protein language model, used as it was trained.

    Methods run sequences of similar length together, about `batch_tokens` residues at once.
    Sequences above `longest_sequence` are refused, seen through overlapping windows, or cut
    ("error", "windows", "truncate"); results of a cut sequence are as short as it. An invalid or
    refused sequence raises a `UserError`.

    Attributes:
        rare_residues: "replace" merges B, U, Z and O into X.
        append_eos: True if `<eos>` closes each sequence.
        longest_sequence: most residues of a sequence.
        contact_head: fitted contact head, or None.
        precision: fp32 or bf16.
    """

    network: Encoder
    rare_residues: RareResidues
    append_eos: bool
    longest_sequence: int
    contact_head: ContactHead | None
    directory: ModelDirectory
    precision: Precision = "fp32"

    @property
    def shape(self) -> EncoderShape:
        """Size of the network."""
        return self.network.shape

    @property
    def device(self) -> str:
        """Kind of device that the network is on: cpu, cuda or mps."""
        return self.network.device.type

    def settings(self) -> dict[str, Any]:
        """Return everything about the model that decides its results, for their metadata."""
        return {
            "model": self.directory.name,
            "model_sha256": self.directory.digest(),
            "longest_sequence": self.longest_sequence,
            "device": self.device,
            "versions": versions(),
        }

    def tokens(self, sequence: ProteinSequence) -> NDArray[np.uint8]:
        """Return the tokens `[length]` of a sequence, without `<cls>` and `<eos>`.

        Raises:
            UserError: the sequence is empty, or has something else than residues and `<mask>`.
        """
        if not isinstance(sequence, str | np.ndarray):
            kind = type(sequence).__name__
            raise UserError(f"sequence: {kind}; expected text such as MKT<mask>V, or uint8 tokens")
        try:
            tokens = encode_masked(sequence) if isinstance(sequence, str) else sequence
        except ValueError as error:
            raise UserError(f"sequence: {error}") from error
        if len(tokens) == 0:
            raise UserError("sequence: is empty; expected at least one residue")
        if tokens.dtype != np.uint8 or not _IS_RESIDUE_OR_MASK[tokens].all():
            raise UserError(
                "sequence: has tokens that are not residues; expected uint8 of 4 to 28, or 32 "
                "(<mask>), as esm1b.alphabet.encode gives"
            )
        return tokens

    def logits(
        self,
        sequences: Sequence[ProteinSequence],
        *,
        long_sequences: LongSequences = "error",
        batch_tokens: int = _BATCH_TOKENS,
    ) -> list[NDArray[np.float32]]:
        """Return logits `[length, 33]` for each sequence."""
        values = self._by_residue(
            sequences, lambda packed: self.network(packed)[:, None], long_sequences, batch_tokens
        )
        return [value[0] for value in values]

    def representations(
        self,
        sequences: Sequence[ProteinSequence],
        *,
        layer: int | Sequence[int] = -1,
        long_sequences: LongSequences = "error",
        batch_tokens: int = _BATCH_TOKENS,
    ) -> list[NDArray[np.float32]]:
        """Return `[length, width]` for each sequence, or `[layers, length, width]` of several.

        Layer 0 is the input of the stack, the last (or -1) the output of the last norm.
        """
        numbers = self.layer_numbers(layer if isinstance(layer, Sequence) else [layer])

        def run(packed: PackedTokens) -> Tensor:
            kept = self.network.representations(packed, set(numbers))
            return torch.stack([kept[number] for number in numbers], dim=1)

        values = self._by_residue(sequences, run, long_sequences, batch_tokens)
        return values if isinstance(layer, Sequence) else [value[0] for value in values]

    def layer_numbers(self, layers: Sequence[int]) -> list[int]:
        """Return layers as numbers from 0, or raise; negative `layers` count from the end."""
        for layer in layers:
            if not -self.shape.layers - 1 <= layer <= self.shape.layers:
                raise UserError(
                    f"layer {layer}: the model has layers 0 (the input of the first) to "
                    f"{self.shape.layers}; expected one of them, or {-self.shape.layers - 1} to -1"
                )
        return [layer % (self.shape.layers + 1) for layer in layers]

    def attentions(self, sequence: ProteinSequence) -> NDArray[np.float32]:
        """Return `[layers * heads, length, length]`: softmax weights, row = query.

        The rows and columns of `<cls>` and `<eos>` are left out after the softmax; channel =
        layer * heads + head.
        """
        residues = self.tokens(sequence)
        windows_of(len(residues), self.longest_sequence, "error")
        return np.concatenate([maps.cpu().numpy() for maps in self._attention_maps(residues)])

    def contacts(
        self,
        sequence: ProteinSequence,
        *,
        method: ContactMethod = "head",
        long_sequences: LongSequences = "error",
    ) -> NDArray[np.float32]:
        """Return the probability of a contact, `[length, length]`, symmetric.

        With "jacobian", which needs no fitted contact head, return the `coupling_scores` of the
        categorical Jacobian instead, in 20 passes for each residue.

        Through windows, a pair is taken from the window in which it lies closest to the middle; it
        is NaN if no window holds both residues.

        Raises:
            UserError: the model has no fitted contact head; the sequence is invalid or too long.
        """
        predict = self._coupling_scores if method == "jacobian" else self._contact_probabilities()
        residues = self.tokens(sequence)
        windows = windows_of(len(residues), self.longest_sequence, long_sequences)
        length = windows[-1].stop
        contacts = np.full((length, length), np.nan, dtype=np.float32)
        depths = np.zeros((length, length), dtype=np.int32)
        for window in windows:
            found = predict(residues[window.start : window.stop])
            square = np.s_[window.start : window.stop, window.start : window.stop]
            depth = window.depths(length)
            deeper = depth > depths[square]
            contacts[square] = np.where(deeper, found, contacts[square])
            depths[square] = np.maximum(depth, depths[square])
        return contacts

    def log_jacobian_cost(self, lengths: Sequence[int]) -> None:
        """Log what the contacts of sequences or windows of these `lengths` take by "jacobian"."""
        batch_tokens = BATCH_TOKENS[self.device]
        log_cost(self._logits_of_mutants, lengths, 1 + self.append_eos, batch_tokens)

    def fitted_contact_head(self) -> ContactHead:
        """Return the contact head, or raise a `UserError` if the model has no fitted one."""
        if self.contact_head is None:
            raise UserError(
                f"{self.directory.name}: the contact head is not fitted; expected a model "
                "directory with a fitted one, such as results/<run>/release or what export "
                "--evaluation writes"
            )
        return self.contact_head

    def framed(self, residues: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return residue tokens `[length]` as the network reads them: `<cls> residues <eos>`."""
        if self.rare_residues == "replace":
            residues = merge_rare_residues(residues)
        end = [EOS] if self.append_eos else []
        return np.concatenate(([CLS], residues, end)).astype(np.uint8)

    @torch.inference_mode()
    def log_probabilities(
        self, tokens: NDArray[np.int64], lengths: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Return log-probabilities `[positions, 33]` of sequences that are laid end to end.

        Args:
            tokens: int64 `[tokens]`, special tokens included.
            lengths: int64 `[sequences]`, number of tokens of each sequence.
            positions: int64 `[positions]`, places in `tokens` where predictions are wanted.
        """
        device = self.network.device
        packed = PackedTokens.from_tokens(torch.from_numpy(tokens).to(device), lengths.tolist())
        logits = self.network(packed, torch.from_numpy(positions).to(device))
        result: NDArray[np.float64] = logits.cpu().double().log_softmax(-1).numpy()
        return result

    @torch.no_grad()
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
        pieces = [
            (residues[window.start : window.stop], window)
            for residues, found in zip(tokens, windows, strict=True)
            for window in found
        ]
        kept: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(pieces)
        for indices in groups_by_length([len(residues) for residues, _ in pieces], batch_tokens):
            packed = self._pack([pieces[index][0] for index in indices])
            values = run(packed).transpose(0, 1).float().cpu().numpy()
            parts = np.split(values, np.cumsum(packed.lengths)[:-1], axis=1)
            for index, part in zip(indices, parts, strict=True):
                _, window = pieces[index]
                first = 1 + window.first - window.start  # after <cls>
                kept[index] = part[:, first : first + window.last - window.first]
        by_piece = iter(kept)
        return [np.concatenate([next(by_piece) for _ in found], axis=1) for found in windows]

    def _contact_probabilities(self) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
        head = self.fitted_contact_head()
        return lambda residues: head.probabilities(self._attention_maps(residues)).cpu().numpy()

    def _coupling_scores(self, residues: NDArray[np.uint8]) -> NDArray[np.float32]:
        return coupling_scores(self._logits_of_mutants, residues)

    def _logits_of_mutants(
        self, sequences: Sequence[NDArray[np.uint8]]
    ) -> list[NDArray[np.float32]]:
        return self.logits(sequences, batch_tokens=BATCH_TOKENS[self.device])

    @torch.no_grad()
    def _attention_maps(self, residues: NDArray[np.uint8]) -> Iterator[Tensor]:
        inner = slice(1, 1 + len(residues))
        for (maps,) in self.network.attention_maps(self._pack([residues])):
            yield maps[:, inner, inner]

    def _pack(self, sequences: Sequence[NDArray[np.uint8]]) -> PackedTokens:
        if self.rare_residues == "replace":
            sequences = [merge_rare_residues(residues) for residues in sequences]
        return pack_sequences(sequences, self.network.device, append_eos=self.append_eos)


def load_model(
    path: Path | str, *, device: Device = "auto", precision: Precision = "auto"
) -> Model:
    """Read a model directory of an ESM-1b, ESM-1v or ESM-2.

    The device "auto" is CUDA where it is available, and the precision "auto" is fp32. MPS, of
    Apple's processors, was never tried.

    Raises:
        UserError: a file is missing or damaged, or does not describe such a model.
    """
    directory = ModelDirectory(Path(path))
    if directory.path.is_file():
        raise UserError(
            f"{directory.path}: is a file; expected a model directory, which esm1b import makes "
            "of a .pt file"
        )
    is_there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not is_there.get(device, True):
        raise UserError(
            f"device: {device}, but PyTorch finds no {device.upper()} device; expected cpu or auto"
        )
    if device == "auto":
        device = "cuda" if is_there["cuda"] else "cpu"
    place, dtype = torch.device(device), _DTYPES[precision]
    if place.type == "cpu":
        keep_freed_memory(8 * LARGEST_KEPT)
        if precision == "auto":
            tell_gain_of_bf16()
    trained = directory.read()
    network, provenance = trained.encoder.to(place, dtype), trained.provenance
    return Model(
        network=network,
        rare_residues=provenance.rare_residues,
        append_eos=provenance.append_eos,
        longest_sequence=provenance.longest_sequence(network.shape),
        contact_head=trained.contact_head,
        directory=directory,
        precision="bf16" if precision == "bf16" else "fp32",
    )


def untrained_model(like: Model, seed: int) -> Model:
    """Return `like` with a network of the same shape that is initialised for training by `seed`."""
    return replace(like, network=like.network.untrained(seed), contact_head=None)
