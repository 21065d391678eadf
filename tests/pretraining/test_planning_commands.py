import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from esm1b.batches.order import SequenceOrder
from esm1b.cli import app, main
from esm1b.corpus.tokens.dataset import open_tokens
from esm1b.files import read_json
from esm1b.pretraining.checkpoints.files import StoredState, checkpoint_path, write_state
from esm1b.pretraining.skipped_updates import SkippedUpdate

CONFIGURATIONS = Path(__file__).parents[2] / "config"
UPDATES = 30


@pytest.fixture
def refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Run the command line; return the one line that it prints when the input is wrong."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["esm1b", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        return line.removeprefix("esm1b: error: ")

    yield run
    root.setLevel(before[0])
    root.handlers[:] = before[1]


def output_of(*arguments: str | int | Path, status: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


def write_checkpoint(directory: Path, updates: int, skipped: list[SkippedUpdate]) -> None:
    path = checkpoint_path(directory, updates)
    path.mkdir()
    state = StoredState(
        updates=updates,
        adam_steps=updates - len(skipped),
        scaler=None,
        skipped=skipped,
        run=None,
        versions={},
        files={},
    )
    write_state(path, state)


@pytest.fixture
def order(tokens_directory: Path) -> SequenceOrder:
    lengths = open_tokens(tokens_directory, "train").lengths
    return SequenceOrder(lengths, crop_residues=100, tokens_per_update=777, seed=5)


@pytest.fixture
def checkpoints(tokens_directory: Path, order: SequenceOrder, tmp_path: Path) -> Path:
    """A run of 30 updates that skipped the 4th and the 17th."""
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    record = {
        "tokens": open_tokens(tokens_directory, "train").fingerprint,
        "seed": 5,
        "model.layers": 2,
        "pretraining.crop_residues": 100,
        "pretraining.tokens_per_update": 777,
    }
    (directory / "run.json").write_text(json.dumps(record))
    skipped = []
    for update in (4, 17):
        members = order.update(update - 1)
        skipped.append(
            SkippedUpdate(
                update=update,
                epochs=members.epochs.tolist(),
                sequences=members.sequences.tolist(),
            )
        )
    write_checkpoint(directory, 10, skipped[:1])
    write_checkpoint(directory, UPDATES, skipped)
    seen = [sum(len(order.update(n).sequences) for n in range(u)) for u in (10, 20, 30)]
    lines = [
        {"update": update, "attempt": 1, "loss": 2.9, "sequences_seen": count}
        for update, count in zip((10, 20, 30), seen, strict=True)
    ]
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return directory


def test_estimate_prints_and_writes(tmp_path: Path) -> None:
    file = tmp_path / "estimate.json"
    config = CONFIGURATIONS / "esm1b.yaml"
    text = output_of("estimate", config, "--gpus", 8, "--gpu", "h200", "--json", file)
    assert "65.5 G tokens, 8.51 epochs" in text
    content = read_json(file)
    assert content["tokens"] == 65_536_000_000
    assert content["micro_batch_tokens"] == {"1": 16_384, "2": 16_384, "3": 16_384}
    assert content["durations"][0]["hours"] == pytest.approx(18.97, abs=0.01)


def test_estimate_of_a_cluster(tmp_path: Path) -> None:
    file = tmp_path / "estimate.json"
    config = CONFIGURATIONS / "esm1b.yaml"
    gpus = ("--gpus", 32, "--gpu", "A100", "--gpus-per-node", 4, "--link-gbit", 100)
    text = output_of("estimate", config, *gpus, "--time-limit", "12h", "--json", file)
    assert "transfer of an update: 8 x 4 GPUs, 100 Gb/s from each node\n" in text
    content = read_json(file)
    assert (content["nodes"], content["gpus_per_node"], content["link_gbit"]) == (8, 4, 100)
    # 10 bytes a parameter, 31/32 of them, at 12.5 GB/s
    assert content["transfers"]["1"]["seconds"] == pytest.approx(0.50558, abs=1e-5)
    assert content["transfers"]["1"]["jobs"] == 8  # 500,000 updates of 506 and 108 ms: 85.3 h


def test_estimate_counts_tokens(tokens_directory: Path) -> None:
    lengths = open_tokens(tokens_directory, "train").lengths
    text = output_of(
        *("estimate", CONFIGURATIONS / "config.yaml", "--gpus", 1, "--gpu", "A100"),
        *("--tokens", tokens_directory),
    )
    mean = (lengths + 2).mean()
    assert f"data        {len(lengths)} training sequences\n" in text
    # 2,200 updates of 4,096 tokens
    assert f"9.01 M tokens, {2200 * 4096 / (lengths + 2).sum():.2f} epochs" in text
    assert f"lengths     {mean:.1f} tokens on average" in text


def test_estimate_refuses(refusal: Callable[..., str], tokens_directory: Path) -> None:
    config = CONFIGURATIONS / "esm1b.yaml"
    eight = ("estimate", config, "--gpus", "8", "--gpu")
    assert refusal(*eight, "K80").startswith("--gpu: 'K80'; expected one of V100, ")
    assert refusal(*eight, "H200", "--utilisation", "50") == (
        "--utilisation: 50; expected more than 0 and at most 1"
    )
    assert refusal(*eight, "H200", "--link-gbit", "0") == (
        "--link-gbit: 0; expected more than 0 Gbit/s"
    )
    assert refusal(*eight, "H200", "--time-limit", "long") == (
        "--time-limit: 'long'; expected a duration such as 23h30m, 90m or 3600"
    )
    assert refusal(*eight, "H200", "--mean-length", "0.5") == (
        "--mean-length: 0.5; expected at least 1 residue"
    )
    assert refusal(*eight, "H200", "--tokens", tokens_directory, "--sequences", "5") == (
        "--tokens: already gives the number and length of sequences; expected no --mean-length "
        "and no --sequences"
    )
    assert refusal("estimate", "none.yaml", "--gpus", "1", "--gpu", "H200").startswith("none.yaml")


def test_audit_prints_and_writes(
    checkpoints: Path, tokens_directory: Path, order: SequenceOrder, tmp_path: Path
) -> None:
    corpus, output = tokens_directory.parent / "corpus", tmp_path / "audit"
    arguments = ("audit", checkpoints, "--tokens", tokens_directory)
    text = output_of(*arguments, "--corpus", corpus, "--output", output, "--table")
    assert text.endswith("every sequence came once in each epoch, and none out of turn\n")
    ids = [
        row["id"]
        for shard in sorted((corpus / "train").iterdir())
        for row in pq.read_table(shard).to_pylist()
    ]
    first = ids[order.update(3).sequences[0]]
    assert f"update 4 was skipped: {first}, " in text
    content = read_json(output / "audit.json")
    assert content["updates"] == UPDATES
    assert content["tokens_fingerprint"] == open_tokens(tokens_directory, "train").fingerprint
    assert (content["lines_compared"], content["updates_compared"]) == (3, UPDATES)
    assert content["failures"] == []
    assert [update["update"] for update in content["skipped"]] == [4, 17]
    assert content["skipped"][0]["ids"][0] == first
    seen = dict.fromkeys(range(len(ids)), 0)
    for number in range(UPDATES):
        for sequence in order.update(number).sequences.tolist():
            seen[sequence] += number not in (3, 16)
    rows = pq.read_table(output / "times_seen.parquet").to_pylist()
    assert rows == [
        {"sequence": number, "times_seen": times, "id": ids[number]}
        for number, times in seen.items()
    ]
    for times, count in content["times_seen"].items():
        assert list(seen.values()).count(int(times)) == count
    assert sum(content["times_seen"].values()) == len(ids)


def test_audit_of_copied_records(checkpoints: Path, tokens_directory: Path, tmp_path: Path) -> None:
    records = tmp_path / "training"
    records.mkdir()
    for name in ("metrics.jsonl", "run.json", f"update-{UPDATES:08d}/state.json"):
        shutil.copy(checkpoints / name, records)
    audit = ("audit", checkpoints, "--tokens", tokens_directory)
    assert output_of("audit", records, *audit[2:]) == output_of(*audit)


def test_audit_of_an_earlier_update(checkpoints: Path, tokens_directory: Path) -> None:
    text = output_of("audit", checkpoints, "--tokens", tokens_directory, "--updates", 5)
    assert "update 4 was skipped: numbers " in text
    assert "update 17" not in text
    assert text.splitlines()[0].split() == ["updates", "5"]


def test_a_table_without_ids(checkpoints: Path, tokens_directory: Path, tmp_path: Path) -> None:
    output = tmp_path / "audit"
    output_of("audit", checkpoints, "--tokens", tokens_directory, "--output", output, "--table")
    table = pq.read_table(output / "times_seen.parquet")
    assert table.column_names == ["sequence", "times_seen"]
    assert len(table) == len(open_tokens(tokens_directory, "train"))


def test_audit_falls_back_where_the_newest_state_is_damaged(
    checkpoints: Path, tokens_directory: Path
) -> None:
    (checkpoint_path(checkpoints, UPDATES) / "state.json").write_text("{")
    text = output_of("audit", checkpoints, "--tokens", tokens_directory)
    assert text.splitlines()[0].split() == ["updates", "10"]


def test_audit_fails_where_the_log_says_something_else(
    checkpoints: Path, tokens_directory: Path
) -> None:
    line = {"update": 20, "attempt": 2, "loss": 2.9, "sequences_seen": 1}
    with (checkpoints / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    text = output_of("audit", checkpoints, "--tokens", tokens_directory, status=1)
    assert "FAILED: metrics.jsonl has 1 sequences at update 20, not " in text


def test_audit_refuses(
    refusal: Callable[..., str], checkpoints: Path, tokens_directory: Path, tmp_path: Path
) -> None:
    def change(**values: Any) -> None:
        path = checkpoints / "run.json"
        path.write_text(json.dumps({**read_json(path), **values}))

    audit = ("audit", checkpoints, "--tokens", tokens_directory)
    corpus = tokens_directory.parent / "corpus"
    assert refusal(*audit, "--updates", "31").startswith("--updates: 31; expected at most 30, ")
    assert refusal(*audit, "--table") == (
        "--table: given without --output; expected a directory to write it to"
    )
    assert refusal(*audit, "--corpus", tokens_directory).endswith("expected 'esm1b-corpus'")
    assert refusal(*audit, "--output", corpus.parent).startswith(f"{corpus.parent}: replacing it ")
    change(tokens="0" * 64)
    assert f"expected {'0' * 64}, the tokens that the run of {checkpoints} trains on" in refusal(
        *audit
    )
    change(seed="five")
    assert refusal(*audit) == (
        f"{checkpoints / 'run.json'}: seed: 'five'; expected int, as pretrain writes it"
    )
    for directory in checkpoints.glob("update-*"):
        (directory / "state.json").unlink()
    assert refusal(*audit).endswith("expected a run that has saved a checkpoint")
    assert refusal("audit", tmp_path, "--tokens", tokens_directory) == (
        f"{tmp_path}: no run.json; expected the directory of a run's checkpoints"
    )
