import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from esm1b.errors import UserError
from esm1b.report.page import write_report
from tests.report import examples

VOID = {"meta", "br", "img", "hr", "input", "link"}


class Structure(HTMLParser):
    """Checks that tags are closed in order; collects ids, links and attributes that load things."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.collect(tag, dict(attributes))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.collect(tag, dict(attributes))

    def collect(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.ids += [value for key, value in attributes.items() if key == "id" and value]
        for key in ("href", "xlink:href", "src"):
            value = attributes.get(key)
            if value:
                (self.links if tag == "a" else self.loaded).append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the report of a run with every evaluation."""
    directory = tmp_path_factory.mktemp("complete")
    return report(examples.write_run(directory), directory, everything())


@pytest.fixture
def run(tmp_path: Path) -> tuple[Path, Path, Path]:
    return examples.write_run(tmp_path)


def report(
    run: tuple[Path, Path, Path], tmp_path: Path, contents: list[dict[str, Any]], name: str = "out"
) -> Path:
    model, corpus, training = run
    directories = [
        examples.write_evaluation(tmp_path / f"{name}-{content['evaluation']}", content)
        for content in contents
    ]
    output = tmp_path / name
    write_report(model, corpus=corpus, training=training, evaluations=directories, output=output)
    return output


def everything() -> list[dict[str, Any]]:
    return [
        examples.contacts(),
        examples.perplexity(),
        examples.variants(),
        examples.secondary_structure(),
    ]


def files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def test_everything_is_written_twice_the_same(
    complete: Path, run: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    first = files(complete)
    assert sorted(first) == [
        ".esm1b",
        "figures/contacts.svg",
        "figures/corpus.svg",
        "figures/perplexity.svg",
        "figures/secondary_structure.svg",
        "figures/training.svg",
        "figures/variants.svg",
        "index.html",
        "results.json",
        "summary.txt",
    ]
    assert files(report(run, tmp_path, everything())) == first


def test_the_page_is_well_formed_and_loads_nothing(complete: Path) -> None:
    page = (complete / "index.html").read_text()
    structure = Structure()
    structure.feed(page)
    assert structure.open == []
    assert len(structure.ids) == len(set(structure.ids))
    assert {link.removeprefix("#") for link in structure.links} <= set(structure.ids)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in structure.loaded)
    assert structure.tags.isdisjoint({"script", "link", "img", "iframe"})
    assert "@import" not in page
    assert "url(http" not in page


def test_figures_are_xml(complete: Path) -> None:
    for figure in (complete / "figures").iterdir():
        assert ElementTree.parse(figure).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_the_verdict_is_on_the_page_in_the_summary_and_in_the_results(complete: Path) -> None:
    page = (complete / "index.html").read_text()
    assert "Positive control passed" in page
    assert "11 of 11 checks passed" in page
    assert "closed <b>34 %</b>" in page
    assert (complete / "summary.txt").read_text().endswith("\npositive control: PASSED\n")
    results = json.loads((complete / "results.json").read_text())
    assert (results["run"], results["updates"]) == ("tiny", 20)
    assert results["positive_control"]["passed"] is True
    assert len(results["positive_control"]["checks"]) == 11


@pytest.mark.usefixtures("undrawn")
def test_a_failed_control_is_said_plainly(run: tuple[Path, Path, Path], tmp_path: Path) -> None:
    output = report(run, tmp_path, [examples.perplexity(), examples.contacts()])
    page = (output / "index.html").read_text()
    assert "Positive control failed" in page
    assert "5 of 11 checks passed" in page
    assert "was not evaluated" in page
    assert 'id="secondary_structure"' not in page
    assert not (output / "figures/secondary_structure.svg").exists()
    results = json.loads((output / "results.json").read_text())
    assert results["positive_control"]["passed"] is False


def test_real_data_stand_beside_published_numbers_without_a_verdict(
    run: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    contents = [
        examples.perplexity(synthetic=False),
        examples.contacts(unseen=False),
        examples.secondary_structure(unseen=False),
        examples.variants(synthetic=False),
    ]
    output = report(run, tmp_path, contents)
    page = (output / "index.html").read_text()
    assert "ositive control" not in page
    assert "Published precisions, for scale" in page
    assert "this model" in page
    assert "<td>0.411</td>" in page
    assert "Published correlations, for scale" in page
    assert "<td>0.394</td>" in page
    assert "By number of mutations" in page
    assert "positive control" not in (output / "summary.txt").read_text()
    assert json.loads((output / "results.json").read_text())["positive_control"] is None


def test_published_numbers_are_for_scale_only_beside_drawn_families(complete: Path) -> None:
    page = (complete / "index.html").read_text()
    assert page.count("Published numbers, for scale") == 4
    assert "this model" not in page


def test_what_was_run_is_on_the_page(complete: Path) -> None:
    page = (complete / "index.html").read_text()
    # A layer has 4 x (16^2 + 16) + 2 x 16 x 32 + 32 + 16 + 64 = 2,224; besides the two there are
    # (33 + 66) x 16 of embeddings, 64 of layer norms and 16^2 + 16 + 32 + 33 of the head.
    assert "<td>6,433</td>" in page
    assert "20 of 1,000 tokens: 20,000 tokens" in page
    assert "<td>103</td>" in page
    assert f"<code>{'c' * 64}</code>" in page
    assert "number of optimiser steps" in page
    assert "torch 2." in page


@pytest.mark.usefixtures("undrawn")
def test_a_release_that_is_not_whole_is_said(
    run: tuple[Path, Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = {"name": "UniRef50", "release": "2018_03"}
    manifest = {**examples.MANIFEST, "source": source}
    (run[1] / "manifest.json").write_text(json.dumps(manifest))
    page = (report(run, tmp_path, [examples.perplexity()]) / "index.html").read_text()
    warning = "103 records were read of UniRef50 2018_03, which has about 30,160,000 clusters"
    assert f'<p class="warning">{warning}.</p>' in page
    assert caplog.messages == [f"{run[1]}: {warning}"]


@pytest.mark.usefixtures("undrawn")
def test_names_are_escaped(run: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model = {**examples.MODEL, "run": "<b>&amp;"}
    (run[0] / "esm1b.json").write_text(json.dumps(model))
    content = {**examples.perplexity(), "model": model}
    page = (report(run, tmp_path, [content]) / "index.html").read_text()
    assert "<h1>&lt;b&gt;&amp;amp;</h1>" in page
    assert "<b>&amp;" not in page


def test_contacts_without_maps_or_values_are_drawn(
    run: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    content = examples.contacts()
    for entry in content["metrics"]:
        entry.update(value=None, low=None, high=None, failed="no <coefficient> was kept")
    directory = examples.write_evaluation(tmp_path / "contacts", content, maps=[])
    model, corpus, training = run
    write_report(
        model, corpus=corpus, training=training, evaluations=[directory], output=tmp_path / "out"
    )
    page = (tmp_path / "out/index.html").read_text()
    assert "trained model: no &lt;coefficient&gt; was kept" in page
    assert "failed" in (tmp_path / "out/summary.txt").read_text()


def test_an_evaluation_of_another_model_is_refused(
    run: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    content = {**examples.perplexity(), "model": {**examples.MODEL, "updates": 10}}
    with pytest.raises(
        UserError, match=r"metrics\.json: is about another model \(updates differ\)"
    ):
        report(run, tmp_path, [content])
    assert not (tmp_path / "out").exists()


def test_bad_inputs_are_named(run: tuple[Path, Path, Path], tmp_path: Path) -> None:
    model, corpus, training = run
    good = examples.write_evaluation(tmp_path / "perplexity", examples.perplexity())
    other = tmp_path / "other"
    other.mkdir()

    def message(**changed: Any) -> str:
        inputs = {"corpus": corpus, "training": training, "evaluations": [good], **changed}
        with pytest.raises(UserError) as error:
            write_report(model, **inputs, output=tmp_path / "out")
        assert "\n" not in str(error.value)
        return str(error.value)

    assert message(evaluations=[other]) == (
        f"{other}: no metrics.json; expected a directory that evaluate wrote"
    )
    assert message(evaluations=[good, good]).endswith(
        "a second evaluation of perplexity; expected one of each kind"
    )
    (other / "metrics.json").write_text('{"evaluation": "taste"}')
    assert message(evaluations=[other]).endswith(
        "evaluation is 'taste'; expected one of perplexity, contacts, secondary_structure, variants"
    )
    assert message(training=tmp_path / "none") == f"{tmp_path / 'none'}: No such file or directory"
    (tmp_path / "empty").write_text("")
    assert message(training=tmp_path / "empty").endswith("expected the metrics.jsonl of a run")
    assert message(corpus=other).startswith(f"{other}: no manifest.json")
