"""What a run can be asked for besides training, and what it does when updates go wrong."""

import json
import platform
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from esm1b.pretraining.attempt_log import read_attempts
from esm1b.pretraining.checkpoints.files import read_state
from tests.pretraining import run_patches
from tests.pretraining.fork_server import ForkServer, LaunchedRun
from tests.pretraining.runs import Run

RECIPE = {
    "updates": 12,
    "tokens_per_update": 1000,
    "crop_residues": 100,
    "learning_rate": 0.005,
    "warmup_updates": 4,
    "log_interval": 1,
    "validation_interval": 6,
    "validation_sequences": 10,
    "checkpoint_interval": 4,
}
CONFIGURATION = {
    "run": "options",
    "seed": 2,
    "model": {"layers": 1, "width": 16, "heads": 2, "feed_forward": 24, "maximum_tokens": 102},
    "pretraining": RECIPE,
}


@pytest.fixture
def run(server: ForkServer, tmp_path: Path, tokens_directory: Path) -> Run:
    return Run(server, tmp_path, tokens_directory, CONFIGURATION)


def last_line(run: LaunchedRun, rank: int = 0) -> str:
    return (run.folder / f"rank-{rank}.err").read_text().splitlines()[-1]


def test_a_time_budget_saves_and_stops(run: Run) -> None:
    statuses, started = run.start("--stop-after=3s", updates=100_000)
    assert statuses == [75]
    updates = run.metrics()[-1]["update"]
    assert last_line(started) == (
        f"esm1b: stopped: saved after update {updates} of 100000 (its time is up); run the "
        "same command to resume"
    )
    assert (run.checkpoints / f"update-{updates:08d}").is_dir()
    assert not run.model.exists()
    assert read_attempts(run.checkpoints / "attempts.jsonl")[-1]["event"] == "stopped"


def test_updates_go_on_while_files_are_written_and_a_late_save_follows(run: Run) -> None:
    statuses, _ = run.start(processes=2, patch=run_patches.writing_takes_three_updates)
    assert statuses == [0, 0]
    late, last = run.saved()
    # that of update 4 counts after 8 at the earliest, so that the one due at 8 begins later, or not
    # at all where the disk is slower than the last updates
    assert int(late.removeprefix("update-")) in (4, 9, 10, 11)
    assert last == "update-00000012"


def test_a_clock_saves_besides_the_interval(run: Run) -> None:
    statuses, _ = run.start("--save-minutes=0.00001", checkpoint_interval=1000)
    assert statuses == [0]
    by_the_clock, last = run.saved()
    assert by_the_clock < last == "update-00000012"
    state = read_state(run.checkpoints / by_the_clock)
    assert state.adam_steps == state.updates


def test_the_end_of_the_job_saves_and_stops_without_a_flag(run: Run) -> None:
    job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_END_TIME": str(int(time.time()) + 4)}
    statuses, started = run.start(environment=job, updates=100_000)
    assert statuses == [75]
    assert re.search(r" of 100000 \(its job ends in \d s\); run the same", last_line(started))
    first, *_, last = read_attempts(run.checkpoints / "attempts.jsonl")
    assert (first["job"], first["nodes"]) == ("SLURM job 4711", [platform.node()])
    assert last["event"] == "stopped"
    assert last["message"] in (run.checkpoints / "log.txt").read_text()
    assert (run.checkpoints / "lock").read_text().startswith("SLURM job 4711, process ")


def test_nodes_that_differ_end_with_2_before_anything_is_there(run: Run) -> None:
    statuses, started = run.start(processes=3, patch=run_patches.two_nodes_differ)
    assert statuses == [2, 2, 2]
    assert [line for line in started.errors().splitlines() if "error:" in line] == [
        "esm1b: error: n3 (rank 2): package source 000000000000, others 123456789abc; n2 (rank 1): "
        f"torch 2.12.0, others {torch.__version__}"
    ]
    assert list(run.checkpoints.iterdir()) == []


def test_who_died_is_recorded(run: Run) -> None:
    statuses, _ = run.start(processes=2, patch=run_patches.the_last_is_killed)
    assert statuses == [1, -9]
    started, *_, last = read_attempts(run.checkpoints / "attempts.jsonl")
    assert started["event"] == "started"
    host = platform.node()
    told = f"rank 1 on {host} died"
    assert (last["event"], last["message"], last["ranks"]) == ("lost", told, [1])
    assert told in (run.checkpoints / "log.txt").read_text()


def test_the_records_of_a_finished_run_are_copied(run: Run) -> None:
    records = run.folder / "results" / "training"
    assert run.start(f"--records={records}", updates=4)[0] == [0]
    assert sorted(path.name for path in records.iterdir()) == [
        "attempts.jsonl",
        "metrics.jsonl",
        "run.json",
        "state.json",
    ]
    for name in ("attempts.jsonl", "metrics.jsonl", "run.json", "update-00000004/state.json"):
        original = run.checkpoints / name
        assert (records / original.name).read_bytes() == original.read_bytes()
    started, finished = read_attempts(records / "attempts.jsonl")
    assert (started["update"], started["updates"], finished["event"]) == (0, 4, "finished")
    assert run.start(f"--records={records}", updates=8)[0] == [0]
    assert len(read_attempts(records / "attempts.jsonl")) == 4


def test_milestones_stay_with_a_model_each(run: Run) -> None:
    statuses, started = run.start(milestone_interval=5, checkpoints_kept=2)
    assert statuses == [0], started.errors()
    kept = sorted(path.name for path in run.checkpoints.glob("update-*"))
    assert kept == [f"update-{number:08d}" for number in (5, 10, 12)]
    milestones = sorted(path.name for path in (run.checkpoints / "milestones").iterdir())
    assert milestones == ["update-00000005", "update-00000010"]
    details = json.loads(
        (run.checkpoints / "milestones" / milestones[0] / "esm1b.json").read_text()
    )
    assert details["updates"] == 5


def test_a_milestone_whose_model_is_missing_gets_it_later(run: Run) -> None:
    assert run.start(milestone_interval=5, updates=5)[0] == [0]
    milestone = run.checkpoints / "milestones" / "update-00000005"
    weights = (milestone / "model.safetensors").read_bytes()
    shutil.rmtree(milestone)
    assert run.start(milestone_interval=5)[0] == [0]
    assert (milestone / "model.safetensors").read_bytes() == weights


def test_an_error_of_one_process_is_told_and_ends_all(run: Run) -> None:
    statuses, started = run.start(
        processes=2,
        patch=run_patches.the_last_has_no_weights,
        init_from="model",
    )
    assert statuses == [2, 2]
    told = [line for line in started.errors().splitlines() if line.startswith("esm1b: error:")]
    assert told == ["esm1b: error: model: not on this node"]


def test_too_little_memory_is_told_in_a_line_and_another_layout_may_try(run: Run) -> None:
    for _ in range(2):
        statuses, started = run.start(patch=run_patches.memory_runs_out)
        assert statuses == [1]
        assert last_line(started) == (
            f"esm1b: error: rank 0 on {platform.node()}: CUDA out of memory. Tried to allocate "
            "2.00 GiB. Expected fewer --micro-batch-tokens, --activation-checkpointing, or a "
            "higher --zero-stage on several GPUs"
        )
        assert "Traceback" not in started.errors()
    statuses, started = run.start()
    assert statuses == [78]
    assert last_line(started).startswith(
        "esm1b: error: stopped for good: 2 attempts from update 0 failed"
    )
    assert run.start("--micro-batch-tokens=350")[0] == [0]


def test_too_little_memory_of_one_process_is_told_and_ends_all(run: Run) -> None:
    statuses, started = run.start(processes=2, patch=run_patches.memory_of_the_last_runs_out)
    assert statuses == [1, 1]
    out_of_memory = f"rank 1 on {platform.node()}: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert out_of_memory in (started.folder / "rank-1.err").read_text()
    assert f"rank 1 on {platform.node()} failed" in (started.folder / "rank-0.err").read_text()
    last = read_attempts(run.checkpoints / "attempts.jsonl")[-1]
    assert last["event"] == "failed"
    assert "CUDA out of memory" in last["message"]


def test_it_starts_from_the_weights_of_a_model(run: Run) -> None:
    assert run.start()[0] == [0]
    other = run.beside("other")
    statuses, started = other.start(init_from=str(run.model), learning_rate=1e-12)
    assert statuses == [0], started.errors()
    first, second = (load_file(r.model / "model.safetensors") for r in (run, other))
    for name, tensor in first.items():
        assert (tensor - second[name]).abs().max() < 1e-9, name
    assert other.metrics()[0]["loss"] < run.metrics()[0]["loss"] - 0.05


def test_weights_of_another_shape_are_refused(run: Run) -> None:
    assert run.start(updates=1)[0] == [0]
    other = run.beside("other")
    shutil.copytree(run.model, other.folder / "model-16")
    path = other.folder / "model-16" / "config.json"
    path.write_text(path.read_text().replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    statuses, started = other.start(init_from=str(path.parent))
    assert statuses == [2]
    assert last_line(started).startswith("esm1b: error: ")
    assert "model-16" in last_line(started)


def test_damaged_tokens_are_found_when_asked(run: Run) -> None:
    shutil.copytree(run.tokens, run.folder / "tokens")
    run.tokens = run.folder / "tokens"
    path = next((run.tokens / "train").iterdir())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    statuses, started = run.start("--verify")
    assert statuses == [2]
    assert str(path) in last_line(started)


def test_batches_do_not_depend_on_how_they_are_loaded(run: Run) -> None:
    assert run.start("--loader-workers=0")[0] == [0]
    other = run.beside("other")
    assert other.start("--preload", "--loader-workers=3", "--micro-batch-tokens=auto")[0] == [0]
    assert [line["loss"] for line in other.metrics()] == [line["loss"] for line in run.metrics()]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--micro-batch-tokens=many", "--micro-batch-tokens: 'many'; expected a number of tokens"),
        ("--micro-batch-tokens=0", "--micro-batch-tokens: '0'; expected a number of tokens"),
        ("--stop-after=soon", "--stop-after: 'soon'; expected a duration such as 23h30m"),
        ("--save-minutes=0", "--save-minutes: 0; expected more than 0 minutes"),
        ("--deepspeed=missing.json", "missing.json: No such file or directory"),
        ("--compile", "--compile: on cpu in fp32"),
    ],
)
def test_wrong_options_are_told(run: Run, option: str, message: str) -> None:
    statuses, started = run.start(option)
    assert statuses == [2]
    assert last_line(started).startswith(f"esm1b: error: {message}")


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("checkpoints", "file", "is a file; expected a directory"),
        ("output", "file/model", "cannot be created in {0}/file: Not a directory; expected a"),
    ],
)
def test_a_path_that_cannot_be_written_is_told_first(
    run: Run, option: str, name: str, message: str
) -> None:
    (run.folder / "file").touch()
    statuses, started = run.start(f"--{option}={run.folder / name}")
    assert statuses == [2]
    said = f"esm1b: error: {run.folder / name}: {message.format(run.folder)}"
    assert last_line(started).startswith(said)
    assert not run.checkpoints.exists()


def test_bf16_needs_a_zero_stage(run: Run) -> None:
    statuses, started = run.start("--zero-stage=0", precision="bf16")
    assert statuses == [2]
    assert last_line(started).startswith("esm1b: error: --zero-stage 0: with")


def test_an_update_that_is_not_finite_is_skipped_and_recorded(run: Run) -> None:
    statuses, started = run.start(
        "--micro-batch-tokens=300",
        processes=2,
        patch=run_patches.one_loss_is_infinite,
    )
    assert statuses == [0, 0], started.errors()
    lines = run.metrics()
    assert lines[4]["loss"] is None
    assert lines[4]["gradient_norm"] is None
    assert [line["skipped"] for line in lines] == [0] * 4 + [1] * 8
    assert lines[-1]["loss"] < lines[0]["loss"]
    state = read_state(run.checkpoints / "update-00000012")
    (skipped,) = state.skipped
    assert skipped.update == 5
    assert state.adam_steps == 11
    named = " ".join(map(str, skipped.sequences[:10]))
    told = [line for line in started.errors().splitlines() if "is not finite" in line]
    assert len(told) == 1
    assert f"it held {len(skipped.sequences)} sequences: {named}" in told[0]


def test_a_run_that_only_skips_ends(run: Run) -> None:
    statuses, started = run.start(patch=run_patches.every_loss_is_infinite, updates=200)
    assert statuses == [1]
    assert last_line(started) == (
        "esm1b: error: the gradients of the 51 updates up to 51 are not finite"
    )


def test_a_spike_is_logged_or_stops_the_run(run: Run) -> None:
    statuses, started = run.start(patch=run_patches.one_loss_is_large, updates=30)
    assert statuses == [0], started.errors()
    told = [line for line in started.errors().splitlines() if "far above" in line]
    assert len(told) == 1
    assert "update 25: its loss of " in told[0]
    other = run.beside("other")
    # the losses before the last checkpoint count after a restart too
    assert other.start(updates=24)[0] == [0]
    shutil.rmtree(other.model)
    statuses, started = other.start(
        patch=run_patches.one_loss_is_large, updates=30, stop_at_loss_spike=True
    )
    assert statuses == [1]
    assert last_line(started).endswith("and pretraining.stop_at_loss_spike is set")


def test_two_failures_at_one_place_stop_for_good(run: Run) -> None:
    for _ in range(2):
        statuses, started = run.start(patch=run_patches.the_third_fails)
        assert statuses == [1]
        assert "ValueError: the third update fails" in started.errors()
    statuses, started = run.start()
    assert statuses == [78]
    assert last_line(started) == (
        "esm1b: error: stopped for good: 2 attempts from update 0 failed, the last "
        "with 'ValueError: the third update fails'; remove "
        f"{run.checkpoints}/attempts.jsonl to try again"
    )
    (run.checkpoints / "attempts.jsonl").unlink()
    assert run.start()[0] == [0]
