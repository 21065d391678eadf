"""The configuration of a run: the only definition, from which schema, defaults and table follow.

Science is here; hardware (processes, ZeRO stage, micro-batch) is in the profiles.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from esm1b.config_section import Name, Section
from esm1b.corpus.config import CorpusConfig
from esm1b.errors import UserError, one_line
from esm1b.model.shape import EncoderShape

TrainingPrecision = Literal["fp32", "bf16", "fp16"]


class ModelConfig(Section):
    """The network: ESM-1b's, at any size."""

    layers: Annotated[int, Field(ge=1)] = 2
    """transformer layers"""
    width: Annotated[int, Field(ge=1)] = 64
    """width of the representations"""
    heads: Annotated[int, Field(ge=1)] = 4
    """attention heads; must divide the width"""
    feed_forward: Annotated[int, Field(ge=1)] = 256
    """width of the feed-forward layers"""
    maximum_tokens: Annotated[int, Field(ge=3, le=65_000)] = 1024
    """positions, `<cls>` and `<eos>` included"""
    rare_residues: Literal["replace", "keep"] = "replace"
    """whether B, U, Z and O become X (21 symbols) or keep their own (25)"""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        return self

    def shape(self) -> EncoderShape:
        """Return the shape of the encoder."""
        return EncoderShape(
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            feed_forward=self.feed_forward,
            maximum_tokens=self.maximum_tokens,
        )


class PretrainingConfig(Section):
    """Masked-language-model pretraining."""

    updates: Annotated[int, Field(ge=1)] = 2200
    """optimiser steps"""
    tokens_per_update: Annotated[int, Field(ge=1)] = 4096
    """tokens of an update over all processes, special tokens included (mean)"""
    crop_residues: Annotated[int, Field(ge=1)] = 1022
    """longer sequences are cropped at random, anew each epoch"""
    append_eos: bool = True
    """whether `<eos>` closes each sequence"""
    learning_rate: Annotated[float, Field(gt=0)] = 6e-3
    """peak learning rate"""
    warmup_updates: Annotated[int, Field(ge=1)] = 100
    """updates of linear warmup; then inverse square root decay"""
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    """decay of Adam's two moments"""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Adam's epsilon"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """decoupled weight decay of the matrices"""
    gradient_clipping: Annotated[float, Field(gt=0)] | None = None
    """largest norm of the whole gradient, or null"""
    precision: TrainingPrecision = "fp32"
    """of the forward and backward pass; master weights are always fp32, fp16 scales the loss"""
    init_from: str | None = None
    """model directory whose weights the run starts from; null: weights drawn by the seed"""
    log_interval: Annotated[int, Field(ge=1)] = 10
    """updates between lines of metrics.jsonl"""
    validation_interval: Annotated[int, Field(ge=1)] = 300
    """updates between validations"""
    validation_sequences: Annotated[int, Field(ge=1)] = 512
    """held-out sequences used at each validation, with fixed masks"""
    checkpoint_interval: Annotated[int, Field(ge=1)] = 300
    """updates between checkpoints"""
    checkpoints_kept: Annotated[int, Field(ge=2)] = 2
    """newest checkpoints that are kept"""
    milestone_interval: Annotated[int, Field(ge=1)] | None = None
    """updates between milestones: checkpoints kept for good, with a model directory each"""
    stop_at_loss_spike: bool = False
    """whether a loss far above the recent ones stops the run or is only logged"""


class PerplexityConfig(Section):
    """Perplexity on the held-out sequences."""

    sequences: Annotated[int, Field(ge=1)] = 2000
    """held-out sequences scored"""
    draws: Annotated[int, Field(ge=1)] = 3
    """fixed draws of the masks"""


class ContactsConfig(Section):
    """Contacts from attention maps."""

    structures: str | None = None
    """folder of PDB / mmCIF files, or a structure table; null: the synthetic one, or none"""
    regularisation: Annotated[float, Field(gt=0)] | Literal["cross-validate"] = "cross-validate"
    """inverse strength C of the L1 penalty (published: 0.15 on 20 proteins)"""
    fit_proteins: Annotated[int, Field(ge=1)] = 20
    """proteins of a folder that fit the regression"""
    glycine: Literal["impute", "ca"] = "impute"
    """the atom that stands for a glycine's missing Cb"""


class SecondaryStructureConfig(Section):
    """Three-state secondary structure from a linear probe."""

    table: str | None = None
    """table with sequence and ss3; null: the synthetic one, or none"""
    maximum_residues: Annotated[int, Field(ge=1)] | None = None
    """residues that fit the probes at most, a draw of whole proteins; null: all"""


class EvaluationConfig(Section):
    """What is measured on the trained model."""

    untrained: Annotated[int, Field(ge=1)] = 3
    """untrained networks of the same shape that are measured beside it"""
    perplexity: PerplexityConfig = PerplexityConfig()
    contacts: ContactsConfig = ContactsConfig()
    secondary_structure: SecondaryStructureConfig = SecondaryStructureConfig()


class Config(Section):
    """Everything that decides the result of a run."""

    run: Name = "demonstration"
    """folder under results/ and checkpoints/"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """of the synthetic corpus, the initial weights, the order, the crops and the masks"""
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _crop_fits_positions(self) -> "Config":
        special = 2 if self.pretraining.append_eos else 1
        most = self.model.maximum_tokens - special
        if self.pretraining.crop_residues > most:
            raise ValueError(
                f"pretraining.crop_residues: {self.pretraining.crop_residues} residues and "
                f"{special} special tokens do not fit model.maximum_tokens "
                f"{self.model.maximum_tokens}; expected at most {most}"
            )
        least = self.pretraining.crop_residues + special
        if self.pretraining.tokens_per_update < least:
            raise ValueError(
                f"pretraining.tokens_per_update: {self.pretraining.tokens_per_update} tokens do "
                f"not hold a sequence of pretraining.crop_residues; expected at least {least}"
            )
        return self


def load_config(path: Path) -> Config:
    """Read a YAML or JSON file; sections that it leaves out have their defaults.

    Raises:
        UserError: the file cannot be read, or a key or value is not as defined.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected YAML: {one_line(error)}") from error
    return parse_config({} if content is None else content, origin=str(path))


def parse_config(content: Any, *, origin: str) -> Config:
    """Return the configuration that `content` describes.

    Raises:
        UserError: naming `origin`, the key, the bad value and what was expected.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{origin}: {type(content).__name__}; expected keys such as run and model")
    try:
        return Config.model_validate_json(json.dumps(content))
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors())
        raise UserError(f"{origin}: {problems}") from error
    except TypeError as error:
        raise UserError(f"{origin}: expected plain YAML values: {error}") from error


def _problem(error: Mapping[str, Any]) -> str:
    key = _key(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key; expected one of {', '.join(_keys_beside(error['loc']))}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}.{message}" if key else message
    return f"{key}: {error['input']!r}: {message[0].lower()}{message[1:]}"


def _key(location: tuple[str | int, ...]) -> str:
    """Return the key at `location`; pydantic goes on into the alternatives of a type."""
    section: Any = Config
    parts = []
    for part in location:
        fields = getattr(section, "model_fields", None)
        if fields is None and isinstance(part, str):
            break
        parts.append(str(part))
        section = fields[part].annotation if fields and part in fields else None
    return ".".join(parts)


def _keys_beside(location: tuple[str | int, ...]) -> list[str]:
    section: type[BaseModel] = Config
    for part in location[:-1]:
        annotation = section.model_fields[str(part)].annotation
        assert isinstance(annotation, type)
        section = annotation
    return list(section.model_fields)


def describe(section: type[BaseModel] = Config, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (key, default, description) of every key of a section and those within it."""
    rows: list[tuple[str, str, str]] = []
    for name, field in section.model_fields.items():
        if isinstance(field.default, BaseModel):
            rows += describe(type(field.default), f"{prefix}{name}.")
        else:
            default = json.dumps(field.default)
            rows.append((f"{prefix}{name}", default, field.description or ""))
    return rows
