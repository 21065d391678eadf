import gzip
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from esm1b.cli import app, main
from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.tokenize import tokenize
from esm1b.errors import Stopped
from esm1b.model.shape import EncoderShape
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder

REPOSITORY = Path(__file__).parents[1]
FASTA = ">first\nMKTVRQG\n>second\nKALTAISQP\n"


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Undo what `main` does to the root logger: its handler would outlive the captured stderr."""
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Refusal":
    return Refusal(monkeypatch, capsys)


class Refusal:
    """Runs the command line and returns the one line that it prints when the input is wrong."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> str:
        self._monkeypatch.setattr(sys, "argv", ["esm1b", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2
        captured = self._capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert lines[0].startswith("esm1b: error: ")
        return lines[0].removeprefix("esm1b: error: ")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    shape = EncoderShape(layers=1, width=8, heads=2, feed_forward=8, maximum_tokens=64)
    save_model(random_encoder(shape), tmp_path / "model", Provenance())
    return tmp_path / "model"


def test_shard_and_tokenize(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.fasta").write_text(FASTA)
    (tmp_path / "ids.txt").write_text("second\n")
    for arguments in (
        ["shard", "a.fasta", "--output=corpus", "--shards=1", "--validation-ids=ids.txt"],
        ["tokenize", "corpus", "--output=tokens"],
    ):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["esm1b", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        assert not caught.value.code, capsys.readouterr().err
    manifest = json.loads((tmp_path / "tokens" / "manifest.json").read_text())
    assert manifest["shards"]["train"][0]["residues"] == 7
    assert manifest["shards"]["validation"][0]["residues"] == 9


@pytest.mark.parametrize("directory", ["corpus", "tokens"])
def test_corpus_info_verifies(directory: str, tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "a.fasta").write_text(FASTA)
    (tmp_path / "ids.txt").write_text("second\n")
    ids = tmp_path / "ids.txt"
    shard([str(tmp_path / "a.fasta")], tmp_path / "corpus", Selection(validation_ids=ids), shards=1)
    tokenize(tmp_path / "corpus", tmp_path / "tokens")
    runner = CliRunner()
    result = runner.invoke(app, ["corpus-info", str(tmp_path / directory)])
    assert result.exit_code == 0
    assert "verified     every shard has the digest in the manifest" in result.output
    assert "shards 1, sequences 1, residues 7" in result.output
    (path,) = (tmp_path / directory / "validation").iterdir()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    result = runner.invoke(app, ["corpus-info", str(tmp_path / directory), "--no-verify"])
    assert result.exit_code == 0
    assert "verified" not in result.output
    message = refusal("corpus-info", tmp_path / directory)
    assert message.startswith(f"{path}: SHA-256 ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
            "a web page (HTML); expected FASTA, UniRef XML or a UniProt release archive, plain or "
            "gzip-compressed",
        ),
        (b"", "empty; expected a FASTA header line beginning with '>'"),
        (
            b"MKTVRQG\n>first\nKALTA\n",
            "line 1: a sequence before any header: 'MKTVRQG'; "
            "expected a FASTA header line beginning with '>'",
        ),
        (
            gzip.compress(FASTA.encode() * 100, mtime=0)[:-9],
            "the gzip data ends early after 199 complete records; expected a complete .gz file",
        ),
    ],
    ids=["html", "empty", "no header", "truncated gz"],
)
def test_what_is_no_fasta(content: bytes, message: str, tmp_path: Path, refusal: Refusal) -> None:
    path = tmp_path / "input.fasta"
    path.write_bytes(content)
    found = refusal("shard", path, "--output", tmp_path / "corpus")
    assert found == f"{path}: {message}"
    assert not (tmp_path / "corpus").exists()


def test_a_missing_fasta(tmp_path: Path, refusal: Refusal) -> None:
    found = refusal("shard", tmp_path / "none.fasta", "--output", tmp_path / "corpus")
    assert found == (
        f"{tmp_path / 'none.fasta'}: No such file or directory; expected a file to read"
    )


def test_an_output_of_somebody_else(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "a.fasta").write_text(FASTA)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    found = refusal("shard", tmp_path / "a.fasta", "--output", tmp_path / "mine")
    assert found.startswith(f"{tmp_path / 'mine'}: holds files but no .esm1b")


def test_an_output_of_another_kind(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "a.fasta").write_text(FASTA)
    (tmp_path / "ids.txt").write_text("second\n")
    for name in ("corpus", "corpus2"):
        ids = tmp_path / "ids.txt"
        shard([str(tmp_path / "a.fasta")], tmp_path / name, Selection(validation_ids=ids), shards=1)
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    found = refusal("tokenize", tmp_path / "corpus", "--output", tmp_path / "corpus2")
    assert found == (
        f"{tmp_path / 'corpus2'}: is an output of another kind, corpus; "
        "expected a new directory or an earlier output of kind tokens"
    )
    assert before == {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}


def test_a_corpus_that_is_none(tmp_path: Path, refusal: Refusal) -> None:
    found = refusal("tokenize", tmp_path, "--output", tmp_path / "tokens")
    assert found.startswith(f"{tmp_path}")
    assert not (tmp_path / "tokens").exists()


def test_a_folder_without_structures(tmp_path: Path, model: Path, refusal: Refusal) -> None:
    (tmp_path / "structures").mkdir()
    (tmp_path / "structures" / "README").write_text("to be downloaded")
    found = refusal(
        "evaluate", "contacts", model, tmp_path / "structures", "--output", tmp_path / "out"
    )
    assert found == (
        f"{tmp_path / 'structures'}: holds no structure; expected files named *.pdb, *.ent, "
        "*.cif or *.mmcif, plain or .gz, .bz2 or .xz"
    )
    assert not (tmp_path / "out").exists()


def test_a_structure_table_without_its_columns(
    tmp_path: Path, model: Path, refusal: Refusal
) -> None:
    pq.write_table(pa.table({"id": ["a"], "sequence": ["MKT"]}), tmp_path / "table.parquet")
    found = refusal(
        "evaluate", "contacts", model, tmp_path / "table.parquet", "--output", tmp_path / "out"
    )
    assert found == (
        f"{tmp_path / 'table.parquet'}: lacks the columns group, kind, observed, contact_i, "
        "contact_j; it has id, sequence"
    )


def test_a_secondary_structure_table_without_its_columns(
    tmp_path: Path, model: Path, refusal: Refusal
) -> None:
    (tmp_path / "table.csv").write_text("id,seq\na,MKT\n")
    found = refusal(
        "evaluate",
        "secondary-structure",
        model,
        tmp_path / "table.csv",
        "--output",
        tmp_path / "out",
    )
    assert found == f"{tmp_path / 'table.csv'}: lacks the columns sequence, ss3; it has id, seq"


def test_an_ambiguous_column_of_effects(tmp_path: Path, model: Path, refusal: Refusal) -> None:
    data = tmp_path / "variants.csv"
    data.write_text("wild_type,mutant,score,fitness\nMKT,M1A,1,1\n")
    found = refusal("evaluate", "variants", model, data, "--output", tmp_path / "out")
    assert found == f"{data}: has the columns score, fitness; name one with --score-column"


def test_tokens_that_are_none(tmp_path: Path, model: Path, refusal: Refusal) -> None:
    found = refusal("evaluate", "perplexity", model, tmp_path, "--output", tmp_path / "out")
    assert found.startswith(f"{tmp_path}")


@pytest.mark.parametrize("name", ["contacts", "perplexity", "secondary-structure", "variants"])
def test_a_missing_model(
    name: str, tmp_path: Path, tokens_directory: Path, refusal: Refusal
) -> None:
    (tmp_path / "table.csv").write_text("id,sequence,ss3\na,MKT,HEC\n")
    (tmp_path / "variants.csv").write_text("wild_type,mutant,score\nMKT,M1A,1\nMKT,M1C,2\n")
    row: dict[str, Any] = {
        "id": "a",
        "group": "a",
        "kind": "test",
        "sequence": "MKTVRQG",
        "observed": "1111111",
    }
    row.update(contact_i=[0], contact_j=[6])
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "structures.parquet")
    data = {
        "contacts": tmp_path / "structures.parquet",
        "perplexity": tokens_directory,
        "secondary-structure": tmp_path / "table.csv",
        "variants": tmp_path / "variants.csv",
    }
    none = tmp_path / "none"
    found = refusal("evaluate", name, none, data[name], "--output", tmp_path / "out")
    assert found.startswith(f"{none}")


@pytest.mark.parametrize("value", ["-1", "0", "strong", "nan", "inf"])
def test_a_regularisation_that_is_none(
    value: str, tmp_path: Path, model: Path, refusal: Refusal
) -> None:
    found = refusal(
        "evaluate",
        "contacts",
        model,
        tmp_path,
        "--output",
        tmp_path / "out",
        f"--regularisation={value}",
    )
    assert found == (f"--regularisation: '{value}'; expected a positive number or 'cross-validate'")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "modle: {layers: 3}\n",
            "modle: unknown key, perhaps model; expected one of run, seed, corpus, model, "
            "pretraining, evaluation",
        ),
        ("model: {heads: 3}\n", "model.heads: 3 does not divide width 64"),
        ("model: [\n", "expected YAML: "),
    ],
)
def test_a_wrong_configuration(
    content: str, message: str, tmp_path: Path, tokens_directory: Path, refusal: Refusal
) -> None:
    (tmp_path / "run.yaml").write_text(content)
    found = refusal(
        "pretrain",
        tmp_path / "run.yaml",
        "--tokens",
        tokens_directory,
        "--checkpoints",
        tmp_path / "checkpoints",
        "--output",
        tmp_path / "model",
    )
    assert found.startswith(f"{tmp_path / 'run.yaml'}: {message}")
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shrad"], "no such command 'shrad'. Did you mean 'shard'? (see `esm1b --help`)"),
        (
            ["tokenize", "--output=out"],
            "CORPUS_DIR: missing; expected corpus directory, written by shard",
        ),
        (
            ["tokenize", "corpus"],
            "--output DIR: missing; expected directory to write; an earlier output is replaced",
        ),
        (
            ["tokenize", "corpus", "--output=out", "--workers=two"],
            "--workers N: 'two'; expected a valid integer",
        ),
        (
            ["tokenize", "corpus", "--output=out", "--workers=0"],
            "--workers N: '0'; expected greater than or equal to 1",
        ),
        (
            ["shard", "a.fasta", "--output=out", "--workers=0"],
            "--workers N: '0'; expected greater than or equal to 1",
        ),
        (
            ["shard", "a.fasta", "--output=out", "--shards=0"],
            "--shards N: '0'; expected greater than or equal to 1",
        ),
        (
            ["contacts", "model", "a.fasta", "--output=out", "--device=gpu"],
            "--device: 'gpu'; expected one of 'auto', 'cpu', 'cuda', 'mps'",
        ),
        (
            ["embed", "model", "a.fasta", "--output=out", "--layers=1", "--layers=last"],
            "--layers N: 'last'; expected a valid integer",
        ),
        (
            ["synthesize"],
            "--output DIR: missing; expected directory to write; an earlier output is replaced",
        ),
        (
            ["synthesize", "--output=out", "--family=4"],
            "no such option: --family (Possible options: --families) (see "
            "`esm1b synthesize --help`)",
        ),
        (
            ["synthesize", "--output"],
            "option '--output' requires an argument",
        ),
        (
            ["synthesize", "here", "--output=out"],
            "got unexpected extra argument(s) (here) (see `esm1b synthesize --help`)",
        ),
    ],
)
def test_a_command_line_that_cannot_be_understood(
    arguments: list[str], message: str, refusal: Refusal
) -> None:
    assert refusal(*arguments) == message


def test_status_and_line_of_a_real_process(tmp_path: Path) -> None:
    (tmp_path / "a.fasta").write_text("")
    command = ["-m", "esm1b", "shard", f"{tmp_path}/a.fasta", f"--output={tmp_path}/corpus"]
    result = subprocess.run(
        [sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"esm1b: error: {tmp_path}/a.fasta: ")


def test_the_status_of_a_stop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(**_: Any) -> None:
        raise Stopped("saved after update 6 of 12")

    monkeypatch.setattr("esm1b.cli.app", stop)
    monkeypatch.setenv("RANK", "")
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 75
    assert capsys.readouterr().err == (
        "esm1b: stopped: saved after update 6 of 12; run the same command to resume\n"
    )


TORCHRUN = {
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "8",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("environment", "level"),
    [
        ({}, logging.INFO),
        ({**TORCHRUN, "RANK": "0"}, logging.INFO),
        ({**TORCHRUN, "RANK": "3"}, logging.WARNING),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}, logging.INFO),
        ({"RANK": "first"}, logging.INFO),
    ],
    ids=["alone", "first", "fourth", "half an environment", "no number"],
)
def test_only_the_first_process_logs(
    environment: dict[str, str], level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that cannot tell which one it is speaks, for it has something to say."""
    monkeypatch.setattr("esm1b.cli.app", lambda **_: None)
    for name in ("RANK", "SLURM_PROCID", *TORCHRUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit):
        main()
    assert logging.getLogger().level == level
