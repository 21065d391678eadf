import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.command import run_benchmark


@pytest.mark.slow
def test_batches_compare_all_sides(tmp_path: Path) -> None:
    """At a tiny size; what it measures here says nothing."""
    output = tmp_path / "result.json"
    run_benchmark(
        "batches",
        [
            *("--megabytes=1", "--shards=2", "--passes=1", "--updates=3", "--peer-batches=2"),
            *("--micro-batch-tokens", "4096", "16384", "--sequences=10000", "--late-update=99"),
            f"--output={output}",
        ],
    )
    result = json.loads(output.read_text())
    streams = {"stream, micro-batches of 4096", "stream, micro-batches of 16384"}
    peers = {"transformers"} | ({"datasets"} if find_spec("datasets") else set())
    assert set(result["sides"]) == streams | peers
    for side in streams:
        tokens = result["sides"][side]["tokens_by_pass"][0]
        assert abs(tokens - 3 * 131_072) < 1024
        assert result["sides"][side]["padded_tokens_by_pass"] == [tokens]
    assert set(result["ratios"]) == {f"{ours} / {theirs}" for ours in streams for theirs in peers}
    if "datasets" not in peers:
        assert result["datasets"] == "not installed; side left out"
    assert [start["update"] for start in result["seeking"]] == [0, 99]
    assert all(start["sequences"] == 10_000 for start in result["seeking"])


def test_seeking_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    run_benchmark("seeking", ["--sequences=20000", "--update=150"])
    result = json.loads(capsys.readouterr().out)
    # 150 updates of 131,072 tokens, an epoch of 20,000 sequences of about 280 tokens
    assert 3.3 < result["epoch"] < 3.8
    assert 350 < result["sequences_of_the_update"] < 600
    assert result["seconds"] > 0
    assert result["peak_memory_mb"] >= result["memory_with_lengths_mb"]
