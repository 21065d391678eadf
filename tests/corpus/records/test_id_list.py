import gzip
import hashlib
from pathlib import Path

import pytest

from esm1b.corpus.records.id_list import read_id_list
from esm1b.errors import UserError
from esm1b.sequences.hashes import id_hashes, joined


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"a\r\n>b with a name\n\nc", [b"a", b"b", b"c"]),
        (b"\n>a first\nMKV\nLAG\n> b\nc\n>c", [b"a", b"b", b"c"]),
        (b"c\na\nb\na", [b"a", b"b", b"c"]),
    ],
)
def test_a_list_and_fasta_name_ids(
    tmp_path: Path, content: bytes, named: list[bytes], compressed: bool
) -> None:
    path = tmp_path / "ids"
    path.write_bytes(gzip.compress(content) if compressed else content)
    ids = read_id_list(path)
    assert len(ids) == len(named)
    assert ids.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not ids.find(id_hashes(*joined([b"d", b"MKV", b">b"]))).any()
    assert not ids.found.any()
    for number, name in enumerate(named, start=1):
        assert ids.find(id_hashes(*joined([b"d", name]))).tolist() == [False, True]
        assert ids.found.sum() == number
    assert ids.definition(2) == {"ids_file_sha256": ids.sha256, "ids": len(named), "found": 2}


def test_ids_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [b"UniRef50_%d" % number for number in range(200_000)]
    (tmp_path / "ids").write_bytes(b"\n".join(names))
    ids = read_id_list(tmp_path / "ids")
    assert len(ids) == 200_000
    assert ids.find(id_hashes(*joined(names))).all()
    assert ids.found.all()


def test_file_without_ids_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ids"
    for content in (b"", b"\n \n", b">\nMKV\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="ids: names no id; expected one sequence id per line"):
            read_id_list(path)
    path.write_bytes(gzip.compress(b"a\nb\n")[:-4])
    with pytest.raises(UserError, match=r"ids: the gzip data ends early; expected a complete .gz"):
        read_id_list(path)
    with pytest.raises(UserError, match=r"none: No such file"):
        read_id_list(tmp_path / "none")
