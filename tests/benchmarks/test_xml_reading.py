import json
from pathlib import Path

import pytest

from benchmarks.command import run_benchmark


@pytest.mark.slow
def test_xml_reading_compares_all_sides(tmp_path: Path) -> None:
    """At a tiny size; what it measures here says nothing."""
    output = tmp_path / "result.json"
    run_benchmark("xml_reading", ["--megabytes=0.2", "--passes=1", f"--output={output}"])
    result = json.loads(output.read_text())
    assert result["xml"]["entries"] > 20
    assert result["sides"]["whole"]["megabytes_per_second"] > 0
    assert result["release_2018_03"]["hours"]["2 workers"] > 0
    assert ("lxml" in result["sides"]) != ("note" in result)
