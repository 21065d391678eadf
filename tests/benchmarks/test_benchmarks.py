"""Each benchmark runs at a tiny size; what it measures here says nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.command import BENCHMARKS, main, run_benchmark
from benchmarks.gpu_correctness import relative_distance
from benchmarks.masked_sequences import IGNORED, MaskedSequences, deal, split_evenly
from benchmarks.proteins import read_or_draw
from esm1b.errors import UserError
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.planning.gpus import flops_per_token

LENGTHS = [5, 9, 3, 3, 8, 2]
TINY = ["--layers", "2", "--width", "16", "--heads", "2", "--threads", "1"]


@pytest.mark.slow
def test_encoder_training_compares_all_sides(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    run_benchmark(
        "encoder_training",
        [
            *TINY,
            "--update-tokens=600",
            "--updates=2",
            "--passes=1",
            "--packed-tokens=300",
            "--padded-tokens=600",
            "--grouped-tokens=300",
            f"--output={output}",
        ],
    )
    result = json.loads(output.read_text())
    assert list(result["sides"]) == ["packed 300", "padded 600", "grouped 300"]
    losses = [side["first_loss"] for side in result["sides"].values()]
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-4)
    assert result["sides"]["packed 300"]["padded_positions_in_a_pass"] == 0
    assert result["sides"]["padded 600"]["padded_positions_in_a_pass"] > 0
    assert set(result["ratios"]) == {"padded 600 / packed 300", "grouped 300 / packed 300"}
    assert all(len(side["seconds_by_pass_and_update"]) == 1 for side in result["sides"].values())


@pytest.mark.slow
def test_embedding_agrees_with_fair_esm(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    run_benchmark("embedding", [*TINY, "--residues=2000", "--passes=1", f"--output={output}"])
    result = json.loads(output.read_text())
    assert result["largest_relative_difference"] < 1e-4
    assert result["ratios"]["fair-esm / packed"]["time"] > 0


@pytest.mark.slow
def test_variants_agree_with_both_peers(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    run_benchmark(
        "variants",
        [
            *TINY,
            "--length=20",
            "--positions=6",
            "--proteins=3",
            "--longest=12",
            "--passes=1",
            f"--output={output}",
        ],
    )
    result = json.loads(output.read_text())
    assert result["variants"]["items"] == 6 * 19
    assert result["variants"]["largest_difference"] < 5e-5
    assert result["variants"]["ratios"]["fair-esm / packed"]["time"] > 0
    assert result["pseudo_perplexity"]["items"] == 3
    assert result["pseudo_perplexity"]["largest_difference"] < 1e-3


def test_flops_are_those_of_the_published_arithmetic() -> None:
    # 6 x 651 M + 12 x 33 x 1280 x 1024 = 4.43 G
    assert flops_per_token(EncoderShape(), 1024.0) == pytest.approx(4.43e9, rel=2e-3)


def test_batches_hold_what_they_may() -> None:
    assert split_evenly([0, 1, 2, 3, 4, 5], LENGTHS, tokens=15) == [[0, 1], [2, 3, 4, 5]]
    dealt = deal([[0], [1], [2]], 2, seed=0)
    assert [len(update) for update in dealt] == [2, 1]
    assert sorted(member for update in dealt for batch in update for member in batch) == [0, 1, 2]


def test_packed_and_padded_batches_hold_the_same_tokens_and_masks() -> None:
    sequences = MaskedSequences.of(["MKTVRQGLLA" * 3, "ACDEFGHIKL", "WY"], seed=3)
    packed, padded = sequences.pack([2, 0]), sequences.pad([2, 0])
    inside = padded.attention_mask.bool()
    assert inside.sum(1).tolist() == [4, 32]
    assert torch.equal(padded.tokens[inside], packed.packed.tokens)
    labels = padded.labels[inside]
    assert torch.equal((labels != IGNORED).nonzero().squeeze(1), packed.masked_positions)
    assert torch.equal(labels[labels != IGNORED], packed.targets)
    assert sequences.masked_count([2, 0]) == len(packed.targets)


def test_drawn_sequences_have_the_stated_lengths() -> None:
    lengths = np.array([len(text) for text in read_or_draw(None, residues=600_000, seed=2)])
    assert lengths.max() <= 1022
    # cropping takes some residues off the mean of 286.5
    assert 275 < lengths.mean() < 290


def test_sequences_of_a_file_are_cropped_and_must_suffice(tmp_path: Path) -> None:
    fasta = tmp_path / "some.fasta"
    fasta.write_text(f">a\n{'M' * 1500}\n>b\n{'A' * 100}\n")
    assert sorted(map(len, read_or_draw(str(fasta), residues=1122, seed=1))) == [100, 1022]
    with pytest.raises(UserError, match=r"some.fasta: 1122 residues; expected at least 1123"):
        read_or_draw(str(fasta), residues=1123, seed=1)


def test_relative_distance_is_one_norm_over_the_other() -> None:
    expected = torch.tensor([3.0, 4.0])
    assert relative_distance(expected + torch.tensor([0.0, 0.5]), expected) == pytest.approx(0.1)


def test_help_lists_every_benchmark_and_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    listed = capsys.readouterr().out
    for name in BENCHMARKS:
        assert f"  {name} " in listed
        with pytest.raises(SystemExit) as stopped:
            main([name, "--help"])
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        assert text.startswith(f"usage: python -m benchmarks {name} ")
        assert "random seed (default: 1)" in text
