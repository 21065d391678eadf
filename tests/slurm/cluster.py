"""A SLURM cluster for a test, and the workflow run on it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from esm1b.files import read_json_lines
from esm1b.pretraining.attempt_log import ATTEMPTS_FILE, read_attempts

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "workflow" / "profiles"
_SCRIPT = Path(__file__).with_name("cluster.sh")


class Cluster:
    """A control host and the nodes n1, n2, ..., as `cluster.sh` makes them."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes], *, nodes: int) -> None:
        self.directory = directory
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._process = process
        script = psutil.Process(process.pid)
        wait_for(lambda: script.name() == "unshare" and script.children(), seconds=10)
        # unshare itself ignores signals; its child is process 1 of the cluster
        (self._first,) = script.children()

    def command(self, *words: str) -> list[str]:
        """Return what runs `words` on the control host."""
        return ["nsenter", "-t", str(self._first.pid), "-m", "-n", "-p", "-u", *words]

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, **options
        )

    def on(self, node: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `words` on a node."""
        pid = (self.directory / f"run/node.{node}.pid").read_text().strip()
        return self.run("nsenter", "-t", pid, "-m", "-n", "-u", *words)

    def answer(self, *words: str) -> str:
        """Return what a SLURM command says."""
        result = self.run(*words)
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    def jobs(self) -> dict[str, str]:
        """Return the state of each job, finished ones too, by its number."""
        lines = self.answer("squeue", "--noheader", "--states=all", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def live_jobs(self) -> dict[str, str]:
        lines = self.answer("squeue", "--noheader", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def restarts(self, job: str) -> int:
        """Return how often SLURM has started a job again."""
        text = self.answer("scontrol", "show", "job", job)
        return int(text.split("Restarts=")[1].split()[0])

    def processes(self, node: str, *words: str) -> list[psutil.Process]:
        """Return the processes on a node with `words` in their command, in order of their start."""
        (pid,) = (self.directory / f"run/node.{node}.pid").read_text().split()
        # the file has the number within the cluster
        network = self._namespace(self._outer(int(pid)))
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                arguments = process.cmdline()
                if self._namespace(process.pid) == network and all(w in arguments for w in words):
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def trainers(self, node: str) -> list[psutil.Process]:
        """Return the processes on a node that train."""
        return [
            process
            for process in self.processes(node, "pretrain")
            if Path(process.cmdline()[1]).name == "esm1b"  # srun has these words, too
        ]

    def controllers(self) -> list[psutil.Process]:
        """Return the Snakemakes on the control host."""
        inside = psutil.Process(self._first.pid)
        network = self._namespace(inside.pid)
        return [
            process
            for process in psutil.process_iter()
            if _arguments(process)[1:3] == ["-m", "snakemake"]
            and self._namespace(process.pid) == network
        ]

    def sent_bytes(self, node: str) -> int:
        """Return how many bytes have left a node."""
        (link,) = json.loads(self.answer("ip", "-json", "-stats", "link", "show", f"v{node[1:]}"))
        return int(link["stats64"]["rx"]["bytes"])

    def cut(self, node: str) -> None:
        """Take a node's network away."""
        assert self.run("ip", "link", "set", f"v{node[1:]}", "down").returncode == 0

    def mend(self, node: str) -> None:
        assert self.run("ip", "link", "set", f"v{node[1:]}", "up").returncode == 0

    def power_off(self, node: str) -> None:
        """End everything on a node at once and keep it off."""
        (self.directory / f"run/hold.{node}").touch()
        self.cut(node)
        # the first is the shell that starts slurmd
        for process in self.processes(node)[1:]:
            with suppress(psutil.Error):
                process.kill()

    def power_on(self, node: str) -> None:
        """Let a node that is off, or whose network is gone, come back."""
        (self.directory / f"run/hold.{node}").unlink(missing_ok=True)
        self.mend(node)
        # a new slurmd reports at once; SLURM rarely asks a node that it has given up
        for slurmd in self.processes(node, "slurmd"):
            slurmd.kill()

    def hosts(self, job: str) -> list[str]:
        """Return the nodes of a job that runs, the batch host first."""
        words = ("--noheader", "--states=all", f"--jobs={job}", "--format=%N")
        listed = self.answer("squeue", *words)
        return self.answer("scontrol", "show", "hostnames", listed).split()

    def close(self) -> None:
        self._first.kill()
        self._process.wait()

    def _outer(self, pid: int) -> int:
        for process in psutil.Process(self._first.pid).children(recursive=True):
            status = Path(f"/proc/{process.pid}/status").read_text()
            numbers = status.split("NSpid:")[1].split("\n")[0].split()
            if int(numbers[-1]) == pid:
                return process.pid
        raise AssertionError(f"no process {pid} in the cluster")

    @staticmethod
    def _namespace(pid: int) -> str:
        return os.readlink(f"/proc/{pid}/ns/net")


@contextmanager
def cluster(directory: Path, *, nodes: int = 2, **settings: int) -> Iterator[Cluster]:
    """Start a cluster; `settings` are variables of `cluster.sh`, such as SLURMDTIMEOUT."""
    environment = os.environ | {name: str(value) for name, value in settings.items()}
    with (directory.with_name(f"{directory.name}.log")).open("wb") as log:
        process = subprocess.Popen(
            [str(_SCRIPT), str(directory), str(nodes)],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    running = Cluster(directory, process, nodes=nodes)
    try:
        wait_for((directory / "run/ready").exists, seconds=30)
        yield running
    finally:
        running.close()


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def wait_for(condition: Callable[[], Any], *, seconds: float) -> Any:
    """Return the first true value of `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"nothing after {seconds} s: {condition}")


class Workflow:
    """The workflow in a directory, run on a cluster, or on this machine without one."""

    def __init__(
        self, directory: Path, profile: Path, where: Cluster | None, *targets: str
    ) -> None:
        self.directory, self.profile, self.where = directory, profile, where
        self._targets = targets

    def command(self, *options: str) -> list[str]:
        words = [
            *(sys.executable, "-m", "snakemake", *self._targets),
            *("--snakefile", str(ROOT / "workflow" / "Snakefile")),
            *("--workflow-profile", str(self.profile), "--configfile", "small.yaml", *options),
        ]
        return self.command_there(*words)

    def command_there(self, *words: str) -> list[str]:
        """Return what runs `words` in this directory, on the control host if there is one."""
        if self.where is None:
            return list(words)
        return self.where.command("env", f"--chdir={self.directory}", *words)

    def start(self, *options: str, log: str = "snakemake.log") -> subprocess.Popen[bytes]:
        """Start Snakemake, all that it says going to a file."""
        with (self.directory / log).open("ab") as file:
            return subprocess.Popen(
                self.command(*options),
                cwd=self.directory,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def run(self, *options: str, seconds: float = 400) -> tuple[int, str]:
        """Run Snakemake; return its exit status and all that it said."""
        process = self.start(*options, log="run.log")
        try:
            status = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            raise
        path = self.directory / "run.log"
        text = path.read_text(errors="replace")
        path.unlink()
        return status, text

    @property
    def checkpoints(self) -> Path:
        return self.directory / "checkpoints" / "small"

    def wait_for_update(self, update: int, *, attempt: int = 1, seconds: float = 200) -> None:
        """Wait until an attempt has trained up to an update and a checkpoint is there."""
        metrics = self.checkpoints / "metrics.jsonl"

        def is_there() -> bool:
            if not metrics.exists():
                return False
            lines = read_json_lines(metrics, having="update")
            return any(line["attempt"] >= attempt and line["update"] >= update for line in lines)

        wait_for(is_there, seconds=seconds)

    def attempts(self, event: str) -> list[dict[str, Any]]:
        return [
            line
            for line in read_attempts(self.checkpoints / ATTEMPTS_FILE)
            if line["event"] == event
        ]

    def newest_attempt(self) -> int:
        """Return the number of the last attempt that has started; 0 before the first."""
        return max((line["attempt"] for line in self.attempts("started")), default=0)

    def end_of(self, attempt: int) -> str:
        """Return how an attempt has ended, as "event: message"; empty while it goes on."""
        lines = read_attempts(self.checkpoints / ATTEMPTS_FILE)
        ends = [
            f"{line['event']}: {line.get('message', '')}"
            for line in lines
            if line["attempt"] == attempt and line["event"] not in ("started", "warning")
        ]
        return ends[0] if ends else ""  # two halves of a cut network may each name the other

    def weights(self) -> bytes:
        return (self.directory / "results/small/model/model.safetensors").read_bytes()


def environment() -> dict[str, str]:
    """Return an environment in which the commands of this checkout are found."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": path, "PYTHONPATH": _python_path()}


def _python_path() -> str:
    before = os.environ.get("PYTHONPATH")
    return str(ROOT) if not before else f"{ROOT}{os.pathsep}{before}"


def changed_profile(name: str, directory: Path, **changes: str) -> Path:
    """Write a shipped profile with other values of some resources of pretrain."""
    shutil.copytree(PROFILES / name, directory)
    return change(directory, **changes)


def change(directory: Path, **changes: str) -> Path:
    """Give some resources of pretrain, which come first, other values in a profile."""
    path = directory / "profile.yaml"
    text = path.read_text(encoding="utf-8")
    for key, value in changes.items():
        text, count = re.subn(rf"^    {key}: .*$", f"    {key}: {value}", text, count=1, flags=re.M)
        assert count == 1, key
    path.write_text(text, encoding="utf-8")
    return directory
