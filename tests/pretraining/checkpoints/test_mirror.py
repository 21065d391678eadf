import hashlib
import json
import logging
import multiprocessing
import random
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem

from esm1b.config import PretrainingConfig
from esm1b.errors import Stopped, UserError
from esm1b.pretraining.checkpoints import mirror as mirror_module
from esm1b.pretraining.checkpoints.files import (
    StoredState,
    checkpoint_path,
    read_state,
    saved_checkpoints,
    write_file,
    write_state,
)
from esm1b.pretraining.checkpoints.mirror import Mirror, mirrored
from esm1b.pretraining.checkpoints.saver import remove_old
from esm1b.pretraining.distributed.place import Place

RECIPE = PretrainingConfig(checkpoints_kept=2, milestone_interval=30)
RUN = {"tokens": "5f3a", "seed": 1}


class Flaky(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Files in memory, with something to do before a file is opened or a folder listed."""

    protocol = "flaky"
    store: dict[str, Any] = {}  # noqa: RUF012 (fsspec's way)
    pseudo_dirs = [""]  # noqa: RUF012
    failing: Callable[[str, str], None] = staticmethod(lambda path, mode: None)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        stripped: str = super()._strip_protocol(path.removeprefix("flaky://"))
        return stripped

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        type(self).failing(path, mode)
        return super()._open(path, mode, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        type(self).failing(path, "ls")
        return super().ls(path, detail, **options)


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(Flaky, "store", {})
    monkeypatch.setattr(Flaky, "pseudo_dirs", [""])
    monkeypatch.setattr(mirror_module, "_POLL_SECONDS", 0.005)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    folder = tmp_path / "bare"
    folder.mkdir()
    return folder


def save(directory: Path, updates: int, *, numbers: int = 40) -> Path:
    """Save a checkpoint that depends on its number alone, and the records of the run so far."""
    unfinished = directory / f".update-{updates:08d}.partial"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    files = {}
    for part in ("weights", "first_moments"):
        name = f"{part}-00001-of-00001.safetensors"
        generator = torch.Generator().manual_seed(updates)
        tensors = {"w": torch.rand(numbers, generator=generator)}
        files[name] = write_file(unfinished / name, part, tensors)
    facts: dict[str, Any] = {"updates": updates, "adam_steps": updates, "run": RUN}
    state = StoredState(**facts, scaler=None, skipped=[], versions={}, files=files)
    write_state(unfinished, state)
    for log in ("metrics.jsonl", "attempts.jsonl"):
        with (directory / log).open("a") as file:
            file.write(json.dumps({"update": updates, "attempt": 1}) + "\n")
    (directory / "run.json").write_text(json.dumps(RUN))
    return unfinished.rename(checkpoint_path(directory, updates))


def copied(
    directory: Path, url: str = "flaky://mirror", recipe: PretrainingConfig = RECIPE
) -> None:
    """Copy what is in the directory."""
    mirror = Mirror(url, directory, recipe)
    mirror.start()
    mirror.finish()


def restored(directory: Path, url: str = "flaky://mirror") -> list[int]:
    """Restore the directory and return its checkpoints."""
    Mirror(url, directory, RECIPE).restore(RUN)
    return list(saved_checkpoints(directory))


def on_mirror(root: str = "/mirror") -> list[int]:
    names = [path.rpartition("-")[2] for path in Flaky().ls(root, detail=False)]
    return sorted(map(int, names))


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def fail(monkeypatch: pytest.MonkeyPatch, words: str, error: Exception) -> None:
    """Let what is done with files or folders whose path and mode hold `words` fail."""

    def failing(path: str, mode: str) -> None:
        if words in f"{path} {mode}":
            raise error

    monkeypatch.setattr(Flaky, "failing", staticmethod(failing))


def test_a_bare_machine_resumes_from_the_newest(directory: Path, bare: Path) -> None:
    save(directory, 10)
    newest = save(directory, 20)
    copied(directory)
    assert restored(bare) == [20]
    assert content(checkpoint_path(bare, 20)) == content(newest)
    assert read_state(checkpoint_path(bare, 20)).updates == 20
    for log in ("metrics.jsonl", "attempts.jsonl"):
        assert (bare / log).read_bytes() == (directory / log).read_bytes()
    assert sorted(path.name for path in bare.iterdir()) == [
        *("attempts.jsonl", "metrics.jsonl", "update-00000020")
    ]


def test_the_files_there_are_those_of_the_checkpoint_and_the_records(directory: Path) -> None:
    save(directory, 10)
    copied(directory)
    names = sorted(path.rpartition("/")[2] for path in Flaky().find("/mirror/update-00000010"))
    assert names == [
        *("attempts.jsonl", "first_moments-00001-of-00001.safetensors", "metrics.jsonl"),
        *("run.json", "state.json", "weights-00001-of-00001.safetensors"),
    ]


def test_the_newest_and_milestones_stay_there_too(directory: Path) -> None:
    for updates in (10, 30, 40, 50, 60, 70):
        save(directory, updates)
        remove_old(directory, keep=2, every=30)
        copied(directory)
    assert list(saved_checkpoints(directory)) == on_mirror() == [30, 60, 70]


def test_milestones_that_were_overtaken_follow(directory: Path) -> None:
    for updates in (30, 40, 50, 60, 70):
        save(directory, updates)
    copied(directory)
    assert on_mirror() == [30, 60, 70]


def test_what_an_interrupted_copy_left_goes_with_the_next(directory: Path) -> None:
    Flaky().pipe_file("/mirror/update-00000005/weights-00001-of-00001.safetensors", b"half")
    Flaky().pipe_file("/mirror/notes/mine.txt", b"not ours")
    save(directory, 10)
    copied(directory)
    found = sorted(path.rpartition("/")[2] for path in Flaky().ls("/mirror", detail=False))
    assert found == ["notes", "update-00000010"]


def test_a_slow_mirror_gets_whole_checkpoints_and_leaves_out_what_was_overtaken(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started, go_on = threading.Event(), threading.Event()

    def wait(path: str, mode: str) -> None:
        if "update-00000010/weights" in path:
            started.set()
            assert go_on.wait(10)

    monkeypatch.setattr(Flaky, "failing", staticmethod(wait))
    save(directory, 10)
    mirror = Mirror("flaky://mirror", directory, RECIPE)
    mirror.start()
    assert started.wait(10)
    for updates in (20, 40, 50):
        save(directory, updates)
        remove_old(directory, keep=1, every=None)
    assert list(saved_checkpoints(directory)) == [50]
    go_on.set()
    mirror.finish()
    assert on_mirror() == [10, 50]
    assert caplog.messages == []


def flipped(content: bytes) -> bytes:
    """Return a file with another bit in the last byte that is no white space."""
    place = len(content.rstrip()) - 1
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


DAMAGES: dict[str, Callable[[str], None]] = {
    "bit flip": lambda path: Flaky().pipe_file(path, flipped(Flaky().cat_file(path))),
    "truncation": lambda path: Flaky().pipe_file(path, Flaky().cat_file(path)[:-5]),
    "deletion": lambda path: Flaky().rm_file(path),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["weights-00001-of-00001.safetensors", "state.json"])
def test_a_damaged_one_falls_back_to_the_one_before(
    directory: Path, bare: Path, file: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for updates in (10, 20):
        save(directory, updates)
        copied(directory)
    DAMAGES[damage](f"/mirror/update-00000020/{file}")
    assert restored(bare) == [10]
    if (file, damage) == ("state.json", "deletion"):  # a copy that was cut short
        assert caplog.messages == []
        return
    (message,) = caplog.messages
    assert message.startswith(
        "flaky://mirror/update-00000020: damaged, so the checkpoint before it is tried: "
    )


@pytest.mark.parametrize("change", ["updates", "names"])
def test_a_state_of_another_checkpoint_writes_nothing_elsewhere(
    directory: Path, bare: Path, change: str
) -> None:
    save(directory, 10)
    other = read_state(save(directory, 20))
    if change == "names":
        files = {f"../{name}": stored for name, stored in other.files.items()}
        other = other.model_copy(update={"updates": 10, "files": files})
    write_state(directory, other)
    copied(directory)
    Flaky().rm("/mirror/update-00000020", recursive=True)
    Flaky().pipe_file("/mirror/update-00000010/state.json", (directory / "state.json").read_bytes())
    with pytest.raises(UserError, match="holds damaged checkpoints only"):
        restored(bare)
    assert [path.name for path in bare.iterdir()] == [".update-00000010.partial"]


def test_damaged_ones_only_are_refused(directory: Path, bare: Path) -> None:
    save(directory, 10)
    copied(directory)
    DAMAGES["deletion"]("/mirror/update-00000010/weights-00001-of-00001.safetensors")
    with pytest.raises(UserError) as caught:
        restored(bare)
    assert str(caught.value) == (
        "--mirror flaky://mirror: holds damaged checkpoints only; expected one to restore, as "
        f"{bare} has no checkpoint, or no --mirror to start from the beginning"
    )


def test_an_empty_mirror_is_told(bare: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert restored(bare) == []
    assert caplog.messages == [
        "flaky://mirror: holds no checkpoint; the run starts from the beginning"
    ]


def test_a_mirror_out_of_reach_is_refused_where_nothing_else_is_there(
    directory: Path,
    bare: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fail(monkeypatch, " ls", ConnectionError("no route to host"))
    with pytest.raises(
        UserError, match="cannot be read: no route to host; expected one to restore"
    ):
        restored(bare)
    save(directory, 10)
    assert restored(directory) == [10]
    assert caplog.messages == [
        "flaky://mirror: cannot be read: no route to host; the run resumes from update 10"
    ]


def test_a_failing_mirror_is_told_and_tried_again_at_the_next_checkpoint(
    directory: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fail(monkeypatch, "wb", OSError(28, "No space left on device"))
    mirror = Mirror("flaky://mirror", directory, RECIPE)
    save(directory, 10)
    mirror.start()
    _wait_for(lambda: len(caplog.messages) == 1)
    time.sleep(0.05)
    save(directory, 20)
    _wait_for(lambda: len(caplog.messages) == 2)
    monkeypatch.undo()
    mirror.finish()
    assert caplog.messages == [
        f"flaky://mirror: stale: update {updates} is not copied: No space left on device; "
        "training continues"
        for updates in (10, 20)
    ]


def test_a_checkpoint_that_is_damaged_here_is_not_copied(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = save(directory, 10) / "weights-00001-of-00001.safetensors"
    path.write_bytes(flipped(path.read_bytes()))
    copied(directory)
    assert not Flaky().exists("/mirror/update-00000010/state.json")
    assert caplog.messages == [
        f"flaky://mirror: stale: update 10 is not copied: {path}: its SHA-256 is not the one in "
        "state.json; training continues"
    ]


@pytest.mark.parametrize(
    ("limit", "end"), [("_LONGEST_PAUSE_SECONDS", None), ("_SECONDS_AFTER_STOP", Stopped)]
)
def test_a_mirror_that_hangs_does_not_hold_the_end(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    limit: str,
    end: type[Exception] | None,
) -> None:
    monkeypatch.setattr(mirror_module, limit, 0.2)
    url = f"flaky://{limit}"  # of its own: the copy goes on after the test
    save(directory, 10)
    go_on = threading.Event()
    with (
        suppress(Stopped),
        mirrored(url, directory, RECIPE, RUN, Place()),
    ):
        caplog.clear()
        monkeypatch.setattr(Flaky, "failing", staticmethod(lambda path, mode: go_on.wait(20)))
        save(directory, 20)
        if end is not None:
            raise end("saved")
    assert caplog.messages == [
        f"{url}: stale: the last copy took too long; the next start makes it"
    ]
    go_on.set()


def test_a_mirror_behind_the_directory_is_told(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(directory, 10)
    copied(directory)
    save(directory, 20)
    with caplog.at_level(logging.INFO):
        assert restored(directory) == [10, 20]
    assert caplog.messages == [
        "flaky://mirror: stale: its newest checkpoint is of update 10, here of 20, which is copied"
    ]


def test_a_directory_behind_the_mirror_is_brought_up(directory: Path, bare: Path) -> None:
    save(directory, 10)
    shutil.copytree(directory, bare, dirs_exist_ok=True)
    with (bare / "metrics.jsonl").open("a") as file:
        file.write('{"update": 12, "attempt": 1}\n{"upd')
    save(directory, 20)
    copied(directory)
    assert restored(bare) == [10, 20]
    assert (bare / "metrics.jsonl").read_text().splitlines() == [
        '{"update": 10, "attempt": 1}',
        '{"update": 12, "attempt": 1}',
        '{"upd',
        '{"update": 20, "attempt": 1}',
    ]


def test_the_mirror_of_another_run_is_refused(directory: Path, bare: Path) -> None:
    save(directory, 10)
    copied(directory)
    for folder in (directory, bare):
        with pytest.raises(UserError) as caught:
            Mirror("flaky://mirror", folder, RECIPE).restore(RUN | {"seed": 2})
        assert str(caught.value) == (
            "flaky://mirror: holds checkpoints of another run: seed was 1 and is 2; expected the "
            "same data and recipe, or another directory"
        )
    assert not saved_checkpoints(bare)


def test_what_is_no_mirror_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    with pytest.raises(UserError, match=r"^--mirror nfs://a: Protocol not known: nfs; expected "):
        Mirror("nfs://a", directory, RECIPE)
    with pytest.raises(UserError, match=r"is the checkpoint directory; expected another one$"):
        Mirror(f"file://{directory}", directory, RECIPE)
    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(UserError) as caught:
        Mirror("s3://bucket/run", directory, RECIPE)
    assert str(caught.value) == (
        "--mirror s3://bucket/run: Install s3fs to access S3; expected file:///DIR, "
        "s3://BUCKET/DIR (pip install 'esm1b[s3]'), or another URL of fsspec with its package "
        "installed"
    )


@pytest.mark.parametrize("end", [None, Stopped("saved"), ValueError("failed")])
def test_a_block_that_ends_well_or_on_request_waits_for_the_last_copy(
    directory: Path, monkeypatch: pytest.MonkeyPatch, end: Exception | None
) -> None:
    monkeypatch.setattr(mirror_module, "_POLL_SECONDS", 60.0)
    with (
        suppress(Stopped, ValueError),
        mirrored("flaky://mirror", directory, RECIPE, RUN, Place()),
    ):
        save(directory, 10)
        if end is not None:
            raise end
    assert Flaky().exists("/mirror/update-00000010/state.json") == (type(end) is not ValueError)


class SlowFile:
    """A file that gives its content in small blocks."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int) -> bytes:
        time.sleep(0.0003)
        return self._file.read(4096)


class SlowMirror(Mirror):
    """A mirror whose copies take about as long as it is from one checkpoint to the next."""

    def _copy(self, source: Any, target: IO[bytes]) -> tuple[int, str]:
        return super()._copy(cast(IO[bytes], SlowFile(source)), target)


def train(directory: Path, url: str, first: int) -> None:
    """Save and copy checkpoints until somebody kills this process."""
    vars(mirror_module).update(_POLL_SECONDS=0.0)
    SlowMirror(url, directory, RECIPE).start()
    for updates in range(first, first + 10_000):
        save(directory, updates, numbers=20_000)
        remove_old(directory, keep=2, every=None)
        time.sleep(0.01)


@pytest.mark.parametrize("rounds", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_the_newest_whole_one(
    directory: Path, tmp_path: Path, rounds: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(rounds)
    root, url = tmp_path / "mirror", f"file://{tmp_path}/mirror"
    context = multiprocessing.get_context("fork")
    before, cut_short = 0, 0
    for number in range(rounds):
        newest = max(saved_checkpoints(directory), default=0)
        process = context.Process(target=train, args=(directory, url, newest + 1))
        process.start()
        _wait_for(partial(_has_newer, root, before))
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.join()
        whole = _whole(root)
        cut_short += len(list(root.iterdir())) - len(whole)
        before = max(whole)
        bare = tmp_path / f"bare{number}"
        bare.mkdir()
        assert restored(bare, url) == [before]
        assert read_state(checkpoint_path(bare, before)).updates == before
        shutil.rmtree(bare)
    assert cut_short > 0
    assert [text for text in caplog.messages if "damaged" in text] == []


def _has_newer(root: Path, updates: int) -> bool:
    found = root.glob("update-*/state.json")
    return max((int(path.parent.name[-8:]) for path in found), default=0) > updates


def _whole(root: Path) -> list[int]:
    """Return the checkpoints of a mirror whose files all have the digests in `state.json`."""
    found = []
    for path in root.glob("update-*/state.json"):
        state = json.loads(path.read_text())["state"]
        digests = {
            name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest()
            for name in state["files"]
            if (path.parent / name).exists()
        }
        if digests == {name: stored["sha256"] for name, stored in state["files"].items()}:
            found.append(state["updates"])
    return found


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
