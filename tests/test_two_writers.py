"""Two processes write one output, for every command that writes; see also `tests/test_outputs.py`.

The second starts up to 2 s after the first, and in half of the trials the first is killed.
"""

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from esm1b.alphabet import AMINO_ACIDS
from esm1b.model.layers import ContactHead
from esm1b.model.shape import EncoderShape
from esm1b.weights.fair_esm import write_fair_esm
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from esm1b.weights.state import TrainedModel
from tests.conftest import random_encoder
from tests.download.published_releases import CURRENT, LIST, publish
from tests.download.server import running_server
from tests.writers import Started, digest

pytestmark = pytest.mark.slow

TRIALS = int(os.environ.get("ESM1B_TRIALS", "20"))
SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=32, maximum_tokens=102)
CONFIGURATION = {
    "run": "tiny",
    "seed": 5,
    "model": {"layers": 2, "width": 16, "heads": 4, "feed_forward": 32, "maximum_tokens": 102},
    "pretraining": {
        "updates": 8,
        "tokens_per_update": 2000,
        "crop_residues": 100,
        "log_interval": 1,
        "validation_interval": 4,
        "validation_sequences": 10,
        "checkpoint_interval": 2,
        "checkpoints_kept": 2,
    },
}


@dataclass(frozen=True, kw_only=True)
class Writer:
    """A command with one output.

    Attributes:
        arguments: of the command, given the folder to write to and 0 or 1, one of two inputs.
        results: names in the folder of all that the command leaves there.
        compared: names of what follows from the input alone.
        is_replaced: False if the output grows in place, and is resumed.
        is_instantaneous: True if there is no lock: nothing is computed while the file is written.
    """

    arguments: Callable[["Inputs", Path, int], Sequence[Any]]
    results: Sequence[str] = ("out",)
    compared: Sequence[str] = ("out",)
    is_replaced: bool = True
    is_instantaneous: bool = False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the commands read; of most things there are two."""

    folder: Path
    url: str

    def of(self, name: str) -> Path:
        return self.folder / name


WRITERS: dict[str, Writer] = {
    "synthesize": Writer(
        arguments=lambda inputs, folder, n: [
            *("synthesize", f"--output={folder / 'out'}", "--families=4", "--unseen-families=2"),
            *("--sequences=400", f"--seed={n}"),
        ],
    ),
    "shard": Writer(
        arguments=lambda inputs, folder, n: [
            *("shard", inputs.of(f"{n}.fasta"), f"--output={folder / 'out'}", "--shards=3"),
            "--validation-fraction=0.2",
        ],
    ),
    "shard by 2 workers": Writer(
        arguments=lambda inputs, folder, n: [
            *("shard", inputs.of(f"{n}.fasta"), f"--output={folder / 'out'}", "--shards=3"),
            *("--validation-fraction=0.2", "--workers=2"),
        ],
    ),
    "tokenize": Writer(
        arguments=lambda inputs, folder, n: [
            *("tokenize", inputs.of(f"corpus{n}"), f"--output={folder / 'out'}"),
        ],
    ),
    "embed": Writer(
        arguments=lambda inputs, folder, n: [
            *("embed", inputs.of("model"), inputs.of(f"few{n}.fasta"), "--batch-tokens=64"),
            f"--output={folder / 'out.parquet'}",
        ],
        results=["out.parquet"],
        compared=["out.parquet"],
    ),
    "embed the same": Writer(
        arguments=lambda inputs, folder, n: [
            *("embed", inputs.of("model"), inputs.of("few0.fasta"), "--batch-tokens=64"),
            f"--output={folder / ('a/../out.parquet' if n else 'out.parquet')}",
        ],
        results=["out.parquet"],
        compared=["out.parquet"],
    ),
    "contacts": Writer(
        arguments=lambda inputs, folder, n: [
            *("contacts", inputs.of("model"), inputs.of(f"few{n}.fasta"), "--pictures=1"),
            f"--output={folder / 'out'}",
        ],
    ),
    "contacts as npz": Writer(
        arguments=lambda inputs, folder, n: [
            *("contacts", inputs.of("model"), inputs.of(f"few{n}.fasta"), "--pictures=0"),
            *(f"--output={folder / 'out'}", "--format=npz"),
        ],
    ),
    "evaluate perplexity": Writer(
        arguments=lambda inputs, folder, n: [
            *("evaluate", "perplexity", inputs.of("model"), inputs.of(f"tokens{n}")),
            *(f"--output={folder / 'out'}", "--untrained=1", "--draws=1"),
        ],
    ),
    "evaluate contacts": Writer(
        arguments=lambda inputs, folder, n: [
            *("evaluate", "contacts", inputs.of("model"), inputs.of("families/structures.parquet")),
            *(f"--output={folder / 'out'}", "--untrained=1", f"--seed={n}"),
        ],
    ),
    "evaluate secondary-structure": Writer(
        arguments=lambda inputs, folder, n: [
            *("evaluate", "secondary-structure", inputs.of("model")),
            *(inputs.of("families/structures.parquet"), "--untrained=1"),
            *(f"--output={folder / 'out'}", f"--seed={n}"),
        ],
    ),
    "report": Writer(
        arguments=lambda inputs, folder, n: [
            *("report", inputs.of("trained"), f"--corpus={inputs.of(f'corpus{n}')}"),
            *(f"--training={inputs.of('checkpoints/metrics.jsonl')}", f"--output={folder / 'out'}"),
            f"--evaluation={inputs.of('perplexity')}",
        ],
    ),
    "audit": Writer(
        arguments=lambda inputs, folder, n: [
            *("audit", inputs.of("checkpoints"), f"--tokens={inputs.of('tokens0')}", "--table"),
            *(f"--output={folder / 'out'}", f"--updates={4 + n}"),
        ],
    ),
    "import": Writer(
        arguments=lambda inputs, folder, n: [
            *("import", inputs.of(f"released{n}.pt"), f"--output={folder / 'out'}"),
        ],
    ),
    "export to a directory": Writer(
        arguments=lambda inputs, folder, n: [
            *("export", inputs.of(("model", "trained")[n]), "--format=hf"),
            f"--output={folder / 'out'}",
        ],
    ),
    "export to two files": Writer(
        arguments=lambda inputs, folder, n: [
            *("export", inputs.of(("model", "trained")[n]), "--format=fair-esm"),
            f"--output={folder / 'out.pt'}",
        ],
        results=["out.pt", "out-contact-regression.pt"],
        compared=["out.pt", "out-contact-regression.pt"],
    ),
    "pretrain": Writer(
        arguments=lambda inputs, folder, n: [
            *("pretrain", inputs.of("run.json"), f"--tokens={inputs.of('tokens0')}"),
            *(f"--checkpoints={folder / 'checkpoints'}", f"--output={folder / 'out'}"),
            *(f"--records={folder / 'records'}", "--device=cpu"),
        ],
        results=["out", "checkpoints", "records"],
        is_replaced=False,
    ),
    "pretrain to one model directory": Writer(
        arguments=lambda inputs, folder, n: [
            *("pretrain", inputs.of("run.json"), f"--tokens={inputs.of(f'tokens{n}')}"),
            *(f"--checkpoints={folder / f'checkpoints{n}'}", f"--output={folder / 'out'}"),
            *(f"--records={folder / 'records'}", "--device=cpu"),
        ],
        results=["out", "checkpoints0", "checkpoints1", "records"],
        is_replaced=False,
    ),
    "download": Writer(
        arguments=lambda inputs, folder, n: [
            *("download", "--release=current", f"--output={folder}", f"--mirror={inputs.url}"),
        ],
        results=["uniref50.fasta.gz", "download.json"],
        compared=["uniref50.fasta.gz"],
        is_replaced=False,
    ),
    "download a sample": Writer(
        arguments=lambda inputs, folder, n: [
            *("download", "--release=current", f"--output={folder}", f"--mirror={inputs.url}"),
            "--sample=0.5",
        ],
        results=["uniref50.2026_03.sample-0.5.fasta.gz", "download.json"],
        compared=["uniref50.2026_03.sample-0.5.fasta.gz"],
        is_replaced=False,
    ),
    "download the validation list": Writer(
        arguments=lambda inputs, folder, n: [
            *("download", "--validation-list", f"--output={folder}", f"--mirror={inputs.url}"),
        ],
        results=["uniref201803_ur50_valid_headers.txt.gz", "download.json"],
        compared=["uniref201803_ur50_valid_headers.txt.gz"],
        is_replaced=False,
    ),
    "estimate": Writer(
        arguments=lambda inputs, folder, n: [
            *("estimate", inputs.of("run.json"), f"--gpus={1 + n}", "--gpu=H200"),
            *(f"--json={folder / 'out.json'}", f"--tokens={inputs.of('tokens0')}"),
        ],
        results=["out.json"],
        compared=["out.json"],
        is_instantaneous=True,
    ),
}


def random_fasta(path: Path, records: int, longest: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(30, longest + 1, records)
    letters = np.frombuffer(AMINO_ACIDS.encode(), np.uint8)
    path.write_text(
        "".join(
            f">protein{number}\n{generator.choice(letters, length).tobytes().decode()}\n"
            for number, length in enumerate(lengths)
        )
    )


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Inputs]:
    folder = tmp_path_factory.mktemp("inputs")
    head = ContactHead(coefficients=torch.linspace(-1, 1, 8), intercept=torch.tensor(-1.0))
    for number, name in enumerate(["model", "trained"]):
        encoder = random_encoder(SHAPE, number)
        save_model(encoder, folder / name, Provenance(), contact_head=head)
        model = TrainedModel(encoder=encoder, contact_head=head, provenance=Provenance())
        write_fair_esm(folder / f"released{number}.pt", model)
        random_fasta(folder / f"{number}.fasta", 4000, 100, number)
        random_fasta(folder / f"few{number}.fasta", 200, 100, number)
    (folder / "run.json").write_text(json.dumps(CONFIGURATION))
    with running_server() as server:
        publish(server)
        server.files[LIST] = server.files[CURRENT]
        made = Inputs(folder=folder, url=server.url)
        of = made.of
        prepare = [
            *(["shard", of(f"{n}.fasta"), f"--output={of(f'corpus{n}')}"] for n in (0, 1)),
            *(["tokenize", of(f"corpus{n}"), f"--output={of(f'tokens{n}')}"] for n in (0, 1)),
            ["synthesize", f"--output={of('families')}", "--families=4", "--sequences=60"],
            [
                *("pretrain", folder / "run.json", f"--tokens={folder / 'tokens0'}"),
                *(f"--checkpoints={folder / 'checkpoints'}", f"--output={folder / 'trained'}"),
                "--device=cpu",
            ],
            [
                *("evaluate", "perplexity", folder / "trained", folder / "tokens0"),
                *(f"--output={folder / 'perplexity'}", "--untrained=1", "--draws=1"),
            ],
        ]
        for number, command in enumerate(prepare):
            started = Started(command, folder / f"prepare{number}.log")
            assert started.end() == 0, started.text
        yield made


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
    print(f"\n| {name} | {takes:.2f} s | {counts} |")
