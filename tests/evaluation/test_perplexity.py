import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from esm1b.alphabet import decode
from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.dataset import open_tokens
from esm1b.corpus.tokens.tokenize import tokenize
from esm1b.errors import UserError
from esm1b.evaluation.inputs import content_digest
from esm1b.evaluation.perplexity import evaluate_perplexity
from esm1b.model.encoder import Encoder, initialise
from esm1b.model.shape import EncoderShape
from esm1b.synthetic.dataset import synthesize
from esm1b.versions import __version__
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder, residues

SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=32, maximum_tokens=64)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with synthetic families, their tokens and a model that has learnt nothing."""
    folder = tmp_path_factory.mktemp("synthetic")
    synthesize(folder / "families", families=4, unseen_families=2, sequences=60, members=2, seed=3)
    fasta = str(folder / "families" / "sequences.fasta.gz")
    shard([fasta], folder / "corpus", Selection(validation_fraction=0.2), shards=2)
    tokenize(folder / "corpus", folder / "tokens")
    encoder = Encoder(SHAPE)
    initialise(encoder, 0)
    save_model(encoder, folder / "model", Provenance(rare_residues="replace"))
    return folder


@pytest.fixture(scope="module")
def evaluated(synthetic: Path) -> Path:
    evaluate(synthetic, synthetic / "perplexity")
    return synthetic / "perplexity"


def evaluate(folder: Path, output: Path) -> None:
    truth = folder / "families" / "truth.npz"
    evaluate_perplexity(
        folder / "model", folder / "tokens", output, draws=2, untrained=2, truth=truth
    )


def values(directory: Path) -> dict[tuple[str, str], Any]:
    content = json.loads((directory / "metrics.json").read_text())
    return {(metric["name"], metric["model"]): metric["value"] for metric in content["metrics"]}


def test_metrics_of_every_model(evaluated: Path) -> None:
    found = values(evaluated)
    assert sorted(found) == sorted(
        [
            *(
                (f"perplexity_{masks}{suffix}", model)
                for masks in ("training_masks", "mask_positions")
                for suffix in ("", "_20")
                for model in ("trained", "untrained", "residue_frequencies")
            ),
            *(
                (f"perplexity_mask_positions{suffix}", model)
                for suffix in ("", "_20")
                for model in ("site_independent", "exact_optimum")
            ),
            ("gap_closed", "trained"),
        ]
    )


def test_no_model_beats_the_exact_optimum(evaluated: Path) -> None:
    found = values(evaluated)
    exact = found["perplexity_mask_positions_20", "exact_optimum"]
    assert exact > 1
    assert exact < found["perplexity_mask_positions_20", "site_independent"]
    assert found["perplexity_mask_positions_20", "site_independent"] < 20
    for model in ("trained", "untrained", "residue_frequencies"):
        assert exact < found["perplexity_mask_positions_20", model]
    # Initial weights are small: nearly uniform over 33 tokens, or over 20.
    assert found["perplexity_mask_positions", "trained"] == pytest.approx(33, rel=0.1)
    assert found["perplexity_mask_positions_20", "trained"] == pytest.approx(20, rel=0.1)
    assert found["perplexity_training_masks", "untrained"] == pytest.approx(33, rel=0.1)
    assert found["gap_closed", "trained"] < 0


def test_renormalising_never_raises_the_perplexity(evaluated: Path) -> None:
    found = values(evaluated)
    for masks in ("training_masks", "mask_positions"):
        name = f"perplexity_{masks}"
        assert found[f"{name}_20", "trained"] < found[name, "trained"]
        frequencies = (
            found[f"{name}_20", "residue_frequencies"],
            found[name, "residue_frequencies"],
        )
        assert frequencies[0] == frequencies[1]


def test_content_besides_the_metrics(synthetic: Path, evaluated: Path) -> None:
    content = json.loads((evaluated / "metrics.json").read_text())
    assert content["evaluation"] == "perplexity"
    assert content["model"] == {"rare_residues": "replace", "contact_head": "unfitted"}
    held_out = json.loads((synthetic / "corpus" / "manifest.json").read_text())["sequences"]
    assert content["protocol"]["sequences"] == held_out["validation"]
    assert content["protocol"]["draws"] == 2
    assert content["protocol"]["cropped"] == 0
    against = [comparison["against"] for comparison in content["comparisons"]]
    assert against == ["untrained", "residue_frequencies", "site_independent", "exact_optimum"]
    exact = content["comparisons"][-1]
    assert 0 < exact["low"] <= exact["difference"] <= exact["high"]
    table = pq.read_table(evaluated / "sequences.parquet")
    assert table.num_rows == held_out["validation"]
    assert sum(table["masked_positions"].to_pylist()) == content["protocol"]["positions"]


def test_bytes_are_the_same_every_time(synthetic: Path, evaluated: Path, tmp_path: Path) -> None:
    evaluate(synthetic, tmp_path / "again")
    for name in ("metrics.json", "sequences.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (evaluated / name).read_bytes()


def test_inputs_and_options_are_named(synthetic: Path, evaluated: Path) -> None:
    content = json.loads((evaluated / "metrics.json").read_text())
    inputs, protocol = content["inputs"], content["protocol"]
    assert list(inputs) == ["model", "tokens", "truth", "versions", "options"]
    model = ModelDirectory(synthetic / "model")
    assert inputs["model"] == {"name": "model", "sha256": model.digest()}
    manifest, truth = synthetic / "tokens" / "manifest.json", synthetic / "families" / "truth.npz"
    assert inputs["tokens"] == {"name": "manifest.json", "sha256": content_digest(manifest)}
    assert inputs["truth"] == {"name": "truth.npz", "sha256": content_digest(truth)}
    assert inputs["versions"]["esm1b"] == __version__
    assert inputs["options"] == {
        "sequences": 2000, "draws": 2, "untrained": 2, "seed": 0, "batch_tokens": 8192,
        "device": "auto", "precision": "fp32",
    }  # fmt: skip
    assert (protocol["untrained_networks"], protocol["batch_tokens"]) == (2, 8192)
    assert protocol["precision"] == "fp32"


def test_options_change_what_they_say(synthetic: Path, evaluated: Path, tmp_path: Path) -> None:
    evaluate_perplexity(
        synthetic / "model",
        synthetic / "tokens",
        tmp_path / "out",
        draws=2,
        untrained=0,
        batch_tokens=200,
        device="cpu",
        precision="bf16",
    )
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {metric["model"] for metric in content["metrics"]} == {"trained", "residue_frequencies"}
    assert [each["against"] for each in content["comparisons"]] == ["residue_frequencies"]
    table = pq.read_table(tmp_path / "out" / "sequences.parquet")
    assert "nats_untrained" not in table.column_names
    protocol = content["protocol"]
    assert (protocol["device"], protocol["precision"]) == ("cpu", "bf16")
    # the same masks, whatever the batches
    assert (
        protocol["positions"]
        == json.loads((evaluated / "metrics.json").read_text())["protocol"]["positions"]
    )
    for key, value in values(tmp_path / "out").items():
        expected = values(evaluated)[key]
        assert value == pytest.approx(expected, rel=0.02)
        assert (value != expected) == (key[1] == "trained")


def test_a_truth_that_is_missing_is_told(synthetic: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.npz: No such file or directory$"):
        evaluate_perplexity(
            synthetic / "model",
            synthetic / "tokens",
            tmp_path / "out",
            truth=tmp_path / "none.npz",
        )


def corpus_of(folder: Path, training: str, held_out: list[str]) -> Path:
    records = [f">training\n{training}\n"]
    records += [f">held{number}\n{sequence}\n" for number, sequence in enumerate(held_out)]
    (folder / "proteins.fasta").write_text("".join(records))
    (folder / "ids.txt").write_text("".join(f"held{n}\n" for n in range(len(held_out))))
    shard(
        [str(folder / "proteins.fasta")],
        folder / "corpus",
        Selection(validation_ids=folder / "ids.txt"),
        shards=1,
    )
    tokenize(folder / "corpus", folder / "tokens")
    save_model(random_encoder(SHAPE), folder / "model", Provenance(rare_residues="replace"))
    return folder / "tokens"


def test_residue_frequencies_by_hand(tmp_path: Path) -> None:
    # 30 A, 40 L and 10 that are no amino acid: A has (30 + 1) of 70 + 20 by Laplace's rule.
    tokens = corpus_of(tmp_path, "A" * 30 + "L" * 40 + "XBUZOXBUZO", ["A" * 60, "A" * 40])
    evaluate_perplexity(tmp_path / "model", tokens, tmp_path / "perplexity", untrained=1)
    found = values(tmp_path / "perplexity")
    for masks in ("training_masks", "mask_positions"):
        for suffix in ("", "_20"):
            value = found[f"perplexity_{masks}{suffix}", "residue_frequencies"]
            assert value == pytest.approx(90 / 31, rel=1e-12)
    content = json.loads((tmp_path / "perplexity" / "metrics.json").read_text())
    # 15 % of 60 and of 40, three draws
    assert content["protocol"]["positions"] == 3 * (9 + 6)
    assert {metric["n"] for metric in content["metrics"]} == {2}


def test_sequences_with_nothing_masked_have_a_row(tmp_path: Path) -> None:
    tokens = corpus_of(tmp_path, "MKTVRQG" * 5, [*["X"] * 9, "MKTVRQGMKTVRQGMKTVRQ"])
    evaluate_perplexity(tmp_path / "model", tokens, tmp_path / "perplexity", draws=1, untrained=1)
    table = pq.read_table(tmp_path / "perplexity" / "sequences.parquet").to_pylist()
    assert sorted(row["masked_positions"] for row in table) == [0] * 9 + [3]
    assert table[-1]["length"] == 1  # the last row is among those


def test_only_the_first_sequences_are_scored(synthetic: Path, tmp_path: Path) -> None:
    evaluate_perplexity(
        synthetic / "model",
        synthetic / "tokens",
        tmp_path / "few",
        sequences=5,
        draws=1,
        untrained=1,
    )
    assert pq.read_table(tmp_path / "few" / "sequences.parquet").num_rows == 5
    assert "gap_closed" not in {name for name, _ in values(tmp_path / "few")}


def test_truth_of_other_sequences_is_refused(synthetic: Path, tmp_path: Path) -> None:
    tokens = corpus_of(tmp_path, "MKTVRQG" * 5, ["MKTVRQG" * 4])
    truth = synthetic / "families" / "truth.npz"
    with pytest.raises(UserError) as caught:
        evaluate_perplexity(
            tmp_path / "model", tokens, tmp_path / "perplexity", untrained=1, truth=truth
        )
    assert str(caught.value) == (
        f"{truth}: does not describe the held-out sequences: no family in the corpus has "
        "28 residues; expected the file that synthesize wrote with them"
    )
    assert not (tmp_path / "perplexity").exists()


def test_a_fasta_needs_no_corpus(synthetic: Path, evaluated: Path, tmp_path: Path) -> None:
    held_out = open_tokens(synthetic / "tokens", "validation")
    sequences = [decode(residues(held_out, index)) for index in range(len(held_out))]
    fasta = tmp_path / "proteins.fasta"
    fasta.write_text("".join(f">protein{n}\n{text}\n" for n, text in enumerate(sequences)))
    evaluate_perplexity(synthetic / "model", fasta, tmp_path / "out", draws=2, untrained=1)
    expected, found = values(evaluated), values(tmp_path / "out")
    assert sorted({model for _, model in found}) == ["trained", "untrained"]
    for masks in ("training_masks", "mask_positions"):
        name = f"perplexity_{masks}", "trained"
        assert found[name] == pytest.approx(expected[name], rel=1e-6)
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["inputs"]["fasta"]["name"] == "proteins.fasta"
    assert {(metric["subset"], metric["n_unit"]) for metric in content["metrics"]} == {
        ("fasta", "sequence")
    }
    table = pq.read_table(tmp_path / "out" / "sequences.parquet")
    assert table["id"].to_pylist() == [f"protein{n}" for n in range(len(sequences))]
