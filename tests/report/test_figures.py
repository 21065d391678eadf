import json
from pathlib import Path

import pytest

from esm1b.evaluation.results import Evaluation, parse_evaluation
from esm1b.plotting import inline_svg
from esm1b.report.evaluation_figures import evaluation_figure
from esm1b.report.figures import corpus_figure, training_figure
from tests.report import examples


@pytest.fixture(scope="module")
def perplexity() -> str:
    return evaluation_figure("perplexity", parse_evaluation(examples.perplexity()))


@pytest.fixture(scope="module")
def contacts(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """An evaluation with a map beside it."""
    content, directory = examples.contacts(), tmp_path_factory.mktemp("run") / "contacts"
    return parse_evaluation(content, examples.write_evaluation(directory, content))


@pytest.fixture(scope="module")
def contact_figure(contacts: Evaluation) -> str:
    return evaluation_figure("contacts", contacts)


@pytest.fixture(scope="module")
def trained_twice() -> str:
    return training_figure(examples.TRAINING, 1000)


def test_figures_are_the_same_bytes_each_time(contacts: Evaluation, contact_figure: str) -> None:
    assert evaluation_figure("contacts", contacts) == contact_figure
    assert corpus_figure(examples.MANIFEST) == corpus_figure(examples.MANIFEST)


def test_the_longest_sequences_do_not_stretch_the_histogram() -> None:
    assert ">residues (last bin: 12 and more)<" in corpus_figure(examples.MANIFEST)
    regular = json.loads(json.dumps(examples.MANIFEST))
    regular["length_histogram"]["edges"] = [8, 10, 12, 14]
    assert ">residues<" in corpus_figure(regular)


def test_restarts_and_tokens_are_shown_where_there_are_any(trained_twice: str) -> None:
    once = training_figure([line for line in examples.TRAINING if line["attempt"] == 1])
    assert once.count("stroke-dasharray: 1.6,1.6") == 0
    assert once.count(">tokens<") == 0
    assert trained_twice.count("stroke-dasharray: 1.6,1.6") == 5
    assert trained_twice.count(">tokens<") == 2


def test_perplexity_at_masks_is_drawn_where_a_run_has_it(trained_twice: str) -> None:
    label = ">masked as in training<"
    assert label not in trained_twice
    lines = [
        {**line, "validation_mask_perplexity": 14.0} if "validation_loss" in line else line
        for line in examples.TRAINING
    ]
    assert training_figure(lines).count(label) == 1


def test_long_runs_are_thinned() -> None:
    lines = [{**examples.TRAINING[0], "update": update} for update in range(1, 100_001)]
    assert len(training_figure(lines)) < 400_000


def test_perplexities_are_drawn_with_the_gap_only_where_it_is_known(perplexity: str) -> None:
    gap = "the gap: what couplings can tell"
    assert gap in perplexity
    content = examples.perplexity(synthetic=False)
    assert gap not in evaluation_figure("perplexity", parse_evaluation(content))


def test_confusions_are_shares_of_the_true_state() -> None:
    evaluation = parse_evaluation(examples.secondary_structure())
    figure = evaluation_figure("secondary_structure", evaluation)
    assert all(figure.count(f">{share}<") == 2 for share in ("0.80", "0.60", "0.90"))
    assert "never seen" in figure


def test_a_map_tells_its_protein_and_its_scale(contact_figure: str) -> None:
    assert ">family-01-00 (test)<" in contact_figure
    assert ">predicted, full colour at probability 0.25<" in contact_figure


def test_assays_and_epistasis_are_drawn_where_there_are_any(tmp_path: Path) -> None:
    content = examples.variants()
    evaluation = parse_evaluation(content, examples.write_evaluation(tmp_path / "run", content))
    figure = evaluation_figure("variants", evaluation)
    assert ">In each assay<" in figure
    assert ">Epistasis<" in figure
    assert ">test: 0.40<" in figure
    one = {**content, "assays": content["assays"][:1]}
    one["metrics"] = [each for each in one["metrics"] if each["name"] == "spearman"]
    figure = evaluation_figure("variants", parse_evaluation(one))
    assert ">In each assay<" not in figure
    assert ">Epistasis<" not in figure


def test_an_inlined_figure_has_its_own_ids_and_the_colours_of_the_page(perplexity: str) -> None:
    element = inline_svg(perplexity, "perplexity")
    assert element.startswith("<svg")
    assert "#1d2730" not in element
    assert "var(--ink)" in element
    assert element.count(' id="') == element.count(' id="perplexity-')
    assert "<metadata>" not in element
