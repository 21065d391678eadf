import json
from pathlib import Path
from typing import Any

import pytest

from esm1b.evaluation.results import parse_evaluation
from esm1b.report.evaluation_figures import evaluation_figure
from esm1b.weights.model_directory import ModelDirectory
from tests.report import examples
from tests.report.rendered import render_page, rows_of, strong_rows, tables_of

pytestmark = pytest.mark.usefixtures("undrawn")
MINUS = "\N{MINUS SIGN}"


def test_perplexities_of_every_model_come_with_the_difference(tmp_path: Path) -> None:
    table = tables_of(render_page(tmp_path, examples.perplexity()), "model")[0]
    head, trained, untrained, *others = rows_of(table)
    assert head == [
        "model", "<mask>, of 20", "<mask>, of 33", "as trained, of 20", "as trained, of 33",
        "trained minus this, nats",
    ]  # fmt: skip
    assert [row[0] for row in (trained, untrained, *others)] == [
        "trained model",
        "untrained networks",
        "residue frequencies",
        "site-independent bound",
        "exact optimum",
    ]
    assert strong_rows(table) == ["trained model"]
    assert trained[1] == "9.50 8.55 to 10.45"
    assert trained[-1] == ""
    assert untrained[-1] == f"{MINUS}0.250 {MINUS}0.300 to {MINUS}0.200"


def test_perplexities_of_a_fasta_are_those_of_its_sequences(tmp_path: Path) -> None:
    content = json.loads(json.dumps(examples.perplexity()).replace("validation", "fasta"))
    page = render_page(tmp_path, content)
    assert rows_of(tables_of(page, "model")[0])[1][:2] == ["trained model", "9.50 8.55 to 10.45"]
    assert '<div class="units">FASTA, 50 clusters</div>' in page
    assert ">9.50<" in evaluation_figure("perplexity", parse_evaluation(content))


@pytest.mark.parametrize("unseen", [True, False])
def test_contacts_by_subset_and_the_lead(tmp_path: Path, unseen: bool) -> None:
    page = render_page(tmp_path, examples.contacts(unseen=unseen))
    head, _, untrained, *_ = rows_of(tables_of(page, "model")[0])
    never_seen = ["never seen\n8 families"] if unseen else []
    assert head == ["model", "test\n8 families", *never_seen, "trained minus this\ntest"]
    numbers = [text.split()[0] for text in untrained[1:]]
    assert numbers == ["0.040", *(["0.050"] if unseen else []), "+0.400"]


def test_a_failed_fit_is_failed_and_says_why(tmp_path: Path) -> None:
    content = examples.contacts()
    content["metrics"][1] = examples.metric("precision_at_contacts", "untrained", "test", None)
    page = render_page(tmp_path, content)
    assert rows_of(tables_of(page, "model")[0])[2][1] == "failed"
    reason = "untrained networks: the regression kept no coefficient at C = 500"
    assert page.count(f'<p class="note">{reason}</p>') == 1


def test_a_failed_fit_leaves_the_number_of_families(tmp_path: Path) -> None:
    content = examples.contacts(unseen=False)
    content["metrics"][0] = {
        **examples.metric("precision_at_contacts", "trained", "test", None), "n": 0,
    }  # fmt: skip
    page = render_page(tmp_path, content)
    head, trained, *_ = rows_of(tables_of(page, "model")[0])
    assert head[1] == "test\n8 families"
    assert trained[1] == "failed"
    assert '<div class="big">failed</div><div class="units">test, 8 families</div>' in page


def test_without_untrained_networks_nothing_is_said_of_them(tmp_path: Path) -> None:
    content = examples.contacts()
    for key in ("metrics", "comparisons"):
        content[key] = [
            entry for entry in content[key]
            if "untrained" not in (entry["model"], entry.get("against"))
        ]  # fmt: skip
    page = render_page(tmp_path / "without", content)
    assert "ntrained networks" not in page
    assert "Untrained networks have" in render_page(tmp_path / "with", examples.contacts())


def test_inputs_stand_below_the_protocol(tmp_path: Path) -> None:
    inputs: dict[str, dict[str, Any]] = {
        "model": {"name": "model", "sha256": "0" * 64},
        "data": {"name": "st<1>", "sha256": "b" * 64, "files": 3},
        "options": {"fit_proteins": 20, "untrained": 3},
    }
    model, _, _ = examples.write_run(tmp_path / "digest")
    inputs["model"]["sha256"] = ModelDirectory(model).digest()
    page = render_page(tmp_path / "page", {**examples.contacts(), "inputs": inputs})
    cell = '<tr><th scope="row">data</th><td>st&lt;1&gt;, SHA-256 <code>'
    assert f"{cell}{'b' * 64}</code>, files 3</td></tr>" in page
    assert '<th scope="row">options</th><td>fit proteins 20, untrained 3</td>' in page


def test_published_precisions_stand_beside_ours_by_range(tmp_path: Path) -> None:
    page = render_page(tmp_path / "real", examples.contacts())
    (real,) = tables_of(page, "separation")
    rows = rows_of(real)
    assert rows[0] == ["separation", "L", "L/2", "L/5", "ESM-1b L", "ESM-1b L/2", "ESM-1b L/5"]
    assert rows[3] == ["long, from 24", *["0.300 0.270 to 0.330"] * 3, "0.411", "0.533", "0.661"]
    assert rows[4][4:] == ["\N{EN DASH}"] * 3
    assert '<p class="note">ESM-1b: Rao et al. 2021, ICLR, table 1, second-hand: ' in page
    both = render_page(tmp_path / "synthetic", examples.contacts(), examples.perplexity())
    (synthetic,) = tables_of(both, "separation")
    assert [row[:4] for row in rows] == rows_of(synthetic)


def test_published_numbers_keep_their_sources(tmp_path: Path) -> None:
    content = examples.contacts()
    content["metrics"] = [m for m in content["metrics"] if m["name"] != "precision_at_L5_long"]
    page = render_page(tmp_path / "real", content)
    table = tables_of(page, "model")[-1]
    head, ours, esm_1b, *others = rows_of(table)
    assert head == ["model", "P@L, long range", "P@L/5, long range"]
    assert ours == ["this model", "0.300 0.270 to 0.330", ""]
    assert strong_rows(table) == ["this model"]
    assert esm_1b == ["ESM-1b", "0.411", "0.661"]
    assert ["ESM-1v", "0.353", "\N{EN DASH}"] in others
    assert page.count('<p class="note">facebookresearch/esm, README, ') == 2
    both = render_page(tmp_path / "synthetic", content, examples.perplexity())
    assert rows_of(tables_of(both, "model")[-1]) == [head, esm_1b, *others]


def test_structure_by_subset_and_recalls_on_the_test_families(tmp_path: Path) -> None:
    page = render_page(tmp_path, examples.secondary_structure())
    head, _, _, one_hot, _ = rows_of(tables_of(page, "model")[0])
    assert head[-1] == "trained minus this\ntest"
    assert [text.split()[0] for text in one_hot[1:]] == ["0.600", "0.600", "0.600", "+0.100"]
    (recalls,) = tables_of(page, "recall, test")
    assert rows_of(recalls)[:2] == [
        ["recall, test", "helix", "strand", "coil"],
        ["trained model", *["0.700 0.630 to 0.770"] * 3],
    ]


def test_cards_show_the_main_metric_beside_baselines(tmp_path: Path) -> None:
    page = render_page(tmp_path, examples.contacts(), examples.perplexity())
    assert '<div class="big">9.50</div><div class="units">validation, 50 clusters</div>' in page
    assert "<dt>exact optimum</dt><dd>6.00</dd>" in page
    assert "<dl><dt>on families never seen</dt><dd>0.050</dd><dt>untrained networks</dt>" in page
