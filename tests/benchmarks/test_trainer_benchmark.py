import json
import subprocess
import sys
from pathlib import Path
from time import sleep

import pytest

from benchmarks.command import run_benchmark
from benchmarks.sections import Sections

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_trainer_is_compared_with_the_bare_model(tmp_path: Path) -> None:
    """At a tiny size; what it measures here says nothing."""
    output = tmp_path / "result.json"
    run_benchmark(
        "trainer",
        [
            *("--layers=2", "--width=16", "--heads=2", "--threads=1", "--passes=2", "--updates=3"),
            *("--tokens-per-update=1024", "--micro-batch-tokens=512", f"--output={output}"),
        ],
    )
    result = json.loads(output.read_text())
    ours, bare = result["sides"]["trainer"], result["sides"]["bare"]
    # the same weights, sequences and masks, and as many steps of Adam
    assert ours["loss_after_warm_up"] == pytest.approx(bare["loss_after_warm_up"], rel=1e-5)
    assert 2.5 < ours["loss_after_warm_up"] < 4.5
    for side in (ours, bare):
        assert [abs(tokens - 3 * 1024) < 1024 for tokens in side["unpadded_tokens_by_pass"]] == [
            True,
            True,
        ]
        assert side["padded_positions"] == 0
        assert len(side["seconds_by_pass"]) == len(side["cpu_seconds_by_pass"]) == 2
    overhead = result["loop_overhead"]
    assert set(overhead["sections"]) == {
        *("forward", "backward", "adam", "deepspeed", "deepspeed_in_backward", "engine", "layout"),
        *("data_wait", "agreement", "monitor", "loop"),
    }
    assert sum(part["share"] for part in overhead["sections"].values()) == pytest.approx(
        1, abs=1e-3
    )
    assert 0 < overhead["share"] < 1
    # sections are within what is timed; on a busy machine a thread may wait to begin or to be heard
    milliseconds = sum(ours["seconds_by_pass"]) / 6 * 1000
    assert 0.2 * milliseconds < overhead["milliseconds_of_an_update"] < 1.05 * milliseconds
    assert set(result["share_lost"]) == {
        *("time", "lowest_time", "highest_time", "least_time", "cpu_time"),
    }


def test_time_counts_in_the_innermost_section() -> None:
    sections = Sections()
    inner = sections.within("inner", lambda: sleep(0.02))

    def nest() -> None:
        sleep(0.04)
        inner()

    sections.restart()
    sections.within("outer", nest)()
    inner()
    sections.count()
    assert set(sections.seconds) == {"loop", "outer", "inner"}
    assert sections.seconds["outer"] >= 0.04
    assert sections.seconds["inner"] >= 0.04
    assert sections.cpu_seconds["inner"] < 0.04
    sleep(0.02)
    sections.skip()
    sections.count()
    assert sections.seconds["loop"] < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--compile"], "--compile: expected --device cuda and --precision bf16"),
        (
            ["--precision=bf16", "--zero-stage=0"],
            "--zero-stage 0: with pretraining.precision bf16; expected 1, 2 or 3, which keep "
            "float32 master weights",
        ),
        (
            ["--heads=3"],
            "the options: model.heads: 3 does not divide width 320",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_benchmark("trainer", options)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"python -m benchmarks trainer: error: {message}\n"


def test_saving_is_compared_with_dd(tmp_path: Path) -> None:
    """At a tiny size; what it measures here says nothing."""
    output = tmp_path / "result.json"
    size = ("--layers=1", "--width=16", "--heads=2", "--threads=1", "--passes=2")
    # in a process of its own, as it joins a run of one and turns the compiler off
    command = [sys.executable, "-m", "benchmarks", "saving", *size]
    command += [f"--directory={tmp_path}", f"--output={output}"]
    subprocess.run(command, check=True, cwd=REPOSITORY)
    result = json.loads(output.read_text())
    # (33 + 1,026) x 16 embeddings, 3,296 of the layer, 33 biases and so on, each with its moments
    assert result["checkpoint_bytes"] > 12 * result["parameters"] > 12 * (1059 * 16 + 3296)
    for rates in result["megabytes_per_second_by_pass"].values():
        assert len(rates) == 2
        assert min(rates) > 0
    assert {"stall", "foreground", "background"} < set(result["seconds_by_pass"])
    assert list(tmp_path.iterdir()) == [output]
