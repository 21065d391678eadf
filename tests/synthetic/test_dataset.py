import csv
import gzip
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esm1b.alphabet import AMINO_ACIDS, encode
from esm1b.errors import UserError
from esm1b.files import sha256_file
from esm1b.synthetic.dataset import load_truth, synthesize
from esm1b.synthetic.families import draw_families
from tests.synthetic.forests import log_probability, pair_marginals


def write_small(directory: Path, *, seed: int = 7) -> None:
    synthesize(directory, families=4, unseen_families=2, sequences=30, members=3, seed=seed)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("synthetic") / "data"
    write_small(directory)
    return directory


def records(directory: Path) -> list[tuple[str, str]]:
    text = gzip.decompress((directory / "sequences.fasta.gz").read_bytes()).decode()
    return [
        (header, "".join(lines))
        for header, *lines in (record.splitlines() for record in text.split(">")[1:])
    ]


def test_the_fasta_looks_like_uniref50(written: Path) -> None:
    found = records(written)
    assert len(found) == 4 * 30
    header, sequence = found[0]
    family = header.split()[4]
    assert header == (
        f"UniRef50_SYN0000001 Synthetic protein of {family} n=1 "
        "Tax=synthetic construct TaxID=32630 RepID=SYN0000001_SYNTH"
    )
    assert set(sequence) <= set(AMINO_ACIDS)
    assert len({header.split()[0] for header, _ in found}) == 120
    names = [header.split()[4] for header, _ in found]
    assert sorted(set(names)) == [f"family-{index:02d}" for index in range(4)]
    assert names != sorted(names)


def test_sequences_wrap_at_60_columns(tmp_path: Path) -> None:
    synthesize(
        tmp_path / "data",
        families=2,
        unseen_families=0,
        sequences=1,
        members=1,
        lengths=range(61, 62),
    )
    lines = gzip.decompress((tmp_path / "data" / "sequences.fasta.gz").read_bytes()).splitlines()
    assert [len(line) for line in lines if not line.startswith(b">")] == [60, 1, 60, 1]


def test_the_structure_table(written: Path) -> None:
    table = pq.read_table(written / "structures.parquet")
    assert table.schema.names == [
        *("id", "group", "kind", "sequence", "observed", "contact_i", "contact_j", "ss3")
    ]
    rows = table.to_pylist()
    assert len(rows) == 6 * 3
    assert [row["id"] for row in rows[:3]] == ["family-00-00", "family-00-01", "family-00-02"]
    assert {row["group"]: row["kind"] for row in rows} == {
        "family-00": "fit",
        "family-01": "test",
        "family-02": "fit",
        "family-03": "test",
        "unseen-00": "unseen",
        "unseen-01": "unseen",
    }
    for row in rows:
        assert row["observed"] == "1" * len(row["sequence"])
        assert len(row["ss3"]) == len(row["sequence"])
        assert all(j - i >= 6 for i, j in zip(row["contact_i"], row["contact_j"], strict=True))
    assert len({row["sequence"] for row in rows}) == len(rows)
    assert not {row["sequence"] for row in rows} & {sequence for _, sequence in records(written)}


def test_the_same_settings_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_small(tmp_path / "again")
    write_small(tmp_path / "other", seed=8)
    for name in ("sequences.fasta.gz", "structures.parquet", "truth.npz", "assays/family-01.csv"):
        assert sha256_file(tmp_path / "again" / name) == sha256_file(written / name)
        assert sha256_file(tmp_path / "other" / name) != sha256_file(written / name)


def test_families_that_test_have_variants_of_their_first_member(written: Path) -> None:
    with (written / "assays" / "DMS_substitutions.csv").open(encoding="ascii") as file:
        rows = list(csv.DictReader(file))
    assert [(row["DMS_id"], row["kind"]) for row in rows] == [
        ("family-01", "test"), ("family-03", "test"),
        ("unseen-00", "unseen"), ("unseen-01", "unseen"),
    ]  # fmt: skip
    members = {row["id"]: row for row in pq.read_table(written / "structures.parquet").to_pylist()}
    for row in rows:
        assert row["target_seq"] == members[f"{row['DMS_id']}-00"]["sequence"]
        assert (written / "assays" / row["DMS_filename"]).exists()


def test_the_truth_survives_a_round_trip(written: Path) -> None:
    drawn = draw_families(4, 2, seed=7)
    for source in (written, written / "truth.npz"):
        for before, after in zip(drawn, load_truth(source), strict=True):
            assert (after.name, after.kind, after.ss3) == (before.name, before.kind, before.ss3)
            np.testing.assert_array_equal(after.potts.fields, before.potts.fields)
            np.testing.assert_array_equal(after.potts.edges, before.potts.edges)
            np.testing.assert_array_equal(after.potts.couplings, before.potts.couplings)


def test_the_corpus_is_typical_of_its_families(written: Path) -> None:
    # each sequence is more likely under its own family than under any other of its length
    families = load_truth(written)
    by_name = {family.name: family for family in families}
    for header, sequence in records(written):
        own = by_name[header.split()[4]]
        residues = (encode(sequence) - 4)[None]
        best = max(
            (family for family in families if family.potts.length == own.potts.length),
            key=lambda family: log_probability(family.potts, residues)[0],
        )
        assert best is own


@given(seed=st.integers(0, 10_000), length=st.integers(30, 80))
@settings(deadline=None, max_examples=15)
def test_families_keep_their_promises(seed: int, length: int) -> None:
    families = draw_families(3, 1, lengths=range(length, length + 6), seed=seed)
    assert [family.kind for family in families] == ["fit", "test", "fit", "unseen"]
    assert len({family.name for family in families}) == 4
    for family in families:
        size = family.potts.length
        assert length <= size <= length + 5
        assert size / 3 <= len(family.potts.edges) <= size / 2
        assert np.diff(family.potts.edges, axis=1).min() >= 6
        assert np.bincount(family.potts.edges.ravel()).max() <= 2
        assert len(family.ss3) == size
        assert min(family.ss3.count(state) for state in "HEC") >= 0.2 * size
        segment = np.cumsum([a != b for a, b in zip(family.ss3, " " + family.ss3, strict=False)])
        assert all(segment[i] != segment[j] for i, j in family.potts.edges)


def test_more_families_leave_the_others_as_they_were() -> None:
    few = draw_families(families=2, unseen_families=0)
    many = draw_families(families=4, unseen_families=0)
    for first, second in zip(few, many[:2], strict=True):
        np.testing.assert_array_equal(first.potts.fields, second.potts.fields)


def test_contacts_carry_information() -> None:
    families = draw_families()
    information = []
    for family in families:
        pairs = pair_marginals(family.potts)
        independent = pairs.sum(axis=2, keepdims=True) * pairs.sum(axis=1, keepdims=True)
        information += list((pairs * np.log(pairs / independent)).sum(axis=(1, 2)))
    assert np.mean(information) > 0.8
    assert min(information) > 0.2


def test_a_file_that_is_not_the_truth(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"truth\.npz: No such file"):
        load_truth(tmp_path)
    (tmp_path / "truth.npz").write_text("<html>")
    with pytest.raises(UserError, match="expected the truth of synthetic families"):
        load_truth(tmp_path)
    (tmp_path / "truth.npz").write_bytes(b"")
    with pytest.raises(UserError, match="expected the truth of synthetic families"):
        load_truth(tmp_path)
    np.save(tmp_path / "truth.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"truth\.npy: not an \.npz archive; expected the truth"):
        load_truth(tmp_path / "truth.npy")
    np.savez(tmp_path / "truth.npz", names=np.array(["family-00"]))
    with pytest.raises(UserError, match="lengths"):
        load_truth(tmp_path)


def test_a_truth_cut_short(written: Path, tmp_path: Path) -> None:
    content = (written / "truth.npz").read_bytes()
    for size in (3, 100, len(content) // 2, len(content) - 1):
        (tmp_path / "truth.npz").write_bytes(content[:size])
        with pytest.raises(UserError, match="expected the truth of synthetic families"):
            load_truth(tmp_path)


def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(UserError, match="not an earlier output"):
        write_small(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "chapter 1"
