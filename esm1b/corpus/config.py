"""Section of the configuration: the sequences to train on."""

import math
import re
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from esm1b.config_section import Name, Section
from esm1b.download.release import CURRENT, LIMIT, RELEASE_NAME, VALIDATION_LIST_RELEASE

PUBLISHED: Final = "published"
"""Value of `validation_ids` that stands for the clusters that ESM-1b held out."""


def _release_text(value: Any) -> Any:
    # YAML reads 2018_03 without quotes as the number 201803, and so does Snakemake's --config
    is_number = type(value) is int and 200_000 < value < 210_000
    return f"{value // 100}_{value % 100:02d}" if is_number else value


def _text_like(pattern: str, expected: str) -> BeforeValidator:
    """Return a check of text whose message names what is expected in words."""

    def check(value: Any) -> Any:
        if value is not None and not (isinstance(value, str) and re.fullmatch(pattern, value)):
            raise PydanticCustomError("text_like", "expected {expected}", {"expected": expected})
        return value

    return BeforeValidator(check)


_RELEASE: Final = f"{CURRENT}|{RELEASE_NAME}"
ReleaseText = Annotated[
    str,
    Field(json_schema_extra={"pattern": f"^({_RELEASE})$"}),
    _text_like(_RELEASE, "current or a release such as 2018_03"),
    BeforeValidator(_release_text),
]
LimitText = Annotated[
    str,
    Field(json_schema_extra={"pattern": f"^{LIMIT}$"}),
    _text_like(LIMIT, "bytes or records such as 10MB or 1000records"),
]


class SyntheticConfig(Section):
    """The demonstration's protein families, drawn from a model whose optimum is known exactly."""

    families: Annotated[int, Field(ge=4)] = 16
    """families in the corpus: half fit the probes, half test them"""
    unseen_families: Annotated[int, Field(ge=2)] = 6
    """families of the structure table that are never in the corpus"""
    sequences: Annotated[int, Field(ge=10)] = 2000
    """sequences of each family in the corpus"""


class CorpusConfig(Section):
    """The sequences to train on: a UniRef50 release, files of one's own, or drawn families."""

    name: Name = "demonstration"
    """folder under results/corpora, shared by the runs that name it"""
    release: ReleaseText | None = None
    """UniRef50 release to download, such as "2018_03", or current"""
    mirrors: tuple[str, ...] = ()
    """URLs to download from, in this order; empty: UniProt and its mirrors"""
    limit: LimitText | None = None
    """size of the beginning of the release to use alone, as 10MB or 1000records: a smoke test"""
    sequences: tuple[str, ...] = ()
    """FASTA, UniRef XML or release archives, plain or .gz, instead of a release"""
    sample: Annotated[float, Field(gt=0, lt=1)] | None = None
    """share of the sequences to keep, by a keyed hash of the sequence; null: all"""
    exclude: str | None = None
    """FASTA file or list of ids to leave out"""
    minimum_length: Annotated[int, Field(ge=1)] | None = None
    """fewest residues of a sequence to keep"""
    maximum_length: Annotated[int, Field(ge=1)] | None = None
    """most residues of a sequence to keep"""
    strict: bool = False
    """true: a record that cannot be kept is an error; false: it is dropped and counted"""
    shards: Annotated[int, Field(ge=1, le=100_000)] = 4
    """Parquet files of each split"""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """share of the sequences held out, by a keyed hash of the sequence"""
    validation_ids: str | None = None
    """file of cluster ids to hold out instead, or published: ESM-1b's own list"""
    allow_partial_list: bool = False
    """true: listed ids may be missing, as in another release"""
    synthetic: SyntheticConfig = SyntheticConfig()
    """the demonstration's families, used without `release` and `sequences`"""

    @property
    def is_synthetic(self) -> bool:
        """Whether the corpus is drawn rather than downloaded or read."""
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
                raise ValueError(f"{name}: given without a release to download")
        if (self.minimum_length or 1) > (self.maximum_length or math.inf):
            raise ValueError(
                f"maximum_length: {self.maximum_length} is below minimum_length "
                f"{self.minimum_length}"
            )
        if self.allow_partial_list and self.validation_ids is None:
            raise ValueError("allow_partial_list: true without validation_ids")
        is_whole = self.release == VALIDATION_LIST_RELEASE and self.limit is None
        # shard finds out what is in files of the user's own
        is_known = self.has_published_list and not self.sequences
        if is_known and not is_whole and not self.allow_partial_list:
            raise ValueError(
                f"validation_ids: {PUBLISHED!r}: ESM-1b's list is of the whole release "
                f"{VALIDATION_LIST_RELEASE}; expected that release, or allow_partial_list: true"
            )
        return self
