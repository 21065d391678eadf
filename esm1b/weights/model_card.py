"""The model card: `README.md` of a model directory, in Hugging Face's format.

Metadata as in huggingface/hub-docs, `modelcard.md`; the code blocks run in the directory itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
import yaml

from esm1b.alphabet import AMINO_ACIDS, RESIDUES
from esm1b.model.shape import EncoderShape
from esm1b.weights.provenance import Provenance

_TEMPLATE: Final = "model_card.md.j2"

# Human ubiquitin (UniProt P0CG48, residues 1 to 76); the model card of the released ESM-1b masks
# residue 21 of it, an aspartate.
_UBIQUITIN: Final = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
_MASKED: Final = 20

# A row is left out where `esm1b.json` does not say one of its values.
_DATA: Final = (
    ("Training", "{training_sequences} sequences, {training_residues} residues"),
    ("Corpus fingerprint", "`{corpus_fingerprint}`"),
    ("Token fingerprint", "`{tokens_fingerprint}`"),
)
_RECIPE: Final = (
    (
        "Objective",
        "15 % of the amino acids of each sequence are predicted; 80 % of them read `<mask>`, 10 % "
        "another amino acid, 10 % are unchanged; token dropout as in ESM-1b",
    ),
    ("Updates", "{updates} of {tokens_per_update} tokens on average"),
    ("Crop", "{crop_residues} residues, drawn anew each epoch"),
    ("Optimiser", "Adam, betas {adam_betas}, epsilon {adam_epsilon}, weight decay {weight_decay}"),
    (
        "Learning rate",
        "{learning_rate} after {warmup_updates} updates of linear warmup, then inverse square root",
    ),
    ("Gradient clipping", "{gradient_clipping}"),
    ("Precision", "{precision}, master weights fp32"),
    ("Seed", "{seed}"),
    ("Software", "{software}"),
)


@dataclass(frozen=True, kw_only=True)
class CardResult:
    """A measured number: a row of the card's table and, where it has a value, of `model-index`.

    Attributes:
        task: Hugging Face's name of the task, such as `fill-mask`.
        dataset: identifier of the data, such as `held-out-sequences`.
        dataset_name: what a reader calls them.
        split: which part of them, such as `test`.
        metric: Hugging Face's name of the metric, such as `perplexity`.
        metric_name: what a reader calls it.
        value: None where there is none.
        low: lower end of the 95 % interval, None where there is none.
        high: upper end.
        units: how many of what are behind it, such as `50 clusters`.
        decimals: of the table; `model-index` has two more.
        baselines: what stands beside it, as text.
        failed: why there is no value.
        synthetic: whether the data are drawn, so that it says nothing about real proteins.
    """

    task: str
    dataset: str
    dataset_name: str
    split: str
    metric: str
    metric_name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    units: str
    decimals: int = 3
    baselines: str = ""
    failed: str | None = None
    synthetic: bool = False


@dataclass(frozen=True, kw_only=True)
class _Origin:
    """Where the weights come from; `licence` is Hugging Face's identifier, `terms` a sentence."""

    name: str
    sentence: str
    licence: str
    terms: str


def model_card(
    shape: EncoderShape,
    provenance: Provenance,
    *,
    contact_head_fitted: bool,
    results: Sequence[CardResult] = (),
) -> str:
    """Return the model card in Markdown, with its metadata in YAML before.

    Args:
        shape: of the network.
        provenance: where the model comes from; what it does not say, the card does not claim.
        contact_head_fitted: whether the contact head is fitted; if not it is zero.
        results: of evaluations, in the order of the table.
    """
    details = provenance.details
    network = "ESM-1b" if shape.layer_norm_before else "ESM-1v"
    origin = _origin(details, network)
    # `transformers` and `fair-esm` always add <eos>, whatever the model was trained with.
    longest = min(provenance.longest_sequence(shape), shape.maximum_tokens - 2)
    before, residue, after = _example(longest)
    masked = f"{before}<mask>{after}"
    return (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            metadata=_metadata(origin, masked, results),
            origin=origin,
            network=network,
            shape=shape,
            symbols=len(AMINO_ACIDS) + 1
            if provenance.rare_residues == "replace"
            else len(RESIDUES),
            rare_residues=provenance.rare_residues,
            append_eos=provenance.append_eos,
            data=_rows(_DATA, {**details, **_section(details, "data")}),
            recipe=_recipe(details),
            longest=provenance.longest_sequence(shape),
            contact_head_fitted=contact_head_fitted,
            results=results,
            synthetic=any(result.synthetic for result in results),
            masked=masked,
            residue=residue,
        )
    )


def _origin(details: Mapping[str, Any], network: str) -> _Origin:
    if "run" not in details:
        # Imported weights. Fine-tuned ones look like released ones, so no licence is claimed.
        imported = _section(details, "imported")
        source = (
            f"imported from `{imported['name']}` (SHA-256 `{imported['sha256']}`)"
            if imported
            else "imported; where the weights come from is not recorded here"
        )
        return _Origin(
            name=network,
            sentence=source,
            licence="unknown",
            terms="Imported weights keep their licence; those that facebookresearch/esm releases "
            "are MIT.",
        )
    updates = f" for {_text(details['updates'])} updates" if "updates" in details else ""
    return _Origin(
        name=str(details["run"]),
        sentence=f"pretrained with `esm1b`{updates}",
        licence="mit",
        terms="MIT. The sequences that trained it keep their own terms (UniRef: CC BY 4.0, The "
        "UniProt Consortium).",
    )


def _example(longest: int) -> tuple[str, str, str]:
    """Return the part of ubiquitin around its masked residue that fits: before, it, after."""
    length = min(longest, len(_UBIQUITIN))
    start = min(max(_MASKED - length // 2, 0), len(_UBIQUITIN) - length)
    part, position = _UBIQUITIN[start : start + length], _MASKED - start
    return part[:position], part[position], part[position + 1 :]


def _metadata(origin: _Origin, masked: str, results: Sequence[CardResult]) -> str:
    """Return the YAML block, without its rulers."""
    measured = [result for result in results if result.value is not None]
    content: dict[str, Any] = {
        "license": origin.licence,
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "mask_token": "<mask>",
        "tags": ["esm", "protein language model", "biology"],
        "widget": [{"text": masked, "example_title": "Human ubiquitin, one residue masked"}],
    }
    if measured:
        content["model-index"] = [
            {"name": origin.name, "results": [_index(each) for each in measured]}
        ]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def _index(result: CardResult) -> dict[str, Any]:
    assert result.value is not None
    value = round(result.value, result.decimals + 2)
    return {
        "task": {"type": result.task},
        "dataset": {
            "type": result.dataset,
            "name": result.dataset_name,
            "split": result.split,
        },
        "metrics": [{"type": result.metric, "name": result.metric_name, "value": value}],
    }


def _recipe(details: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the recipe; none without one."""
    recipe = _section(details, "pretraining")
    values = {**details, **recipe}
    if "seed" in details:
        values["seed"] = str(details["seed"])  # to be copied: no thousands separators
    if versions := _section(details, "versions"):
        values["software"] = ", ".join(f"{package} {found}" for package, found in versions.items())
    return _rows(_RECIPE, values) if recipe else []


def _rows(templates: Sequence[tuple[str, str]], values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of which `values` has everything."""
    texts = {key: _text(value) for key, value in values.items()}
    rows = []
    for label, template in templates:
        try:
            rows.append((label, template.format_map(texts)))
        except KeyError:
            continue
    return rows


def _section(details: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = details.get(key)
    return section if isinstance(section, Mapping) else {}


def _text(value: object) -> str:
    """Return a value of `esm1b.json` as a reader writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return " and ".join(_text(each) for each in value)
    return _plain(str(value))


def _plain(text: str) -> str:
    """Return `text` on one line, so that Markdown shows it as it is, in a table too."""
    line = " ".join(text.split())
    return "".join(f"\\{character}" if character in "\\`*<[|" else character for character in line)


def _number(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # Markdown, not HTML: `plain` does what is needed
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = _text
    environment.filters["plain"] = _plain
    environment.filters["number"] = _number
    return environment
