"""Section of the configuration about the sequences to train on."""

import math
import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from esm1b.config_section import Count, Name, Section, Share, Texts
from esm1b.download.release import LIMIT_PATTERN, RELEASE_PATTERN, VALIDATION_LIST_RELEASE

PUBLISHED: Final = "published"
"""Name for the list of the clusters that ESM-1b held out."""


def _release_text(value: Any) -> Any:
    # Without quotes, YAML and Snakemake's --config read 2018_03 as the number 201803.
    is_number = type(value) is int and 200_000 < value < 210_000
    return f"{value // 100}_{value % 100:02d}" if is_number else value


def _text_like(pattern: str, expected: str) -> BeforeValidator:
    """Return a validator for text that matches `pattern`, described as `expected` in errors."""

    def check(value: Any) -> Any:
        if not (isinstance(value, str) and re.fullmatch(pattern, value)):
            raise PydanticCustomError("text_like", "expected {expected}", {"expected": expected})
        return value

    return BeforeValidator(check)


Release = Annotated[
    str,
    _text_like(RELEASE_PATTERN, "current or a release such as 2018_03"),
    BeforeValidator(_release_text),
]
Limit = Annotated[str, _text_like(LIMIT_PATTERN, "bytes or records such as 10MB or 1000records")]


class SyntheticConfig(Section):
    """Synthetic protein families, drawn from a model whose optimum is known exactly."""

    families: Annotated[int, Field(ge=4)] = 16
    """number of families in the corpus: half fit the probes, half test them"""
    unseen_families: Annotated[int, Field(ge=2)] = 6
    """number of families in the structure table that are never in the corpus"""
    sequences: Annotated[int, Field(ge=10)] = 2000
    """number of sequences per family in the corpus"""


class CorpusConfig(Section):
    """The sequences to train on: a UniRef50 release, your own files, or synthetic families."""

    name: Name = "demonstration"
    """name of the corpus: its folder under results/corpora, shared by the runs that name it"""
    release: Release | None = None
    """UniRef50 release to download: current, or a name such as 2018_03"""
    mirrors: Texts = ()
    """URLs to download from, tried in order; empty: UniProt and its mirrors"""
    limit: Limit | None = None
    """part of the current release to download, such as 10MB or 1000records, for a smoke test"""
    sequences: Texts = ()
    """FASTA, UniRef XML or release archives to read, plain or .gz, instead of a release"""
    sample: Share | None = None
    """share of the sequences to keep, by a keyed hash of the sequence; all by default"""
    exclude: str | None = None
    """file of ids to exclude: a list, a table with a column id, or FASTA"""
    minimum_length: Count | None = None
    """smallest number of residues of a sequence to keep"""
    maximum_length: Count | None = None
    """largest number of residues of a sequence to keep"""
    strict: bool = False
    """refuse invalid records instead of skipping them"""
    shards: Annotated[int, Field(ge=1, le=100_000)] = 4
    """number of Parquet files of the training split; validation has proportionally many"""
    validation_fraction: Share = 0.02
    """share of the sequences to hold out, by a keyed hash of the sequence"""
    validation_ids: str | None = None
    """file of cluster ids to hold out instead of a share, or published: ESM-1b's own list"""
    allow_partial_list: bool = False
    """accept lists whose ids are missing from the sequences, as in another release"""
    synthetic: SyntheticConfig = SyntheticConfig()
    """synthetic families, used without `release` and `sequences`"""

    @property
    def is_synthetic(self) -> bool:
        """Whether the corpus is synthetic, neither downloaded nor read."""
        return self.release is None and not self.sequences

    @property
    def has_published_list(self) -> bool:
        """Whether the list of clusters that ESM-1b held out is to be downloaded."""
        return self.validation_ids == PUBLISHED

    @model_validator(mode="after")
    def _fits_together(self) -> "CorpusConfig":
        if self.release is not None and self.sequences:
            raise ValueError(
                f"release: {self.release!r} beside sequences {list(self.sequences)}; "
                "expected one of the two"
            )
        for name in ("mirrors", "limit"):
            if getattr(self, name) and self.release is None:
                raise ValueError(f"{name}: given without a release; expected one to download")
        if (self.minimum_length or 1) > (self.maximum_length or math.inf):
            raise ValueError(
                f"maximum_length: {self.maximum_length}; expected at least minimum_length, "
                f"{self.minimum_length}"
            )
        if self.allow_partial_list and self.validation_ids is None and self.exclude is None:
            raise ValueError(
                "allow_partial_list: true without validation_ids and exclude; expected a list"
            )
        is_whole = self.release == VALIDATION_LIST_RELEASE and self.limit is None
        # Only `shard` can tell what is in the user's own files.
        is_known = self.has_published_list and not self.sequences
        if is_known and not is_whole and not self.allow_partial_list:
            raise ValueError(
                f"validation_ids: {PUBLISHED!r}: ESM-1b's list is for the whole release "
                f"{VALIDATION_LIST_RELEASE}; expected that release, or allow_partial_list: true"
            )
        return self
