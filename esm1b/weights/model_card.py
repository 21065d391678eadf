"""The model card: `README.md` of a model directory, in Hugging Face's format.

Metadata as in huggingface/hub-docs, `modelcard.md`; the code blocks run in the directory itself.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jinja2
import yaml

from esm1b.alphabet import AMINO_ACIDS, RESIDUES
from esm1b.model.shape import EncoderShape
from esm1b.weights.fair_esm import fair_esm_file
from esm1b.weights.provenance import Provenance

# Human ubiquitin (UniProt P0CG48, residues 1 to 76); the model card of the released ESM-1b masks
# residue 21 of it, an aspartate.
_UBIQUITIN: Final = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
_MASKED: Final = 20


@dataclass(frozen=True, kw_only=True)
class CardResult:
    """A measured number: a row of the card's table and, where it has a value, of `model-index`.

    Attributes:
        task: Hugging Face's name of the task, as `metric` is of the metric.
        dataset: identifier of the data.
        dataset_name: name of the data for readers, as `metric_name` is of the metric.
        decimals: decimals of the number in the table; `model-index` has two more.
        split: part of the data, such as `test`.
        value: measured number with its 95 % interval from `low` to `high`; None if undefined.
        units: number and kind of independent items, such as `50 clusters`.
        baselines: text with the numbers of the baselines.
        failed: reason for a missing value.
        synthetic: True for synthetic data, which say nothing about real proteins.
    """

    task: str
    dataset: str
    dataset_name: str
    metric: str
    metric_name: str
    decimals: int = 3
    split: str
    value: float | None
    low: float | None = None
    high: float | None = None
    units: str
    baselines: str = ""
    failed: str | None = None
    synthetic: bool = False


def model_card(
    shape: EncoderShape,
    provenance: Provenance,
    *,
    contact_head_fitted: bool,
    results: Sequence[CardResult] = (),
) -> str:
    """Return the model card: metadata in YAML, then Markdown, with `results` in their order.

    It claims nothing beyond the provenance.
    """
    details = provenance.details
    name = str(details.get("run", shape.name))
    recipe = _section(details, "pretraining")
    longest = provenance.longest_sequence(shape)
    # `transformers` and `fair-esm` always add <eos>, whatever the model was trained with.
    before, residue, after = _example(min(longest, shape.maximum_tokens - 2))
    masked = f"{before}<mask>{after}"
    merged = provenance.rare_residues == "replace"
    return _ENVIRONMENT.get_template("model_card.md.j2").render(
        # Imported weights that were fine-tuned look like released ones: no licence is claimed.
        metadata=_metadata(name, "mit" if "run" in details else "unknown", masked, results),
        name=name,
        fair_esm_file=fair_esm_file(shape),
        shape=shape,
        symbols=len(AMINO_ACIDS) + 1 if merged else len(RESIDUES),
        provenance=provenance,
        details=details,
        has_recipe=bool(recipe),
        facts=_facts({**details, **_section(details, "data"), **recipe}),
        longest=longest,
        contact_head_fitted=contact_head_fitted,
        results=results,
        masked=masked,
        residue=residue,
    )


def _example(longest: int) -> tuple[str, str, str]:
    """Return the part of ubiquitin around its masked residue that fits: before, it, after."""
    length = min(longest, len(_UBIQUITIN))
    start = min(max(_MASKED - length // 2, 0), len(_UBIQUITIN) - length)
    part, position = _UBIQUITIN[start : start + length], _MASKED - start
    return part[:position], part[position], part[position + 1 :]


def _metadata(name: str, licence: str, masked: str, results: Sequence[CardResult]) -> str:
    """Return the YAML block, without its rulers; `licence` is Hugging Face's identifier."""
    content: dict[str, Any] = {
        "license": licence,
        "library_name": "transformers",
        "pipeline_tag": "fill-mask",
        "mask_token": "<mask>",
        "tags": ["esm", "protein language model", "biology"],
        "widget": [{"text": masked, "example_title": "Human ubiquitin, one residue masked"}],
    }
    if measured := [_index(result) for result in results if result.value is not None]:
        content["model-index"] = [{"name": name, "results": measured}]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=1000)


def _index(result: CardResult) -> dict[str, Any]:
    assert result.value is not None
    value = round(result.value, result.decimals + 2)
    return {
        "task": {"type": result.task},
        "dataset": {"type": result.dataset, "name": result.dataset_name, "split": result.split},
        "metrics": [{"type": result.metric, "name": result.metric_name, "value": value}],
    }


def _facts(values: Mapping[str, Any]) -> dict[str, str]:
    """Return texts about the training by the keys of `esm1b.json`, and of the software used."""
    texts = {key: _text(value) for key, value in values.items()}
    is_linear = values.get("learning_rate_decay") == "linear"
    texts["decay"] = "linear to a tenth at 90 % of all" if is_linear else "inverse square root"
    if "seed" in values:
        texts["seed"] = _text(str(values["seed"]))  # to be copied: no thousands separators
    if versions := _section(values, "versions"):
        software = ", ".join(f"{package} {found}" for package, found in versions.items())
        texts["software"] = _text(software)
    return texts


def _known(templates: Sequence[tuple[str, str]], facts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the rows (label, text) whose facts are all there."""
    rows = []
    for label, template in templates:
        with suppress(KeyError):
            rows.append((label, template.format_map(facts)))
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


_ENVIRONMENT: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=False,  # Markdown, not HTML: `plain` does what is needed
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters |= {
    "known": _known,
    "number": lambda value, decimals: f"{value:.{decimals}f}",
    "plain": _plain,
    "text": _text,
}
