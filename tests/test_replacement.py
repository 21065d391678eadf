import subprocess
import sys
from pathlib import Path

import pytest

from esm1b.outputs import own_output


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("left", "content"),
    [
        ([".out~0a0a0a0a.replaced"], "replaced"),  # nothing to finish it with
        ([".out~0a0a0a0a.replaced", ".out~0a0a0a0a.partial"], "partial"),
        ([".out.replaced", ".out.partial", ".out~0b0b0b0b.partial"], "partial"),
        ([".out.replaced"], "replaced"),
        (["out", ".out~0a0a0a0a.replaced"], "out"),
        (["out", ".out~0a0a0a0a.partial", ".out.input", ".out~0a0a0a0a.input"], "out"),
        ([".out~0a0a0a0a.partial"], None),
    ],
)
def test_a_replacement_cut_short_loses_nothing(
    left: list[str], content: str | None, tmp_path: Path
) -> None:
    for name in left:
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name.split(".")[-1])
        (tmp_path / name / ".esm1b").write_text("corpus\n")
    (tmp_path / ".other~0a0a0a0b.partial").touch()
    with own_output(tmp_path / "out", "corpus"):
        pass
    (tmp_path / ".other~0a0a0a0b.partial").unlink()
    if content is None:
        assert listing(tmp_path) == []
    else:
        assert listing(tmp_path) == ["out", "out/.esm1b", "out/content"]
        assert (tmp_path / "out" / "content").read_text() == content


# In a process without threads, a fork for each call of the system that a kill can come before.
KILLED = """
import os, signal, sys
from pathlib import Path
from esm1b.outputs import atomic_files, own_output, replace_directory
kind, folder = sys.argv[1], Path(sys.argv[2])
output = folder / ("out" if kind == "directory" else "a.pt")

def write(content, prepare):
    with own_output(output):
        if kind == "directory":
            with replace_directory(output, "model") as directory:
                (directory / "content").write_text(content)
                prepare()
        else:
            with atomic_files(output, folder / "b.pt") as (a, b):
                a.write_text(content)
                b.write_text(content)
                prepare()

def kill_after(calls):
    left = calls
    def killing(call):
        def called(*arguments, **options):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)
        return called
    for name in ("rename", "replace", "unlink", "rmdir", "fsync", "mkdir"):
        setattr(os, name, killing(getattr(os, name)))

def contents():
    files = [output / "content"] if kind == "directory" else [output, folder / "b.pt"]
    return {file.read_text() if file.exists() else None for file in files}

calls, status = 0, 1
while status:
    write("old", lambda: None)
    if not (child := os.fork()):
        write("new", lambda: kill_after(calls))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    cut = contents()
    with own_output(output):
        settled = contents()
    print(calls, cut, settled, sorted(path.name for path in folder.iterdir()), sep=";")
    calls += 1
"""


@pytest.mark.parametrize("kind", ["directory", "files"])
def test_a_kill_at_any_call_loses_nothing(kind: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, kind, str(tmp_path)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    lines = [line.split(";") for line in output.splitlines()]
    assert len(lines) > 8
    for calls, cut, settled, left in lines:
        assert settled in ("{'old'}", "{'new'}"), calls
        if "None" not in cut:  # never of two sorts
            assert cut in ("{'old'}", "{'new'}"), calls
        assert left == ("['out']" if kind == "directory" else "['a.pt', 'b.pt']"), calls
    assert [settled for _, _, settled, _ in lines] == sorted(
        (settled for _, _, settled, _ in lines), reverse=True
    )
    assert "None" in "".join(cut for _, cut, _, _ in lines)
