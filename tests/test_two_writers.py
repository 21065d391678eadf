"""Two processes write one output, for every command that writes; see also `tests/test_outputs.py`.

The second starts up to 2 s after the first, and in half of the trials the first is killed.
"""

import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.writers import WRITERS, Inputs, Started, digest, made_inputs

pytestmark = pytest.mark.slow

TRIALS = int(os.environ.get("ESM1B_TRIALS", "20"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inputs]:
    with made_inputs(tmp_path_factory.mktemp("inputs")) as inputs:
        yield inputs


def check_told(started: Started) -> None:
    """The process was refused in one line, which names the other one."""
    assert len(started.told) == 1, started.text
    assert re.fullmatch(
        r"esm1b: error: .*: another process .* \(process \d+ on .+\); expected to be the only one",
        started.told[0],
    ), started.text


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", WRITERS)
def test_two_processes_write_one_output(
    name: str, inputs: Inputs, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    writer = WRITERS[name]
    chance = random.Random(name)
    seen: Counter[str] = Counter()
    references = []
    began = time.monotonic()
    for number in (0, 1):
        folder = tmp_path / f"alone{number}"
        folder.mkdir()
        began = time.monotonic()
        alone = Started(writer.arguments(inputs, folder, number), tmp_path / "alone.log")
        assert alone.end() == 0, alone.text
        references.append(digest([folder / result for result in writer.compared]))
    takes = min(2.0, time.monotonic() - began)

    for trial in range(2 * TRIALS):
        is_killed = trial % 2 == 1
        folder = tmp_path / str(trial)
        (folder / "a").mkdir(parents=True)
        results = [folder / result for result in writer.compared]
        logs = [tmp_path / f"{trial}-{number}.log" for number in range(3)]
        commands = [writer.arguments(inputs, folder, number) for number in (0, 1)]
        first = Started(commands[0], logs[0])
        delay = chance.uniform(0, takes)
        kill_after = chance.uniform(0, takes)
        if is_killed and kill_after < delay:
            first.kill_after(kill_after)
        time.sleep(delay)
        second = Started(commands[1], logs[1])
        if is_killed and kill_after >= delay:
            first.kill_after(kill_after)
        status, other = first.end(), second.end()
        found = digest(results)

        told = [started for started, code in ((first, status), (second, other)) if code == 2]
        for started in told:
            check_told(started)
        assert "Traceback" not in first.text + second.text
        assert other in (0, 2), second.text
        assert status in ((0, 2, -9) if is_killed else (0, 2)), first.text
        if status == 0 and other == 2:
            assert found == references[0]
        elif status != 0 and other == 0:
            assert found == references[1]
        elif status == 0 and other == 0:
            assert found in references
        elif writer.is_replaced:
            assert found in (None, *references)
        if is_killed:
            third = Started(commands[1], logs[2])
            assert third.end() == 0, third.text
            assert digest(results) == references[1]
        else:
            assert 0 in (status, other)
        left = {entry.name for entry in folder.iterdir()} - {"a"}
        if writer.is_instantaneous and is_killed:
            left = {entry for entry in left if not entry.endswith(".partial")}
        assert left <= set(writer.results)
        ends = {0: "done", 2: "told", -9: "killed"}
        seen[f"{ends[status]}, {ends[other]}"] += 1
    counts = "; ".join(f"{number} {outcome}" for outcome, number in sorted(seen.items()))
    record_property("outcomes", f"| {name} | {takes:.2f} s | {counts} |")
