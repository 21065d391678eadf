import errno
import fcntl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from esm1b.config import parse_config
from esm1b.errors import UserError
from esm1b.pretraining.checkpoints.run_identity import (
    check_fingerprint,
    directory_lock,
    recorded_fingerprint,
    run_fingerprint,
)

HOLD = """
import sys, time
from pathlib import Path
from esm1b.pretraining.checkpoints.run_identity import directory_lock
with directory_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def test_a_fingerprint_has_the_keys_that_it_has_always_had() -> None:
    plain = run_fingerprint(parse_config({}, origin="run"), "tokens")
    assert list(plain) == [
        *("tokens", "seed", "masked_share"),
        *("model.layers", "model.width", "model.heads", "model.feed_forward"),
        *("model.maximum_tokens", "model.rare_residues"),
        *("pretraining.tokens_per_update", "pretraining.crop_residues", "pretraining.append_eos"),
        *("pretraining.learning_rate", "pretraining.warmup_updates", "pretraining.adam_betas"),
        *("pretraining.adam_epsilon", "pretraining.weight_decay", "pretraining.gradient_clipping"),
        *("pretraining.precision", "pretraining.init_from"),
    ]
    chosen = {
        "model": {"positions": "rotary"},
        "pretraining": {"learning_rate_decay": "linear", "updates": 500},
    }
    assert run_fingerprint(parse_config(chosen, origin="run"), "tokens") == plain | {
        "model.positions": "rotary",
        "pretraining.learning_rate_decay": "linear",
        "pretraining.updates": 500,  # on which the rate of every update then depends
    }


def test_another_run_is_refused(tmp_path: Path) -> None:
    run = {"seed": 1, "model.width": 64, "pretraining.adam_betas": [0.9, 0.999]}
    assert recorded_fingerprint(tmp_path) is None
    check_fingerprint(tmp_path, run)
    assert recorded_fingerprint(tmp_path) == run
    check_fingerprint(tmp_path, dict(reversed(run.items())))
    (tmp_path / "update-00000020").mkdir()
    with pytest.raises(UserError) as caught:
        check_fingerprint(tmp_path, run | {"model.width": 32, "seed": 2})
    assert str(caught.value) == (
        f"{tmp_path}: holds checkpoints of another run: model.width was 64 and is 32; "
        "seed was 1 and is 2; expected the same data and recipe, or another directory"
    )
    with pytest.raises(UserError, match=r"model\.heads was None and is 4"):
        check_fingerprint(tmp_path, run | {"model.heads": 4})
    check_fingerprint(tmp_path, run)


@pytest.mark.parametrize(
    "left",
    [
        *("update-00000020", "damaged-update-00000020", "milestones", "metrics.jsonl"),
        "attempts.jsonl",
    ],
)
def test_a_recipe_is_free_to_change_until_the_run_begins(tmp_path: Path, left: str) -> None:
    check_fingerprint(tmp_path, {"pretraining.precision": "fp16"})
    check_fingerprint(tmp_path, {"pretraining.precision": "bf16"})
    assert recorded_fingerprint(tmp_path) == {"pretraining.precision": "bf16"}
    (tmp_path / left).mkdir()
    with pytest.raises(UserError, match=r"pretraining\.precision was 'bf16' and is 'fp32'"):
        check_fingerprint(tmp_path, {"pretraining.precision": "fp32"})


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(UserError, match=r"run\.json: list; expected an object of keys"):
        check_fingerprint(tmp_path, {})


def holder(directory: Path, seconds: float) -> "subprocess.Popen[str]":
    """Return a process that holds the lock by now."""
    command = [sys.executable, "-c", HOLD, str(directory), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_and_told_by_whom(tmp_path: Path) -> None:
    process = holder(tmp_path, 60)
    try:
        with (
            pytest.raises(UserError, match=rf"training here \(process {process.pid} on .+\)"),
            directory_lock(tmp_path, patience_seconds=0.5),
        ):
            pytest.fail("two hold the lock")
    finally:
        process.kill()
        process.wait()
    # the lock went with the process; what it wrote into the file does not matter
    with directory_lock(tmp_path, patience_seconds=0):
        assert (tmp_path / "lock").read_text().startswith("process ")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with directory_lock(tmp_path):
        assert (tmp_path / "lock").read_text().startswith("process ")
    assert caplog.messages == [
        f"{tmp_path}/lock: this file system has no locks (no locks here), so nothing keeps a "
        "second run away"
    ]


def test_a_run_waits_for_one_that_is_about_to_end(tmp_path: Path) -> None:
    process = holder(tmp_path, 0.7)
    started = time.monotonic()
    with directory_lock(tmp_path, patience_seconds=30):
        assert time.monotonic() - started > 0.3
    assert process.wait() == 0
