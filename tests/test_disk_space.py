import errno
from pathlib import Path
from typing import Any

import pytest

from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.tokenize import tokenize
from esm1b.errors import UserError
from esm1b.files import explain_full_disk


def test_a_full_disk_is_explained_and_other_errors_are_not(tmp_path: Path) -> None:
    place = tmp_path / "not" / "there" / "yet"
    message = r"yet: No space left on device, [0-9.]+ [GM]B are free .*; expected about 3 GB"
    with pytest.raises(UserError, match=message), explain_full_disk(place, lambda: "about 3 GB"):
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] ...")
    with pytest.raises(UserError, match=r"yet: Disk quota exceeded"):  # noqa: SIM117 (two errors)
        with explain_full_disk(place, lambda: "about 3 GB"):
            raise OSError(errno.EDQUOT, "quota")
    with pytest.raises(PermissionError), explain_full_disk(place, lambda: "about 3 GB"):
        raise PermissionError(errno.EACCES, "no")


def fail(*arguments: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_shard_on_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "input.fasta"
    path.write_text("".join(f">id{number}\n{'MKV' * number}\n" for number in range(1, 400)))
    monkeypatch.setattr("esm1b.corpus.sharding.worker.write_run", fail)
    message = r"corpus: No space left .*; expected about 0\.[0-9] MB"
    with pytest.raises(UserError, match=message):
        shard([str(path)], tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == [path]


def test_what_standard_input_needs_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Standard:
        buffer = (tmp_path / "input").open("w+b")

    Standard.buffer.write(b">a\nMKV\n>b\nLAG\n")
    Standard.buffer.seek(0)
    monkeypatch.setattr("sys.stdin", Standard)
    monkeypatch.setattr("esm1b.corpus.sharding.worker.write_run", fail)
    message = r"expected 1\.8 bytes for each byte of the uncompressed inputs"
    with pytest.raises(UserError, match=message):
        shard(["-"], tmp_path / "corpus")
    Standard.buffer.close()


def test_tokenize_on_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "input.fasta"
    path.write_text("".join(f">id{number}\n{'MKV' * number}\n" for number in range(1, 400)))
    shard([str(path)], tmp_path / "corpus", Selection(validation_fraction=0.1))
    monkeypatch.setattr("esm1b.corpus.tokens.tokenize._write_tokens", fail)
    with pytest.raises(UserError, match=r"tokens: No space left .*; expected about 0\.[0-9] MB"):
        tokenize(tmp_path / "corpus", tmp_path / "tokens")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corpus", "input.fasta"]
