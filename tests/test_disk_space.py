import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from safetensors import SafetensorError

from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.tokenize import tokenize
from esm1b.disk_space import explain_full_disk, full_disk, full_disks_in_a_line, size_in_words
from esm1b.errors import DownloadError, UserError
from esm1b.publishing.exchange import export_model
from tests.inference.models import write_model


def test_a_full_disk_is_explained_and_other_errors_are_not(tmp_path: Path) -> None:
    place = tmp_path / "not" / "there" / "yet"
    message = (
        r"yet: No space left on device, [0-9.]+ [GMk]B are free .*; expected about 1000000\.0 GB"
    )
    with pytest.raises(UserError, match=message), explain_full_disk(place, lambda: 1e15):
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] ...")
    message = r"yet: Disk quota exceeded; expected about 3\.0 MB$"  # free space says nothing of it
    with pytest.raises(UserError, match=message), explain_full_disk(place, lambda: 3e6):
        raise OSError(errno.EDQUOT, "quota")
    with pytest.raises(PermissionError), explain_full_disk(place, lambda: 3e9):
        raise PermissionError(errno.EACCES, "no")
    with pytest.raises(DownloadError), explain_full_disk(place):
        raise DownloadError("No space left on device (os error 28)")


def test_what_is_free_and_what_is_expected_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=300_000))
    full = OSError(errno.ENOSPC, "No space left on device")
    cases: list[tuple[Callable[[], float | str] | None, str]] = [
        (lambda: 24_000, "more than that"),
        (lambda: 310_000, "about 310.0 kB"),
        (lambda: "twice as much", "twice as much"),
        (None, "more room"),
    ]
    for need, expected in cases:
        with pytest.raises(UserError) as caught, explain_full_disk(tmp_path, need):
            raise full
        assert str(caught.value) == (
            f"{tmp_path}: No space left on device, 300.0 kB are free without what was written; "
            f"expected {expected}"
        )


def raised(action: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as caught:  # noqa: PT011 (any)
        action()
    return caught.value


def close_after_a_failure() -> None:
    try:
        raise OSError(errno.ENOSPC, "No space left on device")
    finally:
        raise ValueError("cannot close")


def noted(error: Exception, note: str) -> Exception:
    error.add_note(note)
    return error


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (OSError(errno.ENOSPC, "full", "file"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "full", "file"), errno.EDQUOT),
        (SafetensorError("Error while serializing: I/O error: ... (os error 28)"), errno.ENOSPC),
        (SafetensorError("Error while serializing: I/O error: ... (os error 122)"), errno.EDQUOT),
        (pa.ArrowException("Error writing bytes. Detail: [errno 28] No space left"), errno.ENOSPC),
        (raised(close_after_a_failure), errno.ENOSPC),
        (noted(RuntimeError("a worker's"), "OSError: [Errno 28] No space left on"), errno.ENOSPC),
        (OSError(errno.EACCES, "Permission denied"), None),
        (ValueError("28 errors"), None),
        (RuntimeError("os error 281"), None),
    ],
    ids=str,
)
def test_a_full_disk_is_known_in_any_library(error: BaseException, number: int | None) -> None:
    assert full_disk(error) == number


def test_the_file_that_did_not_fit_is_named() -> None:
    with (
        pytest.raises(UserError, match=r"^/full/estimate\.json: No space left on device; expected"),
        full_disks_in_a_line(),
    ):
        raise OSError(errno.ENOSPC, "No space left on device", "/full/estimate.json")
    with pytest.raises(UserError, match=r"^Disk quota exceeded; expected"), full_disks_in_a_line():
        raise SafetensorError("I/O error: Disk quota exceeded (os error 122)")


def test_sizes_in_words() -> None:
    assert [size_in_words(size) for size in (0, 12_345, 3.21e6, 4.56e9)] == [
        *("0.0 kB", "12.3 kB", "3.2 MB", "4.6 GB")
    ]


def test_safetensors_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left (os error 28)")

    model = write_model(tmp_path / "model")
    monkeypatch.setattr("esm1b.weights.save_model.save_file", full)
    with pytest.raises(UserError, match=r"/out: No space left on device, .*; expected more room$"):
        export_model(model, tmp_path / "out", format="hf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def fail(*arguments: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_shard_on_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "input.fasta"
    path.write_text("".join(f">id{number}\n{'MKV' * number}\n" for number in range(1, 400)))
    monkeypatch.setattr("esm1b.corpus.sharding.worker.write_run", fail)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    # 1.8 times 241 kB, and 8 kB for each of 16 shards and one held out
    message = r"corpus: No space left .* 100\.0 kB are free .*; expected about 5\d\d\.\d kB$"
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
    with pytest.raises(UserError, match=r"tokens: No space left .*; expected more than that$"):
        tokenize(tmp_path / "corpus", tmp_path / "tokens")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corpus", "input.fasta"]
