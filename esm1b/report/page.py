"""The report of a run: `esm1b report`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import jinja2

from esm1b.corpus import describe
from esm1b.corpus.manifest import CORPUS_FORMAT, read_manifest
from esm1b.errors import UserError
from esm1b.evaluation.results import Evaluation, read_evaluations
from esm1b.files import write_json
from esm1b.outputs import atomic_directory
from esm1b.plotting import inline_svg
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE, read_metrics
from esm1b.report import catalogue
from esm1b.report.catalogue import number_text
from esm1b.report.evaluation_figures import evaluation_figure
from esm1b.report.figures import corpus_figure, training_figure
from esm1b.report.positive_control import Check, has_control, passed, positive_control, verdict
from esm1b.report.run_facts import configuration, read_audit, run_facts
from esm1b.weights.model_directory import ModelDirectory

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
        model: directory of the trained model.
        corpus: output of `shard`.
        training: `metrics.jsonl` of the run.
        evaluations: outputs of `evaluate`, at most one of each kind.
        output: directory to write.
        audit: `audit.json` of the run; None leaves out how often each sequence was seen.

    Raises:
        UserError: an input is missing, is of another kind, or is about another model.
    """
    inputs = [model, corpus, training, *evaluations, *([] if audit is None else [audit])]
    with atomic_directory(output, "report", inputs) as directory:
        source = ModelDirectory(model)
        description = source.description
        measured = read_evaluations(evaluations, source)
        manifest = read_manifest(corpus, CORPUS_FORMAT)
        lines = _read_training(training)
        seen = None if audit is None else read_audit(audit, description)
        warnings = describe.manifest_warnings(manifest)
        for warning in warnings:
            _log.warning("%s: %s", corpus, warning)
        synthetic = has_control(measured)
        checks = positive_control(measured) if synthetic else []
        control = {"passed": passed(checks), "checks": [asdict(check) for check in checks]}
        tokens_per_update = description.get("pretraining", {}).get("tokens_per_update")
        figures = {
            "corpus": corpus_figure(manifest),
            "training": training_figure(lines, tokens_per_update),
            **{kind: evaluation_figure(kind, evaluation) for kind, evaluation in measured.items()},
        }
        run = run_facts(source, manifest, lines)
        page = _template("page.html.j2").render(
            run=run,
            checks=checks,
            passed=passed(checks),
            manifest=manifest,
            warnings=warnings,
            audit=seen,
            measured=measured,
            synthetic=synthetic,
            figures={name: inline_svg(svg, name) for name, svg in figures.items()},
            configuration=configuration(description),
        )
        (directory / _PAGE).write_text(page, encoding="utf-8")
        (directory / "figures").mkdir()
        for name, svg in figures.items():
            (directory / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
        summary = summarise(f"{run['name']}: {run['sentence']}", measured, checks)
        (directory / "summary.txt").write_text(summary, encoding="utf-8")
        results = {"run": run["name"], "updates": run["updates"]}
        results["positive_control"] = control if checks else None
        write_json(directory / "results.json", results)


def _read_training(path: Path) -> list[dict[str, Any]]:
    try:
        lines = read_metrics(path)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    if not any("loss" in line for line in lines):
        raise UserError(f"{path}: no line with a loss; expected the {METRICS_FILE} of a run")
    return lines


def summarise(title: str, evaluations: Mapping[str, Evaluation], checks: Sequence[Check]) -> str:
    """Return at most 40 lines of at most 100 columns, the title first and a verdict last.

    There is no verdict without `checks`, where the data have no known truth.
    """
    text = _template("summary.txt.j2").render(
        title=title, measured=evaluations, verdict=verdict(checks) if checks else None
    )
    return "".join(f"{line.rstrip()}\n" for line in text.splitlines())


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=name.endswith(".html.j2"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["thousands"] = lambda count: f"{count:,}".replace("-", "\N{MINUS SIGN}")
    environment.filters["number"] = number_text
    environment.globals |= {"catalogue": catalogue, "describe": describe}
    return environment.get_template(name)
