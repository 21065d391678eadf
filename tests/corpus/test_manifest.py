import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esm1b.corpus.manifest import CORPUS_FORMAT, TOKENS_FORMAT, read_manifest, verify
from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.tokenize import tokenize
from esm1b.errors import UserError


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a corpus of 40 sequences and its tokens."""
    folder = tmp_path_factory.mktemp("whole")
    fasta = folder / "a.fasta"
    letters = "ACDEFGHIKLMNPQRSTVWY"
    fasta.write_text("".join(f">{n}\nM{letters[: n % 20]}\n" for n in range(40)) + ">bad\nM-A\n")
    shard([str(fasta)], folder / "corpus", Selection(validation_fraction=0.3), shards=2)
    tokenize(folder / "corpus", folder / "tokens")
    return folder


def refusal(directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        verify(directory, read_manifest(directory, CORPUS_FORMAT, TOKENS_FORMAT))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["corpus", "tokens"])
def test_what_was_written_is_as_it_was(whole: Path, name: str) -> None:
    manifest = read_manifest(whole / name, CORPUS_FORMAT, TOKENS_FORMAT)
    assert manifest["format"] == f"esm1b-{name}"
    verify(whole / name, manifest)


@pytest.mark.parametrize(
    ("name", "file"), [("corpus", "train/00001.parquet"), ("tokens", "validation/00000.arrow")]
)
def test_one_changed_bit_is_found(whole: Path, tmp_path: Path, name: str, file: str) -> None:
    copy = shutil.copytree(whole / name, tmp_path / name)
    content = bytearray((copy / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / file).write_bytes(content)
    message = refusal(copy)
    assert message.startswith(f"{copy / file}: SHA-256 ")
    assert message.endswith(", as in manifest.json")


@pytest.mark.parametrize("name", ["corpus", "tokens"])
def test_files_that_are_cut_missing_or_too_many(whole: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(whole / name, tmp_path / name)
    first = sorted((copy / "train").iterdir())[0]
    other = first.with_name("other")
    shutil.copy(first, other)
    assert refusal(copy) == f"{other}: is not in manifest.json; expected only the shards there"
    other.unlink()
    size = first.stat().st_size
    first.write_bytes(first.read_bytes()[:-1])
    assert refusal(copy) == f"{first}: {size - 1} bytes; expected {size} bytes, as in manifest.json"
    first.unlink()
    assert refusal(copy) == f"{first}: missing; expected {size} bytes, as in manifest.json"


def _more_read(manifest: dict[str, Any]) -> None:
    manifest["counts"]["read"] += 1


def _more_sequences(manifest: dict[str, Any]) -> None:
    manifest["sequences"]["train"] += 1


def _fewer_letters(manifest: dict[str, Any]) -> None:
    manifest["composition"]["M"] -= 1


def _other_fingerprint(manifest: dict[str, Any]) -> None:
    manifest["fingerprint"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_more_read, "counts.read: 42; expected 41, from what was kept and dropped"),
        (_more_sequences, "sequences.train: "),
        (_fewer_letters, "composition: "),
        (_other_fingerprint, f"fingerprint: {'0' * 64}; expected "),
    ],
)
def test_a_manifest_must_add_up(
    whole: Path, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    copy = shutil.copytree(whole / "corpus", tmp_path / "corpus")
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert refusal(copy).startswith(f"{copy / 'manifest.json'}: {message}")


def test_directories_that_are_neither(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        f"{tmp_path}: no manifest.json; expected a directory of esm1b-corpus or esm1b-tokens"
    )
    expected = "expected 'esm1b-corpus' or 'esm1b-tokens'"
    (tmp_path / "manifest.json").write_text('{"format": "esm1b-soup"}')
    assert refusal(tmp_path).endswith(f"format 'esm1b-soup'; {expected}")
    (tmp_path / "manifest.json").write_text("[]")
    assert refusal(tmp_path).endswith(f"format None; {expected}")
    (tmp_path / "manifest.json").write_text('{"format": "esm1b-tokens", "format_version": 1}')
    assert refusal(tmp_path).endswith(
        "no corpus_fingerprint; expected all of corpus_fingerprint, alphabet, shards, fingerprint"
    )
