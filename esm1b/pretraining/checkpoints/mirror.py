"""A mirror of a run's checkpoints, kept up in the background, from which a bare machine resumes.

It is a directory on anything that fsspec reaches. A checkpoint there has the files that it has on
disk and, beside them, the run's records; `state.json` comes last and makes it count.
"""

import hashlib
import logging
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final

import fsspec
from fsspec.implementations.local import LocalFileSystem

from esm1b.config import PretrainingConfig
from esm1b.errors import Stopped, UserError, one_line
from esm1b.files import atomic_file, fsync
from esm1b.pretraining.attempt_log import ATTEMPTS_FILE
from esm1b.pretraining.checkpoints.files import (
    STATE_FILE,
    checkpoint_path,
    read_state,
    saved_checkpoints,
    updates_of,
)
from esm1b.pretraining.checkpoints.run_identity import RUN_FILE, check_same_run
from esm1b.pretraining.checkpoints.saver import kept
from esm1b.pretraining.distributed.collectives import on_first
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.rendezvous import in_thread
from esm1b.pretraining.metrics.metrics_file import METRICS_FILE

_log = logging.getLogger(__name__)

_LOGS: Final = (ATTEMPTS_FILE, METRICS_FILE)
_BLOCK_BYTES: Final = 2**24
_POLL_SECONDS: Final = 2.0
# A last copy that has not moved a block for so long is given up; so is one after a stop, for which
# the scheduler leaves little more time than the save takes.
_LONGEST_PAUSE_SECONDS: Final = 120.0
_SECONDS_AFTER_STOP: Final = 20.0


@contextmanager
def mirrored(
    url: str | None,
    directory: Path,
    recipe: PretrainingConfig,
    fingerprint: Mapping[str, Any],
    place: Place,
) -> Iterator[None]:
    """Restore a run from its mirror, and keep that up during the block. Collective.

    The end waits for the last copy: for seconds after a stop, not at all after a failure. The first
    process does all the work.

    Args:
        url: URL of the mirror; None for a run without one.
        directory: checkpoint directory.
        recipe: rule of which checkpoints are kept, on the mirror too.
        fingerprint: identity of the run, from `run_fingerprint`.
        place: place of this process.

    Raises:
        UserError: see `Mirror` and its `restore`.
    """
    if url is None:
        yield
        return
    opened: list[Mirror] = []
    on_first(lambda: opened.append(Mirror(url, directory, recipe)), place)
    _patiently(lambda: opened[0].restore(fingerprint), place)
    on_first(lambda: opened[0].start(), place)
    try:
        yield
    except Stopped:
        _patiently(lambda: opened[0].finish(_SECONDS_AFTER_STOP), place)
        raise
    _patiently(lambda: opened[0].finish(), place)


def _patiently(action: Callable[[], None], place: Place) -> None:
    """Run `action` in the first process, however long it takes. Collective.

    A collective waits for minutes only, so the others are told again and again to wait.
    """
    outcome = in_thread(action) if place.rank == 0 else Future[None]()
    while not on_first(lambda: bool(wait([outcome], timeout=20).done), place):
        pass
    on_first(outcome.result, place)


class Mirror:
    """Copies checkpoints from a directory to a mirror in a thread, and back at the start.

    The newest checkpoint goes first, then milestones; those that are overtaken meanwhile are left
    out. A failure is only logged; the next checkpoint is another try.

    Raises:
        UserError: no file system of this protocol is installed, or the mirror is the directory.
    """

    def __init__(self, url: str, directory: Path, recipe: PretrainingConfig) -> None:
        try:
            self._files, self._root = fsspec.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(
                f"--mirror {url}: {one_line(error)}; expected file:///DIR, s3://BUCKET/DIR (pip "
                "install 'esm1b[s3]'), or another URL of fsspec with its package installed"
            ) from error
        if isinstance(self._files, LocalFileSystem) and Path(self._root).resolve() == (
            directory.resolve()
        ):
            raise UserError(f"--mirror {url}: is the checkpoint directory; expected another one")
        self._url, self._directory, self._recipe = url, directory, recipe
        self._tried = -1  # newest checkpoint that was copied, or failed to be
        self._moved_at = 0.0
        self._is_ending = threading.Event()

    def restore(self, fingerprint: Mapping[str, Any]) -> None:
        """Fetch the newest whole checkpoint, and the logs, if it is newer than all here.

        Raises:
            UserError: the mirror is of another run; or nothing is here to resume from, and the
                mirror cannot be read or has damaged checkpoints only.
        """
        here = max(saved_checkpoints(self._directory), default=-1)
        problem = "holds no checkpoint"
        try:
            for updates in sorted(self._whole(), reverse=True):
                try:
                    self._fetch(updates, fingerprint, here=here)
                    return
                except _Damage as damage:
                    problem = "holds damaged checkpoints only"
                    _log.warning(
                        "%s: damaged, so the checkpoint before it is tried: %s",
                        *(f"{self._url}/{checkpoint_path(Path(), updates)}", damage),
                    )
        except UserError:
            raise
        except Exception as error:  # whatever the file system raises
            problem = f"cannot be read: {one_line(error)}"
        if here >= 0:
            _log.warning("%s: %s; the run resumes from update %d", self._url, problem, here)
        elif problem == "holds no checkpoint":
            _log.warning("%s: %s; the run starts from the beginning", self._url, problem)
        else:
            raise UserError(
                f"--mirror {self._url}: {problem}; expected one to restore, as {self._directory} "
                "has no checkpoint, or no --mirror to start from the beginning"
            )

    def start(self) -> None:
        """Start copying whatever is or will be in the directory."""
        self._following = in_thread(self._follow)

    def finish(self, seconds: float = math.inf) -> None:
        """Wait for the last copy, as long as it moves, but at most so many seconds."""
        began = self._moved_at = time.monotonic()
        self._is_ending.set()
        while not self._following.done():
            time.sleep(0.05)
            last = min(self._moved_at + _LONGEST_PAUSE_SECONDS, began + seconds)
            if time.monotonic() > last:
                _log.warning(
                    "%s: stale: the last copy took too long; the next start makes it", self._url
                )
                return

    def _follow(self) -> None:
        while not self._is_ending.wait(_POLL_SECONDS):
            self._catch_up()
        self._tried = -1
        self._catch_up()

    def _catch_up(self) -> None:
        """Copy what the mirror lacks, and remove what retention drops."""
        try:
            newest = max(saved_checkpoints(self._directory), default=-1)
            if newest <= self._tried:
                return
            self._tried = newest
            while (updates := self._missing()) is not None:
                self._push(updates)
                self._remove_old()
        except Exception as error:  # whatever the file system raises
            _log.warning(
                "%s: stale: update %d is not copied: %s; training continues",
                *(self._url, self._tried, one_line(error)),
            )

    def _missing(self) -> int | None:
        """Return the checkpoint to copy next: the newest, or a milestone."""
        whole = self._whole()
        local = saved_checkpoints(self._directory)
        newest = max(local, default=-1)
        if newest > max(whole, default=-1):
            return newest
        every = self._recipe.milestone_interval
        milestones = kept(local, self._directory, keep=1, every=every) - {newest}
        return max(milestones - whole, default=None)

    def _push(self, updates: int) -> None:
        source = checkpoint_path(self._directory, updates)
        with ExitStack() as opened:
            try:
                state = read_state(source)
                # All at once: they stay readable when the checkpoint is removed meanwhile.
                paths = [self._directory / name for name in (RUN_FILE, *_LOGS)]
                paths = [path for path in paths if path.exists()]
                paths += [source / name for name in (*state.files, STATE_FILE)]
                files = [opened.enter_context(path.open("rb")) for path in paths]
            except (UserError, FileNotFoundError):
                if source.exists():
                    raise
                return  # a newer one has taken its place
            self._files.makedirs(self._path(updates), exist_ok=True)
            for path, file in zip(paths, files, strict=True):
                name = f".{STATE_FILE}.partial" if path.name == STATE_FILE else path.name
                with self._files.open(self._path(updates, name), "wb") as copy:
                    found = self._copy(file, copy)
                stored = state.files.get(path.name)
                if stored is not None and found != (stored.size, stored.sha256):
                    raise UserError(f"{path}: its SHA-256 is not the one in {STATE_FILE}")
            # in one step on every file system
            self._files.mv(self._path(updates, name), self._path(updates, STATE_FILE))

    def _remove_old(self) -> None:
        whole = self._whole()
        keep, every = self._recipe.checkpoints_kept, self._recipe.milestone_interval
        for updates in self._held() - kept(whole, self._directory, keep=keep, every=every):
            if updates in whole:
                self._files.rm_file(self._path(updates, STATE_FILE))
            self._files.rm(self._path(updates), recursive=True)

    def _fetch(self, updates: int, fingerprint: Mapping[str, Any], *, here: int) -> None:
        """Fetch a checkpoint and the logs, unless `here` is as new.

        Raises:
            UserError: it is of another run.
            _Damage: some file of it is not what was copied there.
        """
        path = checkpoint_path(self._directory, updates)
        partial = path.with_name(f".{path.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            self._fetch_file(updates, partial / STATE_FILE)
            state = read_state(partial)
            if state.updates != updates or any(Path(name).name != name for name in state.files):
                raise UserError(f"{STATE_FILE} is of another checkpoint")
        except (UserError, FileNotFoundError) as error:
            raise _Damage(one_line(error)) from error
        if state.run is not None:
            check_same_run(self._url, state.run, fingerprint)
        if updates <= here:
            if updates < here:
                _log.info(
                    "%s: stale: its newest checkpoint is of update %d, here of %d, which is copied",
                    *(self._url, updates, here),
                )
            return
        for name, stored in state.files.items():
            try:
                found = self._fetch_file(updates, partial / name)
            except FileNotFoundError as error:
                raise _Damage(f"{name} is missing") from error
            if found != (stored.size, stored.sha256):
                raise _Damage(f"{name} is not what was copied")
        for name in _LOGS:
            if self._files.exists(self._path(updates, name)):
                self._fetch_file(updates, partial / name)
                _add_lines(partial / name, self._directory / name)
                (partial / name).unlink()
        fsync(partial)
        partial.rename(path)
        fsync(self._directory)
        _log.info("%s: restored from %s", path, self._url)

    def _fetch_file(self, updates: int, path: Path) -> tuple[int, str]:
        with self._files.open(self._path(updates, path.name), "rb") as source:
            with path.open("wb") as copy:
                found = self._copy(source, copy)
            fsync(path)
        return found

    def _copy(self, source: IO[bytes], target: IO[bytes]) -> tuple[int, str]:
        """Copy all of a file and return its size and digest."""
        size, digest = 0, hashlib.sha256()
        while block := source.read(_BLOCK_BYTES):
            target.write(block)
            digest.update(block)
            size += len(block)
            self._moved_at = time.monotonic()
        return size, digest.hexdigest()

    def _held(self) -> set[int]:
        """Return the updates whose checkpoints the mirror has, or parts of them."""
        self._files.invalidate_cache()
        try:
            paths = self._files.ls(self._root, detail=False)
        except FileNotFoundError:
            return set()
        found = (updates_of(path.rstrip("/").rpartition("/")[2]) for path in paths)
        return {updates for updates in found if updates is not None}

    def _whole(self) -> set[int]:
        """Return the updates whose checkpoints count."""
        return {u for u in self._held() if self._files.exists(self._path(u, STATE_FILE))}

    def _path(self, updates: int, name: str = "") -> str:
        return f"{self._root}/{checkpoint_path(Path(), updates)}/{name}".rstrip("/")


class _Damage(Exception):  # noqa: N818 (of a checkpoint)
    """A checkpoint on the mirror is not what was copied there; the message says where."""


def _add_lines(source: Path, target: Path) -> None:
    """Add the lines of a log to another that lacks them; the last one may be cut short."""
    mine = target.read_bytes() if target.exists() else b""
    known = set(mine.splitlines())
    if mine and not mine.endswith(b"\n"):
        mine += b"\n"
    lines = source.read_bytes().split(b"\n")[:-1]
    with atomic_file(target) as temporary:
        new = (line + b"\n" for line in lines if line not in known)
        temporary.write_bytes(mine + b"".join(new))
