"""The whole workflow at a tiny size, by the commands that a user types."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).parents[2]
TINY = {
    "corpus": {
        "shards": 2,
        "validation_fraction": 0.1,
        "synthetic": {"families": 4, "unseen_families": 2, "sequences": 60},
    },
    "model": {"layers": 1, "width": 16, "heads": 2, "feed_forward": 32},
    "pretraining": {
        "updates": 8,
        "tokens_per_update": 512,
        "crop_residues": 100,
        "log_interval": 2,
        "validation_interval": 4,
        "checkpoint_interval": 2,
    },
    "evaluation": {
        "untrained": 1,
        "perplexity": {"sequences": 10, "draws": 1},
        "contacts": {"jacobian": 1},
        "variants": {"epistasis": 5},
    },
}


def snakemake(directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*options), cwd=directory, capture_output=True, text=True, check=False
    )


def command(*options: str) -> list[str]:
    snakefile = str(ROOT / "workflow" / "Snakefile")
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", snakefile),
        *("--configfile", "tiny.yaml", "--cores", "2", *options),
    ]


def prepare(directory: Path) -> Path:
    (directory / "config").mkdir(parents=True)
    shutil.copy(ROOT / "config" / "config.yaml", directory / "config")
    (directory / "tiny.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    return directory


@pytest.fixture(scope="module", autouse=True)
def commands_on_path() -> Iterator[None]:
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{before}"
    yield
    os.environ["PATH"] = before


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = prepare(tmp_path_factory.mktemp("workflow") / "run")
    result = snakemake(directory)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Report: results/demonstration/report/index.html" in result.stdout
    assert "Model, to publish: results/demonstration/release" in result.stdout
    return directory


def planned(directory: Path) -> set[str]:
    """Return the rules that a dry run would run."""
    result = snakemake(directory, "--dry-run", "--quiet", "all")
    full = snakemake(directory, "--dry-run")
    assert result.returncode == full.returncode == 0, full.stderr
    if "Nothing to be done" in full.stdout + full.stderr:
        return set()
    table = (full.stdout + full.stderr).split("Job stats:")[1].split("total")[0]
    return {line.split()[0] for line in table.splitlines()[3:] if line.split()} - {"all"}


def test_a_finished_run_has_nothing_to_do_and_what_the_user_wants(finished: Path) -> None:
    assert planned(finished) == set()
    results = finished / "results" / "demonstration"
    assert "<svg" in (results / "report" / "index.html").read_text(encoding="utf-8")
    assert (results / "model" / "model.safetensors").stat().st_size > 0
    card = (results / "release" / "README.md").read_text(encoding="utf-8")
    assert "nothing here is about real proteins" in card
    assert "| Perplexity at" in card
    assert "model-index" not in (results / "model" / "README.md").read_text(encoding="utf-8")
    for evaluation in ("perplexity", "contacts", "secondary_structure", "variants"):
        metrics = json.loads((results / "evaluation" / evaluation / "metrics.json").read_text())
        assert {metric["model"] for metric in metrics["metrics"]} >= {"trained", "untrained"}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("results/demonstration/report/summary.txt", {"report"}),
        ("results/demonstration/release/README.md", {"release"}),
        ("results/demonstration/audit/audit.json", {"audit", "report"}),
        (
            "results/demonstration/evaluation/contacts/metrics.json",
            {"evaluate_contacts", "release", "report"},
        ),
        (
            "results/corpora/demonstration/tokens/manifest.json",
            {
                "tokenize",
                "pretrain",
                "evaluate_perplexity",
                "evaluate_contacts",
                "evaluate_secondary_structure",
                "evaluate_variants",
                "release",
                "audit",
                "report",
            },
        ),
    ],
)
def test_without_one_output_only_what_depends_on_it_runs(
    finished: Path, output: str, expected: set[str]
) -> None:
    hidden = finished / "hidden"
    os.rename(finished / output, hidden)
    try:
        assert planned(finished) == expected
    finally:
        os.rename(hidden, finished / output)


def test_a_deleted_output_comes_back_the_same(finished: Path) -> None:
    metrics = finished / "results/demonstration/evaluation/perplexity/metrics.json"
    before = metrics.read_bytes()
    metrics.unlink()
    result = snakemake(finished)
    assert result.returncode == 0, result.stdout + result.stderr
    assert metrics.read_bytes() == before


def test_evaluation_settings_do_not_retrain(finished: Path) -> None:
    result = snakemake(finished, "--dry-run", "--config", "evaluation={untrained: 2}")
    assert "evaluate_contacts" in result.stdout
    assert "rule pretrain" not in result.stdout
    assert "\npretrain " not in result.stdout


def test_snakemake_makes_its_own_report(finished: Path) -> None:
    result = snakemake(finished, "--report", "report.zip")
    assert result.returncode == 0, result.stderr
    assert (finished / "report.zip").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "modl=1",
            "esm1b: error: configuration: modl: unknown key, perhaps model; "
            "expected one of run, seed, corpus, model, pretraining, evaluation",
        ),
        (
            "model={heads: 3}",
            "esm1b: error: configuration: model.heads: 3 does not divide width 16",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_before_anything_runs(
    tmp_path: Path, setting: str, message: str
) -> None:
    directory = prepare(tmp_path / "run")
    result = snakemake(directory, "--config", setting)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()
    assert "Traceback" not in result.stderr
    assert not (directory / "results").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    ["synthesize", "shard", "tokenize", "pretrain", "evaluate perplexity", "evaluate contacts"],
)
def test_after_sigkill_of_a_stage_the_same_command_gives_the_same_files(
    finished: Path, tmp_path: Path, stage: str
) -> None:
    directory = prepare(tmp_path / "run")
    with subprocess.Popen(
        command(), cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        victim = _wait_for_process(directory, stage, process)
        if stage == "pretrain":
            _wait_for_file(directory / "checkpoints/demonstration/update-00000002/state.json")
        victim.send_signal(signal.SIGKILL)
        assert process.wait() == 1
    result = snakemake(directory)
    assert result.returncode == 0, result.stdout + result.stderr
    for part in ("corpora/demonstration", "demonstration/model"):
        assert _files(directory / "results" / part) == _files(finished / "results" / part)


def _wait_for_process(
    directory: Path, stage: str, parent: subprocess.Popen[bytes]
) -> psutil.Process:
    words = stage.split()
    while parent.poll() is None:
        for process in psutil.process_iter(["cwd", "cmdline"]):
            arguments = process.info["cmdline"] or []
            is_stage = any(
                Path(arguments[k]).name == "esm1b"
                and arguments[k + 1 : k + 1 + len(words)] == words
                for k in range(min(len(arguments), 3))
            )
            if is_stage and process.info["cwd"] == str(directory):
                return process
        time.sleep(0.01)
    raise AssertionError(f"the workflow ended before {stage} was seen")


def _wait_for_file(path: Path) -> None:
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


def _files(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
