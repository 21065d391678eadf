from pathlib import Path

import pytest

from esm1b.inference.fasta_input import checked_fasta


@pytest.mark.parametrize(
    ("sequence", "warns"), [("acgtn" * 20, True), ("GGGGAAAA", False), ("MKTVRQGLCA" * 10, False)]
)
def test_nucleotides_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, sequence: str, warns: bool
) -> None:
    path = tmp_path / "a.fasta"
    path.write_text(f">a\n{sequence}\n" * 6)
    with checked_fasta(
        str(path), longest=1000, long_sequences="error", output=tmp_path / "out"
    ) as fasta:
        assert fasta.count == 6
    words = "100% of the residues are A, C, G, T, U or N: DNA or RNA; expected proteins"
    assert caplog.messages == ([f"{path}: {words}"] if warns else [])
