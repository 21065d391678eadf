"""Every command that writes, with two inputs each, started without the time of imports."""

import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from esm1b.alphabet import AMINO_ACIDS
from esm1b.model.layers import ContactHead
from esm1b.model.shape import EncoderShape
from esm1b.report import page
from esm1b.weights.fair_esm import write_fair_esm
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from esm1b.weights.state import TrainedModel
from tests.conftest import random_encoder
from tests.download.published_releases import CURRENT, LIST, publish
from tests.download.server import running_server

PRELOADED = (
    "esm1b.corpus.sharding.shard",
    "esm1b.corpus.tokens.tokenize",
    "esm1b.download.download",
    "esm1b.evaluation.contacts.contacts",
    "esm1b.evaluation.perplexity",
    "esm1b.evaluation.secondary_structure.secondary_structure",
    "esm1b.evaluation.variants.variants",
    "esm1b.inference.contact_maps",
    "esm1b.inference.embed",
    "esm1b.pretraining.audit.audit",
    "esm1b.pretraining.pretrain",
    "esm1b.publishing.exchange",
    "esm1b.scoring.score",
    "esm1b.scoring.variants",
    "esm1b.report.page",
    "esm1b.synthetic.dataset",
    "deepspeed",
    "torch._dynamo",
    "sklearn.linear_model",
    "scipy.stats",
)

CONTEXT = multiprocessing.get_context("forkserver")


SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=32, maximum_tokens=102)
CONFIGURATION = {
    "run": "tiny",
    "seed": 5,
    "model": {"layers": 2, "width": 16, "heads": 4, "feed_forward": 32, "maximum_tokens": 102},
    "pretraining": {
        "updates": 4,
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
            *("contacts", inputs.of("model"), inputs.of(f"few{n}.fasta"), "--pictures=0"),
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
    "score": Writer(
        arguments=lambda inputs, folder, n: [
            *("score", inputs.of("model"), inputs.of(f"tiny{n}.fasta"), "--batch-tokens=64"),
            f"--output={folder / 'out.parquet'}",
        ],
        results=["out.parquet"],
        compared=["out.parquet"],
    ),
    "variants": Writer(
        arguments=lambda inputs, folder, n: [
            *("variants", inputs.of("model"), inputs.of("wild_type.fasta"), "--all"),
            *("--batch-tokens=64", f"--output={folder / 'out'}"),
            f"--convention={('masked-marginals', 'wildtype-marginals')[n]}",
        ],
    ),
    "contacts jacobian": Writer(
        arguments=lambda inputs, folder, n: [
            *("contacts", inputs.of("model"), inputs.of(f"tiny{n}.fasta"), "--pictures=0"),
            *("--method=jacobian", f"--output={folder / 'out'}"),
        ],
    ),
    "evaluate variants": Writer(
        arguments=lambda inputs, folder, n: [
            *("evaluate", "variants", inputs.of("model"), inputs.of("families/assays")),
            *(f"--output={folder / 'out'}", "--untrained=1", f"--seed={n}"),
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
            *(f"--output={folder / 'out'}", f"--updates={3 + n}"),
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


@contextmanager
def made_inputs(folder: Path) -> Iterator[Inputs]:
    """Make what the commands of `WRITERS` read."""
    head = ContactHead(coefficients=torch.linspace(-1, 1, 8), intercept=torch.tensor(-1.0))
    for number, name in enumerate(["model", "trained"]):
        encoder = random_encoder(SHAPE, number)
        save_model(encoder, folder / name, Provenance(), contact_head=head)
        model = TrainedModel(encoder=encoder, contact_head=head, provenance=Provenance())
        write_fair_esm(folder / f"released{number}.pt", model)
        random_fasta(folder / f"{number}.fasta", 4000, 100, number)
        random_fasta(folder / f"few{number}.fasta", 60, 60, number)
        random_fasta(folder / f"tiny{number}.fasta", 8, 30, number)
    random_fasta(folder / "wild_type.fasta", 1, 60, 0)
    (folder / "run.json").write_text(json.dumps(CONFIGURATION))
    with running_server() as server:
        publish(server)
        server.files[LIST] = server.files[CURRENT]
        made = Inputs(folder=folder, url=server.url)
        of = made.of
        prepare: list[list[object]] = [
            *(["shard", of(f"{n}.fasta"), f"--output={of(f'corpus{n}')}"] for n in (0, 1)),
            *(["tokenize", of(f"corpus{n}"), f"--output={of(f'tokens{n}')}"] for n in (0, 1)),
            ["synthesize", f"--output={of('families')}", "--families=4", "--unseen-families=2"],
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


class Started:
    """A command under way, whose output goes to `log`."""

    def __init__(self, arguments: Sequence[Any], log: Path) -> None:
        self._log = log
        log.touch()
        # only now: the server is that of all tests in this process, most of which need none of this
        CONTEXT.set_forkserver_preload(["esm1b.cli", "tests.writers", *PRELOADED])
        self._process = CONTEXT.Process(target=_run, args=([*map(str, arguments)], str(log)))
        self._process.start()
        self._began = time.monotonic()
        self.ended = 0.0

    def kill_after(self, seconds: float) -> None:
        """Kill it so long after its start, unless it has ended."""
        self._process.join(max(0.0, self._began + seconds - time.monotonic()))
        self._process.kill()

    def end(self) -> int:
        """Wait for its end and return its exit status."""
        self._process.join(timeout=100)
        assert self._process.exitcode is not None, "it does not end"
        return self._process.exitcode

    @property
    def told(self) -> list[str]:
        """The lines that it printed, without those of the log."""
        return [line for line in self._log.read_text().splitlines() if line[2:3] != ":"]

    @property
    def text(self) -> str:
        return self._log.read_text()


def _run(arguments: Sequence[str], log: str) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    for name in ("corpus_figure", "training_figure", "evaluation_figure"):  # they take seconds
        setattr(page, name, lambda *arguments: "<svg></svg>")
    sys.argv = ["esm1b", *arguments]
    import_module("esm1b.cli").main()


def digest(paths: Sequence[Path]) -> str | None:
    """Return a digest of the names and contents of files and directories; None if none is there."""
    found = hashlib.sha256()
    files = sorted(
        file
        for path in paths
        for file in ([path] if path.is_file() else path.rglob("*"))
        if file.is_file()
    )
    for file in files:
        found.update(f"{file.name} {file.stat().st_size}\n".encode())
        found.update(file.read_bytes())
    return found.hexdigest() if files else None
