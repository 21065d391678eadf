import gzip
import json
from pathlib import Path

import pytest

from benchmarks.command import run_benchmark
from benchmarks.uniref_text import write_uniref


@pytest.mark.slow
def test_sharding_compares_both_sides(tmp_path: Path) -> None:
    """At a tiny size; what it measures here says nothing."""
    output = tmp_path / "result.json"
    run_benchmark("sharding", ["--megabytes=0.5", "--passes=1", "--shards=2", f"--output={output}"])
    result = json.loads(output.read_text())
    assert result["input"]["bytes"] > 500_000
    assert set(result["sides"]) == {"decompression", "shard", "biopython"}
    assert result["sides"]["shard"]["peak_memory_mib"] > 100
    assert result["ratios"]["biopython / shard"]["cpu_time"] > 0
    assert result["hours_for_60_million_records"]["shard"] > 0


@pytest.mark.slow
def test_tokenizing_measures_all_sides(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    run_benchmark(
        "tokenizing", ["--megabytes=0.5", "--passes=1", "--shards=2", f"--output={output}"]
    )
    result = json.loads(output.read_text())
    assert set(result["sides"]) == {"tokenize, 1 workers", "tokenize, 2 workers", "transformers"}
    assert result["sides"]["tokenize, 1 workers"]["million_residues_per_second"] > 0


def test_drawn_records_have_ids_of_their_own(tmp_path: Path) -> None:
    records, size = write_uniref(tmp_path / "some.gz", 300_000, seed=1, processes=1)
    text = gzip.decompress((tmp_path / "some.gz").read_bytes())
    lines = text.splitlines()
    headers = {line.split()[0] for line in lines if line.startswith(b">")}
    assert len(headers) == records > 500
    assert len(text) == size
    assert max(map(len, lines)) < 200
