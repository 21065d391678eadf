"""Configuration of a run: the one definition, from which checks, defaults and table follow.

The configuration holds what decides the result; hardware settings (processes, ZeRO stage,
micro-batch) are in the workflow profiles.
"""

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from esm1b.config_file import read_config_file
from esm1b.config_section import Count, Name, Section
from esm1b.corpus.config import CorpusConfig
from esm1b.errors import UserError, one_line
from esm1b.model.shape import EncoderShape, Positions

_Decay = Annotated[float, Field(ge=0, lt=1)]
TrainingPrecision = Literal["fp32", "bf16", "fp16"]


class ModelConfig(Section):
    """The network: the architecture of ESM-1b, or of ESM-2, at any size."""

    layers: Count = 2
    """number of transformer layers"""
    width: Count = 64
    """width of the representations"""
    heads: Count = 4
    """number of attention heads; must divide the width"""
    feed_forward: Count = 256
    """width of the feed-forward layers"""
    maximum_tokens: Annotated[int, Field(ge=3, le=65_000)] = 1024
    """number of positions, `<cls>` and `<eos>` included"""
    positions: Positions = "learned"
    """learned (ESM-1b) or rotary, without the first layer norm (ESM-2); rotary-fp16: as released"""
    rare_residues: Literal["replace", "keep"] = "replace"
    """treatment of B, U, Z and O: replace by X (21 symbols), or keep (25)"""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ModelConfig":
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide width {self.width}")
        if self.positions != "learned" and (width := self.width // self.heads) % 2:
            raise ValueError(
                f"positions: {self.positions} with heads {width} wide; expected an even width"
            )
        return self

    def shape(self) -> EncoderShape:
        """Return the shape of the encoder."""
        sizes = self.model_dump(exclude={"rare_residues"})
        return EncoderShape(**sizes, layer_norm_before=self.positions == "learned")


class PretrainingConfig(Section):
    """Masked-language-model pretraining."""

    updates: Count = 2200
    """number of optimiser steps"""
    tokens_per_update: Count = 4096
    """mean number of tokens per update over all processes, special tokens included"""
    crop_residues: Count = 1022
    """largest number of residues per sequence; longer ones are cropped at random in each epoch"""
    append_eos: bool = True
    """end each sequence with `<eos>`"""
    learning_rate: Annotated[float, Field(gt=0)] = 6e-3
    """peak learning rate"""
    warmup_updates: Count = 100
    """number of updates of linear warmup"""
    learning_rate_decay: Literal["inverse-square-root", "linear"] = "inverse-square-root"
    """decay after the warmup; linear: to a tenth at nine tenths of the updates, then constant"""
    adam_betas: tuple[_Decay, _Decay] = (0.9, 0.999)
    """decay rates of Adam's two moments"""
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Adam's epsilon"""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """decoupled weight decay of the weight matrices"""
    gradient_clipping: Annotated[float, Field(gt=0)] | None = None
    """largest norm of the whole gradient; null: no clipping"""
    precision: TrainingPrecision = "fp32"
    """fp32, bf16 or fp16 in forward and backward pass; master weights are fp32"""
    init_from: str | None = None
    """model directory of the initial weights; null: random weights drawn with the seed"""
    log_interval: Count = 10
    """number of updates between lines of metrics.jsonl"""
    validation_interval: Count = 300
    """number of updates between validations"""
    validation_sequences: Count = 512
    """number of held-out sequences per validation, with fixed masks"""
    checkpoint_interval: Count = 300
    """number of updates between checkpoints"""
    checkpoints_kept: Annotated[int, Field(ge=2)] = 2
    """number of newest checkpoints to keep"""
    milestone_interval: Count | None = None
    """number of updates between milestones: checkpoints kept for good, each with a model"""
    stop_at_loss_spike: bool = False
    """stop the run at a loss far above recent ones, instead of only logging it"""

    @model_validator(mode="after")
    def _decay_follows_warmup(self) -> "PretrainingConfig":
        if self.learning_rate_decay == "linear" and 10 * self.warmup_updates >= 9 * self.updates:
            raise ValueError(
                f"warmup_updates: {self.warmup_updates} with learning_rate_decay linear; expected "
                f"fewer than nine tenths of updates {self.updates}"
            )
        return self


class PerplexityConfig(Section):
    """Perplexity on the held-out sequences."""

    sequences: Count = 2000
    """largest number of held-out sequences to score"""
    draws: Count = 3
    """number of random masks per sequence, the same for every model"""


class ContactsConfig(Section):
    """Contacts from attention maps, and from the categorical Jacobian."""

    structures: str | None = None
    """folder of PDB / mmCIF files, or a structure table; null: the synthetic table, if any"""
    regularisation: Annotated[float, Field(gt=0)] | Literal["cross-validate"] = "cross-validate"
    """inverse strength C of the L1 penalty, or cross-validate; published: 0.15, on 20 proteins"""
    fit_proteins: Count = 20
    """number of proteins of a folder that fit the regression; the others test it"""
    glycine: Literal["impute", "ca"] = "impute"
    """atom in place of a glycine's missing Cb: an imputed Cb, or its Ca"""
    jacobian: Annotated[int, Field(ge=0)] = 14
    """number of proteins to score by categorical Jacobian too, in 20 passes a residue, or 0"""


class SecondaryStructureConfig(Section):
    """Three-state secondary structure from a linear probe."""

    table: str | None = None
    """table with the columns sequence and ss3; null: the synthetic table, if any"""
    maximum_residues: Count | None = None
    """largest number of residues that fit the probes, in whole proteins; all by default"""
    layer: int = -1
    """layer of the representations, from 0; negative numbers count from the end: -1 is the last"""


class VariantsConfig(Section):
    """Effects of mutations, against measured ones."""

    data: str | None = None
    """table of variants, or ProteinGym folder; null: the synthetic assays, if any"""
    wild_type: str | None = None
    """FASTA file of the protein of a table without a column of wild types"""
    reference: str | None = None
    """reference file of a ProteinGym folder, if it does not lie in the folder"""
    offset: int = 1
    """number of the first residue of the wild types"""
    variant_column: str | None = None
    """column of the mutations, if its name is none of the known ones"""
    score_column: str | None = None
    """column of the measured effects, if its name is none of the known ones"""
    compare: tuple[str, ...] = ()
    """columns of other predictions to compare with"""
    convention: Literal[
        "masked-marginals",
        "masked-marginals-joint",
        "wildtype-marginals",
        "mutant-marginals",
        "pseudo-perplexity",
    ] = "masked-marginals"
    """definition of the scores; ProteinGym has wildtype-marginals for ESM-1b"""
    window: Literal["optimal", "overlapping"] = "optimal"
    """pieces of proteins over the model's length: around each mutation, or overlapping ones"""
    epistasis: Annotated[int, Field(ge=0)] = 50
    """largest number of double mutants per assay whose epistasis is measured, or 0"""


class EvaluationConfig(Section):
    """Evaluation of the trained model."""

    untrained: Annotated[int, Field(ge=0)] = 3
    """number of untrained networks of the same shape to measure as a baseline, or 0"""
    perplexity: PerplexityConfig = PerplexityConfig()
    contacts: ContactsConfig = ContactsConfig()
    secondary_structure: SecondaryStructureConfig = SecondaryStructureConfig()
    variants: VariantsConfig = VariantsConfig()


class Config(Section):
    """Everything that decides the result of a run."""

    run: Name = "demonstration"
    """name of the run: its folder under results/ and checkpoints/"""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 1
    """random seed of synthetic corpus, initial weights, order, crops and masks"""
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _sections_fit_together(self) -> "Config":
        special = 2 if self.pretraining.append_eos else 1
        most = self.model.maximum_tokens - special
        if self.pretraining.crop_residues > most:
            raise ValueError(
                f"pretraining.crop_residues: {self.pretraining.crop_residues} residues and "
                f"{special} special tokens do not fit model.maximum_tokens "
                f"{self.model.maximum_tokens}; expected at most {most}"
            )
        layers, layer = self.model.layers, self.evaluation.secondary_structure.layer
        if not -layers - 1 <= layer <= layers:
            raise ValueError(
                f"evaluation.secondary_structure.layer: {layer}; expected {-layers - 1} to "
                f"{layers} with model.layers {layers}"
            )
        least = self.pretraining.crop_residues + special
        if self.pretraining.tokens_per_update < least:
            raise ValueError(
                f"pretraining.tokens_per_update: {self.pretraining.tokens_per_update} tokens do "
                f"not hold a sequence of pretraining.crop_residues; expected at least {least}"
            )
        return self


def load_config(path: Path) -> Config:
    """Read a YAML or JSON file; keys that it leaves out have their defaults.

    Raises:
        UserError: the file cannot be read, or a key is unknown or given twice, or a value is
            invalid.
    """
    content = read_config_file(path)
    return parse_config({} if content is None else content, origin=str(path))


def parse_config(content: Any, *, origin: str) -> Config:
    """Return the configuration that `content` describes.

    Raises:
        UserError: the message names `origin`, the key, the bad value and what was expected.
    """
    if not isinstance(content, Mapping):
        raise UserError(f"{origin}: {type(content).__name__}; expected keys such as run and model")
    try:
        # a date is the text that was typed
        return Config.model_validate_json(json.dumps(content, default=str))
    except ValidationError as error:
        problems = "; ".join(_problem(item) for item in error.errors())
        raise UserError(f"{origin}: {problems}") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{origin}: expected plain YAML values: {one_line(error)}") from error


def _problem(error: Mapping[str, Any]) -> str:
    key, known = _key(error["loc"])
    name, value = key.rpartition(".")[2], error["input"]
    if error["type"] == "extra_forbidden" and "." in str(error["loc"][-1]):
        section, _, inner = key.partition(".")
        return f"{key}: unknown key; expected a section, as in {section}: {{{inner}: ...}}"
    if error["type"] == "extra_forbidden":
        guess = "".join(f", perhaps {near}" for near in get_close_matches(name, known, 1))
        return f"{key}: unknown key{guess}; expected one of {', '.join(known)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{key}.{message}" if key else message
    shown = json.dumps(value) if isinstance(value, bool | None) else repr(value)
    if error["type"] == "string_type" and isinstance(value, int | float | None):
        kind = {bool: "a boolean", type(None): "nothing"}.get(type(value), "a number")
        example = '"2024_01"' if name.isdigit() else f'{name}: "2024_01"'
        example += " in a file (--config drops them)" * (name == key)
        return f"{key}: {shown}: read as {kind}; expected text, in quotes as in {example}"
    return f"{key}: {shown}: {message[0].lower()}{message[1:]}"


def _key(location: tuple[str | int, ...]) -> tuple[str, list[str]]:
    """Return the key at `location` and the known keys of its section.

    Pydantic's location of a value whose type has alternatives ends with the alternative.
    """
    section: Any = Config
    parts: list[str] = []
    known: list[str] = []
    for part in location:
        fields = getattr(section, "model_fields", {})
        if not fields and isinstance(part, str):
            break
        parts.append(str(part))
        known = list(fields)
        section = fields[part].annotation if part in fields else None
    return ".".join(parts), known


def describe(section: type[BaseModel] = Config, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (key, default, description) for every key of a section and its subsections."""
    rows: list[tuple[str, str, str]] = []
    for name, field in section.model_fields.items():
        if isinstance(field.default, BaseModel):
            rows += describe(type(field.default), f"{prefix}{name}.")
        else:
            default = json.dumps(field.default)
            rows.append((f"{prefix}{name}", default, field.description or ""))
    return rows
