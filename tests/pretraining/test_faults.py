"""Runs that are killed, stopped and robbed at random end as the one that nothing disturbed.

Some rounds of the campaign in `faults`; more of them by `python -m tests.pretraining.faults`.
"""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.pretraining.faults.campaign import Round, prepare, run_rounds
from tests.pretraining.faults.damage import damage
from tests.pretraining.faults.kinds import KINDS
from tests.pretraining.faults.trial import UPDATES, Deviation, Expected, Subject, Trial
from tests.pretraining.fork_server import ForkServer

QUICK = ("kill one", "kill during a save", "damage", "full disk", "SIGTERM")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def prepared(server: ForkServer, folder: Path, tokens_directory: Path) -> tuple[Subject, Expected]:
    return prepare(server, folder, tokens_directory, processes=2, zero_stage=1)


def test_the_undisturbed_run_learns(prepared: tuple[Subject, Expected]) -> None:
    _, expected = prepared
    assert len(expected.losses) == UPDATES
    assert sum(expected.losses[-5:]) < sum(expected.losses[:5]) - 5 * 0.1


def test_a_round_of_each_quick_kind(prepared: tuple[Subject, Expected], folder: Path) -> None:
    rounds = run_rounds(*prepared, folder / "quick", rounds=len(QUICK), seed=1, kinds=QUICK)
    assert Counter(round_.kind for round_ in rounds) == dict.fromkeys(QUICK, 1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thirty_rounds_of_all_kinds(prepared: tuple[Subject, Expected], folder: Path) -> None:
    done: list[Round] = []
    run_rounds(*prepared, folder / "slow", rounds=30, seed=2, report=done.append)
    assert len(done) == 30
    assert {round_.kind for round_ in done} == set(KINDS)


def test_a_checkpoint_that_counts_and_is_not_whole_is_a_deviation(
    prepared: tuple[Subject, Expected], tmp_path: Path
) -> None:
    """The campaign would notice."""
    subject, expected = prepared
    trial = Trial(subject, tmp_path / "trial", expected)
    half = trial.checkpoints / "update-00000005"
    half.mkdir(parents=True)
    (half / "state.json").write_text("{}")
    assert (trial.newest(), trial.latest()) == (0, 5)
    with pytest.raises(Deviation, match="update-00000005: counts as a checkpoint and is not whole"):
        trial.check()


def test_another_loss_and_an_unprovoked_failure_are_deviations(
    prepared: tuple[Subject, Expected], tmp_path: Path
) -> None:
    subject, expected = prepared
    trial = Trial(subject, tmp_path / "trial", expected)
    trial.checkpoints.mkdir()
    line = {"update": 2, "attempt": 1, "loss": expected.losses[1]}
    metrics = trial.checkpoints / "metrics.jsonl"
    metrics.write_text(json.dumps(line) + "\n")
    trial.check()
    metrics.write_text(json.dumps({**line, "loss": expected.losses[1] + 1e-7}) + "\n")
    with pytest.raises(Deviation, match="update 2: loss"):
        trial.check()
    metrics.unlink()
    (trial.checkpoints / "attempts.jsonl").write_text(
        json.dumps({"attempt": 1, "event": "failed", "message": "why"}) + "\n"
    )
    with pytest.raises(Deviation, match=r"failures \{1: 'why'\}; expected 0"):
        trial.check()
    trial.failure_is_provoked()
    trial.check()


@pytest.mark.parametrize("seed", range(12))
def test_damage_changes_what_a_file_says(tmp_path: Path, seed: int) -> None:
    (tmp_path / "weights.safetensors").write_bytes(bytes(range(64)))
    (tmp_path / "state.json").write_text(json.dumps({"state": 1, "sha256": "a"}, indent=2))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    what, _, name = damage(tmp_path, random.Random(seed)).partition(" of ")
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert [file for file in before if after.get(file) != before[file]] == [name]
    if what == "deletion":
        assert name not in after
    elif what == "truncation":
        assert before[name].startswith(after[name])
    else:
        pairs = zip(before[name], after[name], strict=True)
        assert sum((one ^ other).bit_count() for one, other in pairs) == 1
