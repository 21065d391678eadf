"""Starts runs from a process that has imported what they need, so a start takes little time.

A run has a process that plays the launcher, as torchrun does: it sets the environment of the
others, passes on SIGTERM, and waits for all; but it ends none of them, they must see to that.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import IO, Any, NoReturn

__all__ = ["REPOSITORY", "ForkServer", "LaunchedRun", "environment"]

REPOSITORY = Path(__file__).parents[2]
_POLL_SECONDS = 0.01

# What every run would import again; the optimisers of torch import its compiler.
PRELOADED = ("deepspeed", "torch._dynamo")


@dataclass(frozen=True, kw_only=True)
class LaunchedRun:
    """A run under way.

    Attributes:
        folder: holds what the processes write to stderr, `rank-0.err` and so on.
        launcher: the process that plays the launcher.
        ranks: the processes of the run.
    """

    folder: Path
    launcher: int
    ranks: tuple[int, ...]

    def wait(self, seconds: float = 120) -> list[int]:
        """Return the exit status of each process, negative for a signal, when all have ended.

        Raises:
            TimeoutError: some are still there after so many seconds; they are killed.
        """
        last = time.monotonic() + seconds
        while time.monotonic() < last:
            found = [self._status(rank) for rank in range(len(self.ranks))]
            statuses = [status for status in found if status is not None]
            if len(statuses) == len(found):
                return statuses
            time.sleep(_POLL_SECONDS)
        alive = [rank for rank in range(len(self.ranks)) if self._status(rank) is None]
        self.kill()
        raise TimeoutError(f"ranks {alive} are alive after {seconds:g} s:\n{self.errors()}")

    def is_over(self) -> bool:
        """Return whether all processes have ended."""
        return all(self._status(rank) is not None for rank in range(len(self.ranks)))

    def errors(self) -> str:
        """Return what the processes wrote to stderr."""
        return "".join(
            f"--- rank {rank}\n{(self.folder / f'rank-{rank}.err').read_text()}"
            for rank in range(len(self.ranks))
        )

    def signal(self, number: int, *ranks: int) -> None:
        """Send a signal to some processes, or to all."""
        for rank in ranks or range(len(self.ranks)):
            _send(self.ranks[rank], number)

    def kill(self) -> None:
        """Kill launcher and processes."""
        for process in (self.launcher, *self.ranks):
            _send(process, signal.SIGKILL)

    def kill_launcher(self) -> None:
        """Kill the launcher alone."""
        _send(self.launcher, signal.SIGKILL)

    def _status(self, rank: int) -> int | None:
        """Return how a process ended; one whose launcher is gone tells only that it did."""
        path = self.folder / f"rank-{rank}.status"
        if path.exists() and (text := path.read_text()):
            return int(text)
        if _is_alive(self.launcher) or _is_alive(self.ranks[rank]):
            return None
        own = self.folder / f"rank-{rank}.own-status"
        return int(own.read_text()) if own.exists() else -signal.SIGKILL


def environment() -> dict[str, str]:
    """Return the environment of a run on CPU, without a launcher's variables."""
    launchers = ("SLURM_", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")
    mine = {name: value for name, value in os.environ.items() if not name.startswith(launchers)}
    # DeepSpeed imports the compiler whether it is used or not; without it a start takes 5 s, not 9.
    return mine | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "TORCHDYNAMO_DISABLE": "1",
        "DS_ACCELERATOR": "cpu",
    }


class ForkServer:
    """Starts runs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.pretraining.fork_server"],
            cwd=REPOSITORY,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        """End the server; runs that it started go on."""
        self._pipe(self._process.stdin).close()
        self._process.wait()

    def start(
        self,
        folder: Path,
        arguments: Sequence[str],
        *,
        processes: int = 1,
        environment: Mapping[str, str] | None = None,
        patch: str | None = None,
    ) -> LaunchedRun:
        """Start `esm1b ARGUMENTS` in some processes.

        Args:
            folder: for what they write to stderr; made anew.
            arguments: of the command line.
            processes: of the run.
            environment: set in every process.
            patch: "module:function", called in every process before the command, with its rank.
        """
        folder.mkdir(parents=True)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        request = {
            "folder": str(folder),
            "arguments": list(arguments),
            "processes": processes,
            "port": port,
            "environment": dict(environment or {}),
            "patch": patch,
        }
        stdin = self._pipe(self._process.stdin)
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
        answer = json.loads(self._pipe(self._process.stdout).readline())
        return LaunchedRun(folder=folder, launcher=answer["launcher"], ranks=tuple(answer["ranks"]))

    def run(
        self, folder: Path, arguments: Sequence[str], *, processes: int = 1, seconds: float = 120
    ) -> LaunchedRun:
        """Start a run and return it when it has ended well."""
        run = self.start(folder, arguments, processes=processes)
        statuses = run.wait(seconds)
        assert statuses == [0] * processes, f"{statuses}\n{run.errors()}"
        return run

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe


def _send(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, number)


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in ("Z", "X")


def _serve() -> None:
    for module in (*PRELOADED, "esm1b.commands.training", "esm1b.pretraining.pretrain"):
        import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # launchers are not waited for
    for line in sys.stdin:
        request = json.loads(line)
        reader, writer = os.pipe()
        launcher = os.fork()
        if launcher == 0:
            os.close(reader)
            _launch(request, writer)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            ranks = json.loads(pipe.read())
        print(json.dumps({"launcher": launcher, "ranks": ranks}), flush=True)


def _launch(request: dict[str, Any], writer: int) -> NoReturn:
    """Be the launcher of a run."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    ranks: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in ranks:
            _send(process, number)

    signal.signal(signal.SIGTERM, pass_on)
    for rank in range(request["processes"]):
        process = os.fork()
        if process == 0:
            os.close(writer)
            _work(request, rank)
        ranks.append(process)
    with os.fdopen(writer, "w") as pipe:
        json.dump(ranks, pipe)
    for _ in ranks:
        process, status = os.wait()
        path = Path(request["folder"]) / f"rank-{ranks.index(process)}.status"
        path.write_text(str(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _work(request: dict[str, Any], rank: int) -> NoReturn:
    """Be one process of a run."""
    folder = Path(request["folder"])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    errors = os.open(folder / f"rank-{rank}.err", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    os.environ |= request["environment"]
    if request["processes"] > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(request["processes"]),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(request["port"]),
        }
    if request["patch"] is not None:
        module, _, function = request["patch"].partition(":")
        getattr(import_module(module), function)(rank)
    from esm1b.cli import main

    sys.argv = ["esm1b", *request["arguments"]]
    try:
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    (folder / f"rank-{rank}.own-status").write_text(str(status))
    os._exit(status)


if __name__ == "__main__":
    _serve()
