"""What the benchmark on a GPU does is rehearsed on CPU, at tiny sizes that measure nothing."""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_correctness, trainer
from benchmarks.command import parser_of, run_benchmark
from benchmarks.gpu_table import PARTS, rows, table
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.planning.memory import TrainingMemory

TRAINER = {
    "machine": {"gpu": "NVIDIA H200"},
    "sides": {"trainer": {"unpadded_tokens_per_second": 79_000, "model_flops_utilisation": 0.3333}},
    "share_lost": {"time": 0.0234},
    "after": {
        "peak_device_memory_gib": 90.0,
        "peak_over_estimate": 0.9,
        "compilations": 1,
        "compilations_with_validation": 3,
        "save_stall_seconds": -0.01,
        "slowed_seconds": 1.5,
    },
}


def test_each_figure_is_beside_its_bar() -> None:
    found = [line for line in rows({"trainer": TRAINER}) if line.part == "trainer"]
    assert [(line.figure, line.value, line.bar, line.outcome) for line in found] == [
        ("unpadded tokens/s", "79,000", "at least 80,000, leads from 104,000", "fail"),
        ("utilisation", "0.333", "-", "measured"),
        ("peak memory, GiB", "90", "-", "measured"),
        ("peak memory / estimate", "0.9", "at least 0.8, at most 1.1", "pass"),
        ("compilations", "1", "1", "pass"),
        ("compilations, validation included", "3", "2", "fail"),
        ("stall of a save, s", "-0.01", "at most 2", "pass"),
        ("lost until a save is done, s", "1.5", "-", "measured"),
        ("share lost to the trainer", "0.0234", "at most 0.05", "pass"),
    ]
    assert table(found[5:7]).splitlines() == [
        "part     figure                             value  bar        result",
        "trainer  compilations, validation included  3      2          fail",
        "trainer  stall of a save, s                 -0.01  at most 2  pass",
    ]


def test_what_failed_what_was_not_run_and_what_needs_a_gpu() -> None:
    on_cpu = {**TRAINER, "machine": {"processor": "any"}}
    lines = rows({"trainer": {"failed": "not done in 150 s"}, "small": on_cpu})
    outcomes = {part: {line.outcome for line in lines if line.part == part} for part in PARTS}
    assert outcomes.pop("trainer") == {"fail", "unmeasured"}  # those without a bar
    assert set(map(frozenset, outcomes.values())) == {frozenset({"unmeasured"})}
    assert {line.value for line in lines} == {"-"}


def test_a_part_that_fails_or_hangs_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.dumps(TRAINER)

    def command(part: str, options: Any, output: Path) -> list[str]:
        statement = {
            "run": "import time; time.sleep(60)",
            "peers": "raise ValueError",
            "trainer": f"open({str(output / 'trainer.json')!r}, 'w').write({result!r})",
        }[part]
        return ["timeit", "-n1", "-r1", statement]

    monkeypatch.setattr(gpu, "_command", command)
    monkeypatch.setattr(gpu, "_REHEARSAL_SECONDS", 3)
    arguments = ["--device=cpu", "--parts=run,peers,trainer", f"--output={tmp_path}"]
    with pytest.raises(SystemExit) as stopped:
        run_benchmark("gpu", arguments)
    assert stopped.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(",")[0] for line in lines[:3]] == [
        *("run: not done in 3 s", "peers: exit status 1", "trainer: exit status 0")
    ]
    assert json.loads((tmp_path / "run.json").read_text()) == {"failed": "not done in 3 s"}
    assert sum("  79,000  " in line for line in lines) == 1
    assert "79,000" in (tmp_path / "table.json").read_text()


@pytest.mark.parametrize(("memory_gib", "micro_batch"), [(79.1, 43_691), (139.8, 65_536)])
def test_micro_batches_of_the_trainer_fill_a_gpu(
    memory_gib: float, micro_batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    properties = SimpleNamespace(total_memory=memory_gib * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    options = argparse.Namespace(device="cuda", zero_stage=1, tokens_per_update=131_072)
    memory = TrainingMemory(shape=EncoderShape(), precision="bf16", processes=1)
    assert trainer._largest_micro_batch(memory, options) == micro_batch


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_commands_of_the_parts(device: str, tmp_path: Path) -> None:
    options = argparse.Namespace(device=device, seed=1)
    for part in PARTS:
        module, *arguments = gpu._command(part, options, tmp_path)
        if part == "tests":
            assert module == "pytest"
            assert any(argument.endswith("test_stream.py") for argument in arguments)
            continue
        assert module == "benchmarks"
        parsed = parser_of(arguments[0]).parse_args(arguments[1:])
        assert (parsed.device, parsed.output) == (device, tmp_path / f"{part}.json")
        if part == "trainer" and device == "cuda":
            assert (parsed.layers, parsed.width, parsed.compile) == (33, 1280, True)


def test_counts_of_tests(tmp_path: Path) -> None:
    (tmp_path / "tests.xml").write_text(
        '<testsuites><testsuite tests="9" failures="2" errors="1" skipped="3"/></testsuites>'
    )
    counts = {"passed_tests": 3, "failed_tests": 3, "skipped_tests": 3}
    assert gpu._counts(tmp_path / "tests.xml") == counts


def test_rounding_on_cpu_is_within_the_bounds() -> None:
    result = gpu_correctness.measure(argparse.Namespace(device="cpu", residues=100, seed=1))
    assert list(result["bfloat16"]["distances"]) == ["sdpa"]
    outcomes = {(line.value == "-", line.outcome) for line in rows({"correctness": result})}
    assert outcomes == {(False, "pass"), (True, "unmeasured")}


@pytest.mark.parametrize("name", ["gpu", "gpu_correctness", "encoder_training"])
def test_without_a_gpu(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        run_benchmark(name, ["--device=cuda"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        f"python -m benchmarks {name}: error: --device cuda: torch sees no CUDA device; expected "
        "one, or --device cpu\n"
    )


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_cuda_attention_agrees_with_cpu(precision: str) -> None:
    result = gpu_correctness.measure(argparse.Namespace(device="cuda", residues=4000, seed=1))
    lines = rows({"correctness": result})
    assert {line.outcome for line in lines if line.figure.startswith(precision)} == {"pass"}


@pytest.mark.slow
def test_rehearsal_of_all_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_benchmark("gpu", ["--device=cpu", f"--output={tmp_path}"])
    text = capsys.readouterr().out
    assert "exit status 1" not in text
    results = {part: json.loads((tmp_path / f"{part}.json").read_text()) for part in PARTS}
    assert results["run"]["runs"]["killed"]["killed_after"][0] > 0
    proven = {line.figure for line in rows(results) if line.outcome == "pass"}
    assert len(proven) == 4 + 6  # roundings, and the figures of the runs but their number
    # on a GPU the same results would have all figures but those of CUDA itself
    for result in results.values():
        result["machine"]["gpu"] = "pretended"
    missing = {line.figure for line in rows(results) if line.value == "-"}
    assert all("varlen" in name or name == "utilisation" for name in missing)
