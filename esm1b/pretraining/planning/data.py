"""How many training sequences a run has and how long they are: counted, given or assumed."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from esm1b.config import Config
from esm1b.corpus.config import CorpusConfig
from esm1b.download.release import expected_clusters
from esm1b.errors import UserError

UNIREF50_MEAN_LENGTH: Final = 286.5
"""Mean residues of a UniRef50 sequence: 17,282,055,793 residues in 60,315,044 sequences, a release
after 2018_03, at second hand (the manifest of LiteFold/UniRef50 on Hugging Face)."""

# Standard deviation of the logarithm of lengths in samples of UniRef90 (benchmarks/README.md).
_LOGARITHM_SPREAD: Final = 0.70
# Clusters on ESM-1b's published validation list (README of facebookresearch/esm)
_PUBLISHED_HELD_OUT: Final = 3_016_000
# `<cls>` and `<eos>`, which the order of the sequences counts too
_SPECIAL_TOKENS: Final = 2
_CHUNK: Final = 1 << 22


@dataclass(frozen=True, kw_only=True)
class LengthStatistics:
    """Means over the sequences of a corpus, cropped and with both special tokens.

    Attributes:
        mean_tokens: mean tokens of a sequence.
        weighted_mean_length: mean tokens of the sequence that a token is part of: the sum of
            squared lengths over the sum of lengths.
    """

    mean_tokens: float
    weighted_mean_length: float


def length_statistics(lengths: NDArray[np.int32], *, crop_residues: int) -> LengthStatistics:
    """Return the means over sequences of `lengths` residues, int32 `[sequences]`, not empty."""
    total = squares = 0
    for start in range(0, len(lengths), _CHUNK):
        tokens = np.minimum(lengths[start : start + _CHUNK], crop_residues).astype(np.int64)
        tokens += _SPECIAL_TOKENS
        total += int(tokens.sum())
        squares += int((tokens * tokens).sum())
    return LengthStatistics(mean_tokens=total / len(lengths), weighted_mean_length=squares / total)


def drawn_length_statistics(mean_residues: float, *, crop_residues: int) -> LengthStatistics:
    """Return the means where only the mean length is known: lengths log-normal, spread 0.70.

    With m the mean, g the spread and c the crop, L has E[min(L, c)] = m P(z - g) + c (1 - P(z)) and
    E[min(L, c)^2] = m^2 exp(g^2) P(z - 2 g) + c^2 (1 - P(z)), where P is the normal distribution
    function and z = (ln(c / m) + g^2 / 2) / g.
    """
    spread, normal = _LOGARITHM_SPREAD, NormalDist()
    z = (math.log(crop_residues / mean_residues) + spread**2 / 2) / spread
    longer = 1 - normal.cdf(z)
    first = mean_residues * normal.cdf(z - spread) + crop_residues * longer
    second = (
        mean_residues**2 * math.exp(spread**2) * normal.cdf(z - 2 * spread)
        + crop_residues**2 * longer
    )
    tokens = first + _SPECIAL_TOKENS
    squares = second + 2 * _SPECIAL_TOKENS * first + _SPECIAL_TOKENS**2
    return LengthStatistics(mean_tokens=tokens, weighted_mean_length=squares / tokens)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """The training sequences of a run.

    Attributes:
        sequences: number of sequences, None where it is not known.
        lengths: means over the sequences.
        origin: source of both, in words; parts are separated by "; ".
    """

    sequences: int | None
    lengths: LengthStatistics
    origin: str


def measured_data(config: Config, lengths: NDArray[np.int32], origin: str) -> TrainingData:
    """Return the facts of training sequences of `lengths` residues, int32 `[sequences]`.

    Raises:
        UserError: there are no sequences; the message begins with `origin`.
    """
    if not len(lengths):
        raise UserError(f"{origin}: no training sequences; expected some")
    return TrainingData(
        sequences=len(lengths),
        lengths=length_statistics(lengths, crop_residues=config.pretraining.crop_residues),
        origin=origin,
    )


def assumed_data(
    config: Config, *, mean_length: float | None = None, sequences: int | None = None
) -> TrainingData:
    """Return what is known of the training sequences without having them.

    Without `mean_length`, the mean residues of a sequence, UniRef50's is taken; without their
    number `sequences` the published one of the release that `config` names, if there is one.
    """
    counted = "number as given; "
    if sequences is None:
        sequences = _published_sequences(config.corpus)
        counted = f"published number of clusters of UniRef50 {config.corpus.release}; "
    residues = UNIREF50_MEAN_LENGTH if mean_length is None else mean_length
    whose = "a mean of UniRef50" if mean_length is None else "as given"
    drawn = f"{residues:g} residues on average ({whose}), lengths taken as log-normal"
    return TrainingData(
        sequences=sequences,
        lengths=drawn_length_statistics(residues, crop_residues=config.pretraining.crop_residues),
        origin=drawn if sequences is None else counted + drawn,
    )


def _published_sequences(corpus: CorpusConfig) -> int | None:
    """Return the training sequences of a whole release whose number of clusters is published."""
    clusters = expected_clusters(corpus.release or "")
    if clusters is None or corpus.limit is not None:
        return None
    training = clusters - _PUBLISHED_HELD_OUT
    if not corpus.has_published_list:
        training = round(clusters * (1 - corpus.validation_fraction))
    return round(training * (corpus.sample or 1))
