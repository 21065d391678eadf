"""The report of a run: `esm1b report`."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jinja2
import pyarrow.parquet as pq

import esm1b
from esm1b.corpus.manifest import CORPUS_FORMAT, read_manifest
from esm1b.errors import UserError
from esm1b.evaluation import published
from esm1b.evaluation.measured import Evaluation, read_evaluations
from esm1b.evaluation.positive_control import has_control, passed, positive_control
from esm1b.evaluation.results import describe_model
from esm1b.files import atomic_directory, check_replaceable, write_json
from esm1b.plotting import inline_svg
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE, read_metrics
from esm1b.report import provenance, tables
from esm1b.report.audit_section import audit_section, read_audit
from esm1b.report.corpus_section import corpus_section
from esm1b.report.evaluation_figures import contact_figure, perplexity_figure, structure_figure
from esm1b.report.figures import corpus_figure, training_figure
from esm1b.report.headline import highlights
from esm1b.report.summary import summarise
from esm1b.versions import versions
from esm1b.weights.hugging_face import read_shape

_log = logging.getLogger(__name__)

_PAGE: Final = "index.html"


def write_report(
    model: Path,
    *,
    corpus: Path,
    training: Path,
    evaluations: Sequence[Path],
    output: Path,
    audit: Path | None = None,
) -> None:
    """Write the page of a run to `output`; everything is read, nothing recomputed.

    Writes `index.html` (one file, with everything in it), `figures/*.svg` (the same figures),
    `summary.txt` and `results.json` (the checks of the positive control).

    Args:
        model: the trained model's directory.
        corpus: what `shard` wrote.
        training: `metrics.jsonl` of the run.
        evaluations: what `evaluate` wrote, at most one directory of each kind.
        output: directory to write.
        audit: `audit.json` of the run; None leaves out how often each sequence was seen.

    Raises:
        UserError: an input is missing, is not of its kind, or is of another model.
    """
    inputs = [model, corpus, training, *evaluations, *([] if audit is None else [audit])]
    check_replaceable(output, "report", inputs)
    description = describe_model(model)
    measured = read_evaluations(evaluations, description)
    manifest = read_manifest(corpus, CORPUS_FORMAT)
    lines = _read_training(training)
    seen = None if audit is None else audit_section(read_audit(audit, description))
    section = corpus_section(manifest)
    if section["warning"]:
        _log.warning("%s: %s", corpus, section["warning"])
    checks = positive_control(measured) if has_control(measured) else []
    recipe = description.get("pretraining", {})
    figures = {
        "corpus": corpus_figure(manifest),
        "training": training_figure(lines, recipe.get("tokens_per_update")),
        **{kind: _figure(kind, evaluation) for kind, evaluation in measured.items()},
    }
    run = _run(model, description, manifest, lines)
    page = (
        _environment()
        .get_template("page.html.j2")
        .render(
            run=run,
            highlights=highlights(measured),
            checks=checks,
            passed=passed(checks),
            corpus=section,
            audit=seen,
            manifest=manifest,
            measured=measured,
            synthetic=has_control(measured),
            tables=_tables(measured),
            figures={name: inline_svg(svg, name) for name, svg in figures.items()},
            configuration=provenance.configuration(description),
        )
    )
    with atomic_directory(output, "report", inputs) as directory:
        (directory / _PAGE).write_text(page, encoding="utf-8")
        (directory / "figures").mkdir()
        for name, svg in figures.items():
            (directory / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
        title = f"{run['name']}: {run['sentence']}"
        (directory / "summary.txt").write_text(summarise(title, measured, checks), encoding="utf-8")
        write_json(
            directory / "results.json",
            {
                "run": run["name"],
                "updates": run["updates"],
                "positive_control": {
                    "passed": passed(checks),
                    "checks": [check.as_json() for check in checks],
                }
                if checks
                else None,
            },
        )


def _read_training(path: Path) -> list[dict[str, Any]]:
    try:
        lines = read_metrics(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if not any("loss" in line for line in lines):
        raise UserError(f"{path}: no line with a loss; expected the {METRICS_FILE} of a run")
    return lines


def _figure(kind: str, evaluation: Evaluation) -> str:
    if kind == "perplexity":
        return perplexity_figure(evaluation)
    if kind == "secondary_structure":
        return structure_figure(evaluation)
    assert evaluation.directory is not None
    maps = pq.read_table(evaluation.directory / "contact_maps.parquet").to_pylist()
    return contact_figure(evaluation, maps)


def _run(
    model: Path,
    description: Mapping[str, Any],
    manifest: Mapping[str, Any],
    lines: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return what was run, in the words of the page."""
    shape = read_shape(model)
    updates = description.get("updates", lines[-1]["update"])
    per_update = description.get("pretraining", {}).get("tokens_per_update")
    sequences = manifest["sequences"]["train"]
    facts = {
        "Network": f"ESM-1b's, {shape.layers} layers, width {shape.width:,}, {shape.heads} heads, "
        f"feed-forward {shape.feed_forward:,}, {shape.maximum_tokens:,} positions",
        "Parameters": f"{shape.parameters():,}",
        "Updates": f"{updates:,}"
        + (f" of {per_update:,} tokens: {updates * per_update:,} tokens" if per_update else ""),
        "AttemptLog": str(max(line["attempt"] for line in lines)),
        "Corpus fingerprint": manifest["fingerprint"],
        "Token fingerprint": description.get("tokens_fingerprint"),
        "Software": provenance.software(description.get("versions") or versions()),
        "Commit": provenance.git_commit(Path(esm1b.__file__).parent),
    }
    return {
        "name": description.get("run", model.name),
        "updates": updates,
        "sentence": f"{_rounded(shape.parameters())} parameters, {updates:,} updates, "
        f"{sequences:,} training sequences",
        "facts": {name: fact for name, fact in facts.items() if fact is not None},
    }


def _rounded(count: int) -> str:
    """Return a number of parameters as it is spoken of: 0.17 M, 148 M."""
    millions = count / 1e6
    return f"{millions:.2g} M" if millions < 100 else f"{millions:,.0f} M"


def _tables(measured: Mapping[str, Evaluation]) -> dict[str, tables.Table]:
    """Return the tables of the page by name; published numbers stand beside real data's only."""
    real = not has_control(measured)
    found: dict[str, tables.Table] = {}
    if "perplexity" in measured:
        evaluation = measured["perplexity"]
        found["perplexity"] = tables.perplexity_table(evaluation)
        ours = evaluation.metric("perplexity_training_masks", "trained", "validation")
        found["perplexity_published"] = tables.published_table(
            published.PERPLEXITY, "model", [("perplexity", ours)] if real else []
        )
    if "contacts" in measured:
        evaluation = measured["contacts"]
        found["contacts"] = tables.contact_table(evaluation)
        found["ranges"] = tables.range_table(evaluation, published=real)
        names = list(dict.fromkeys(entry.metric for entry in published.CONTACTS))
        found["contacts_published"] = tables.published_table(
            published.CONTACTS,
            "model",
            [(name, evaluation.metric(name, "trained", "test")) for name in names] if real else [],
        )
    if "secondary_structure" in measured:
        evaluation = measured["secondary_structure"]
        found["structure"] = tables.structure_table(evaluation)
        found["recalls"] = tables.recall_table(evaluation)
        name = "three_state_accuracy_per_residue"
        found["structure_published"] = tables.published_table(
            published.SECONDARY_STRUCTURE,
            "model",
            [(name, evaluation.metric(name, "trained", "test"))] if real else [],
        )
    return found


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["thousands"] = lambda count: f"{count:,}"
    environment.filters["number"] = tables.number_text
    return environment
