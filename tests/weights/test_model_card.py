import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, EsmForMaskedLM, pipeline
from typer.testing import CliRunner

from esm1b.alphabet import AMINO_ACIDS
from esm1b.cli import app
from esm1b.config import PretrainingConfig
from esm1b.model.layers import ContactHead
from esm1b.model.shape import EncoderShape
from esm1b.publishing.exchange import export_model
from esm1b.weights.model_card import CardResult, model_card
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder

SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=24, maximum_tokens=128)
ESM2 = replace(EncoderShape(), positions="rotary", layer_norm_before=False)
WIDGET = "MQIFVKTLTGKTITLEVEPS<mask>TIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"
DETAILS: dict[str, Any] = {
    "run": "tiny",
    "updates": 2200,
    "tokens_fingerprint": "f" * 64,
    "data": {"training_sequences": 31360, "training_residues": 1234567},
    "seed": 20210415,
    "versions": {"python": "3.11.9", "torch": "2.13.0"},
    "pretraining": PretrainingConfig(crop_residues=126).model_dump(mode="json"),
}
PERPLEXITY = CardResult(
    task="fill-mask",
    dataset="held-out-sequences",
    dataset_name="held-out sequences",
    metric="perplexity",
    metric_name="Perplexity at <mask>",
    decimals=2,
    split="validation",
    value=5.9012345,
    low=5.731,
    high=6.08,
    units="640 clusters",
    baselines="residue frequencies 17.80",
)
FAILED = CardResult(
    task="other",
    dataset="structures",
    dataset_name="structures",
    metric="precision",
    metric_name="Contacts",
    split="test",
    value=None,
    units="8 families",
    failed="the regression kept no coefficient",
)


def card(**options: Any) -> str:
    provenance = Provenance(rare_residues="replace", details=DETAILS)
    return model_card(SHAPE, provenance, **{"contact_head_fitted": True, **options})


def metadata(text: str) -> dict[str, Any]:
    content = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(content, dict)
    return content


def blocks(text: str, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def saved(
    directory: Path, *, append_eos: bool = True, fitted: bool = True, details: bool = True
) -> Path:
    """Write a model directory of random weights and return it."""
    generator = torch.Generator().manual_seed(3)
    head = ContactHead(
        coefficients=torch.randn(SHAPE.layers * SHAPE.heads, generator=generator),
        intercept=torch.tensor(-1.0),
    )
    recipe = {**DETAILS["pretraining"], "append_eos": append_eos}
    save_model(
        random_encoder(SHAPE),
        directory / "model",
        Provenance(
            rare_residues="replace",
            details={**DETAILS, "pretraining": recipe} if details else {},
        ),
        contact_head=head if fitted else None,
    )
    return directory / "model"


def run_blocks(directory: Path) -> list[dict[str, Any]]:
    """Run the Python of a card in its directory; return what is defined after each block."""
    export_model(directory, directory / "model.pt", format="fair-esm")
    defined: dict[str, Any] = {}
    after = []
    for block in blocks((directory / "README.md").read_text(encoding="utf-8")):
        exec(compile(block, "README.md", "exec"), defined)
        after.append(dict(defined))
    return after


@pytest.mark.parametrize("append_eos", [True, False])
def test_the_examples_run_and_agree(
    append_eos: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = saved(tmp_path, append_eos=append_eos)
    monkeypatch.chdir(directory)
    transformers, *contacts, ours, fair_esm = run_blocks(directory)
    residues = slice(1, 77)  # after <cls>
    assert transformers["logits"].shape == (78 if append_eos else 77, 33)
    assert ours["logits"].shape == (76, 33)
    for theirs in (transformers["logits"], fair_esm["result"]["logits"][0]):
        np.testing.assert_allclose(theirs[residues], ours["logits"], rtol=1e-4, atol=1e-4)
    for theirs in (
        transformers["representations"],
        fair_esm["result"]["representations"][SHAPE.layers][0],
    ):
        np.testing.assert_allclose(theirs[residues], ours["representations"], rtol=1e-4, atol=1e-4)
    assert transformers["sequence"] == ours["sequence"] == fair_esm["sequence"] == WIDGET
    assert ours["contacts"].shape == (76, 76)
    assert len(contacts) == append_eos
    if contacts:
        np.testing.assert_allclose(contacts[0]["contacts"], ours["contacts"], atol=1e-5)
        assert fair_esm["result"]["contacts"].shape == (1, 76, 76)


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = saved(tmp_path)
    monkeypatch.chdir(directory)
    (directory / "proteins.fasta").write_text(">a\nMQIFVKTLTGK\n>b\nTITLEVEPS\n")
    (lines,) = blocks((directory / "README.md").read_text(encoding="utf-8"), "sh")
    commands = [line.replace('"', "").split() for line in lines.splitlines()]
    assert [command[:3] for command in commands] == [
        ["esm1b", "fill-mask", "."],
        ["esm1b", "embed", "."],
        ["esm1b", "contacts", "."],
    ]
    for command in commands:
        result = CliRunner().invoke(app, command[1:], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert (directory / "embeddings.parquet").exists()
    assert (directory / "contacts").is_dir()


def test_without_a_fitted_head_no_contacts_are_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = saved(tmp_path, fitted=False)
    monkeypatch.chdir(directory)
    text = (directory / "README.md").read_text(encoding="utf-8")
    assert "contacts" not in "".join(blocks(text) + blocks(text, "sh"))
    assert "| Contact head | not fitted: zero |" in text
    assert "- The contact head is zero: it predicts 0.5 for every pair." in text
    loader: Any = EsmForMaskedLM
    model = loader.from_pretrained(".", attn_implementation="eager")
    tokens = AutoTokenizer.from_pretrained(".")("MQIF", return_tensors="pt")
    predicted = model.predict_contacts(tokens["input_ids"], tokens["attention_mask"])
    assert predicted.tolist() == [[[0.5] * 4] * 4]
    assert len(run_blocks(directory)) == 3


def test_the_contact_example_needs_its_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence beside it is dropped once transformers no longer needs it."""
    directory = saved(tmp_path)
    loader: Any = EsmForMaskedLM
    model = loader.from_pretrained(directory)
    tokens = AutoTokenizer.from_pretrained(directory)("MQIF", return_tensors="pt")
    with pytest.raises(RuntimeError, match="stack expects a non-empty TensorList"):
        model.predict_contacts(tokens["input_ids"], tokens["attention_mask"])


def test_the_widget_is_an_example_that_transformers_fills(tmp_path: Path) -> None:
    directory = saved(tmp_path)
    content = metadata((directory / "README.md").read_text(encoding="utf-8"))
    assert content["mask_token"] == "<mask>"
    assert content["pipeline_tag"] == "fill-mask"
    (example,) = content["widget"]
    assert example["text"] == WIDGET
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokens = tokenizer(WIDGET)["input_ids"]
    assert len(tokens) == 78 <= tokenizer.model_max_length
    assert tokens.count(tokenizer.mask_token_id) == 1
    assert tokenizer.unk_token_id not in tokens
    answers = pipeline("fill-mask", model=str(directory))(example["text"])
    assert [round(answer["score"], 3) for answer in answers] == sorted(
        (round(answer["score"], 3) for answer in answers), reverse=True
    )


@settings(deadline=None)
@given(
    maximum_tokens=st.integers(3, 200),
    crop_residues=st.integers(1, 200),
    append_eos=st.booleans(),
    fitted=st.booleans(),
)
def test_the_widget_fits_any_network(
    maximum_tokens: int, crop_residues: int, append_eos: bool, fitted: bool
) -> None:
    shape = EncoderShape(layers=1, width=4, heads=1, feed_forward=4, maximum_tokens=maximum_tokens)
    recipe = {"crop_residues": crop_residues, "append_eos": append_eos}
    provenance = Provenance(details={"run": "any", "pretraining": recipe})
    text = model_card(shape, provenance, contact_head_fitted=fitted)
    sequence = metadata(text)["widget"][0]["text"]
    before, after = sequence.split("<mask>")
    assert set(before + after) <= set(AMINO_ACIDS)
    assert len(before) + 1 + len(after) == min(76, crop_residues, maximum_tokens - 2)
    assert WIDGET.replace("<mask>", "?").find(f"{before}?{after}") >= 0
    assert all(sequence in block for block in [blocks(text)[0], *blocks(text)[-2:]])


def test_hugging_face_reads_the_results() -> None:
    data: Any = ModelCard(card(results=[PERPLEXITY, FAILED])).data
    assert data.license == "mit"
    assert data.library_name == "transformers"
    assert data.tags == ["esm", "protein language model", "biology"]
    assert data.model_name == "tiny"
    (result,) = data.eval_results  # what failed has no value and is no entry
    assert (result.task_type, result.metric_type, result.metric_value) == (
        "fill-mask",
        "perplexity",
        5.9012,
    )
    assert (result.dataset_type, result.dataset_name, result.dataset_split) == (
        "held-out-sequences",
        "held-out sequences",
        "validation",
    )


def test_results_are_a_table_with_intervals_and_baselines() -> None:
    text = card(results=[PERPLEXITY, FAILED])
    assert (
        r"| Perplexity at \<mask> | held-out sequences, validation, 640 clusters | 5.90 "
        "| 5.73 to 6.08 | residue frequencies 17.80 |" in text
    )
    assert (
        "| Contacts | structures, test, 8 families | failed: the regression kept no coefficient "
        "|  |  |" in text
    )
    assert "statistical model, not from nature" not in text


def test_drawn_sequences_are_said_to_be_drawn() -> None:
    drawn = CardResult(**{**vars(PERPLEXITY), "synthetic": True})
    assert "nothing here is about real proteins" in card(results=[drawn])


def test_without_results_there_is_no_index() -> None:
    text = card()
    assert "model-index" not in metadata(text)
    assert "No evaluation is recorded." in text


def test_what_the_run_recorded_is_on_the_card() -> None:
    text = card()
    # A layer has 4 x (16^2 + 16) + 2 x 16 x 24 + 24 + 16 + 64 = 1,960; besides the two there are
    # (33 + 130) x 16 of embeddings, 64 of layer norms and 16^2 + 16 + 32 + 33 of the head.
    assert "with 2 layers and 6,929 parameters, pretrained with `esm1b` for 2,200 updates." in text
    for row in (
        "| Network | 2 layers, width 16, 4 heads, feed-forward 24 |",
        "| Longest sequence | 126 residues |",
        "| Residue symbols | 21 |",
        "| Contact head | fitted |",
        "| Training | 31,360 sequences, 1,234,567 residues |",
        f"| Token fingerprint | `{'f' * 64}` |",
        "| Updates | 2,200 of 4,096 tokens on average |",
        "| Crop | 126 residues, drawn again at random in each epoch |",
        "| Optimiser | Adam, betas 0.9 and 0.999, epsilon 1e-08, weight decay 0 |",
        "| Learning rate | 0.006 after 100 updates of linear warmup, then inverse square root |",
        "| Gradient clipping | none |",
        "| Precision | fp32, master weights fp32 |",
        "| Seed | 20210415 |",
        "| Software | python 3.11.9, torch 2.13.0 |",
    ):
        assert row in text
    assert "- B, U, Z and O were read as X in training" in text
    assert "not recorded" not in text


def test_a_recipe_of_which_little_is_known_has_few_rows() -> None:
    details = {"run": "tiny", "pretraining": {"updates": 20, "crop_residues": 30}}
    text = model_card(SHAPE, Provenance(details=details), contact_head_fitted=False)
    assert "| Crop | 30 residues, drawn again at random in each epoch |" in text
    assert "| Updates |" not in text
    assert "| Seed |" not in text
    assert "The training data are not recorded in this directory." in text


def test_the_card_of_an_esm2() -> None:
    recipe = {"learning_rate": 4e-4, "warmup_updates": 2000, "learning_rate_decay": "linear"}
    provenance = Provenance(details={"run": "mine", "pretraining": recipe})
    text = model_card(ESM2, provenance, contact_head_fitted=False)
    assert (
        "| Learning rate | 0.0004 after 2,000 updates of linear warmup, then linear to a tenth at "
        "90 % of all |"
    ) in text
    assert 'load_model_and_alphabet_local("esm2.pt")' in text
    assert "--output esm2.pt`" in text
    assert "@article{lin2023" in text
    assert "lin2023" not in card()
    narrow = replace(ESM2, feed_forward=8)  # of which fair-esm has none
    assert "fair-esm]" not in model_card(narrow, provenance, contact_head_fitted=False)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        (EncoderShape(), "ESM-1b"),
        (EncoderShape(layer_norm_before=False), "ESM-1v"),
        (ESM2, "ESM-2"),
    ],
)
def test_nothing_is_claimed_about_imported_weights(shape: EncoderShape, name: str) -> None:
    text = model_card(shape, Provenance(), contact_head_fitted=True)
    assert f"# {name}\n" in text
    assert f"the network of {name} with 33 layers" in text
    assert "imported; where the weights come from is not recorded here." in text
    assert "The training data are not recorded in this directory." in text
    assert "How these weights were trained is not recorded in this directory." in text
    assert "- B, U, Z and O have symbols of their own" in text
    assert "| Residue symbols | 25 |" in text
    assert "has seen" not in text
    assert metadata(text)["license"] == "unknown"


def test_the_released_size_is_on_its_card() -> None:
    text = model_card(EncoderShape(), Provenance(), contact_head_fitted=False)
    assert "652,358,433 parameters" in text
    assert "- Sequences have at most 1,022 residues." in text


def test_names_break_neither_markdown_nor_metadata() -> None:
    details = {**DETAILS, "run": 'a|b: `c`\n<script> *d* [e](f) "'}
    text = model_card(
        SHAPE, Provenance(details=details), contact_head_fitted=False, results=[PERPLEXITY]
    )
    assert '\n# a\\|b: \\`c\\` \\<script> \\*d\\* \\[e](f) "\n' in text
    assert metadata(text)["model-index"][0]["name"] == details["run"]
    data: Any = ModelCard(text).data
    assert data.model_name == details["run"]


@pytest.mark.parametrize(
    "damaged", [{"data": [], "pretraining": 3, "versions": None}, {"updates": []}]
)
def test_odd_details_are_no_error(damaged: dict[str, Any]) -> None:
    text = model_card(SHAPE, Provenance(details={"run": "x", **damaged}), contact_head_fitted=False)
    assert text.startswith("---\nlicense: mit\n")
