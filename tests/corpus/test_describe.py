from typing import Any

import pytest

from esm1b.corpus.describe import (
    cluster_warning,
    manifest_text,
    manifest_warnings,
    selection_text,
    source_text,
    split_text,
    steps,
)
from esm1b.download.release import expected_clusters

MANIFEST: dict[str, Any] = {
    "format": "esm1b-corpus",
    "format_version": 1,
    "source": {},
    "inputs": [
        {"file": "a.fasta", "bytes": 12345, "sha256": "a" * 64},
        {"file": "b.fasta.gz", "bytes": 7, "sha256": "b" * 64},
    ],
    "counts": {
        "read": 1103,
        "kept": 1000,
        "dropped": {"other_characters": 100, "empty_sequence": 0, "duplicate_id": 3},
    },
    "sequences": {"train": 900, "validation": 100},
    "residues": {"train": 9000, "validation": 1250},
    "length_histogram": {
        "edges": [8, 10, 12, 1040],
        "train": [500, 300, 100],
        "validation": [50, 50, 0],
    },
    "composition": {"A": 6000, "L": 4000, "X": 250},
    "selection": {"strict": False},
    "split": {"method": "sequence-hash", "fraction": 0.1},
    "shards": {
        "train": [
            {"rows": 400, "residues": 4000, "bytes": 1000},
            {"rows": 500, "residues": 5000, "bytes": 1200},
        ],
        "validation": [{"rows": 100, "residues": 1250, "bytes": 300}],
    },
    "fingerprint": "f" * 64,
}

TEXT = f"""\
source       a.fasta, b.fasta.gz
input        a.fasta, 12,345 bytes, SHA-256 {"a" * 64}
input        b.fasta.gz, 7 bytes, SHA-256 {"b" * 64}

records
  1,103  read
   -100  other characters
     -3  id of another record
  1,000  kept
  selected: all valid records

split
                 sequences          residues  mean length
  training             900             9,000         10.0
  validation           100             1,250         12.5
  held out: 10 % of the sequences, by a keyed hash of the sequence

length
      8 to     9   55.00%  ########################################
     10 to    11   35.00%  #########################
     12 to 1,039   10.00%  #######

composition, %
  A 58.5    L 39      X 2.44

training     shards 2, sequences 900, residues 9,000, bytes 2,200
validation   shards 1, sequences 100, residues 1,250, bytes 300
fingerprint  {"f" * 64}"""


def test_the_facts_of_a_corpus() -> None:
    assert manifest_text(MANIFEST) == TEXT


def test_the_facts_of_tokens() -> None:
    tokens = {
        "format": "esm1b-tokens",
        "corpus_fingerprint": "c" * 64,
        "shards": MANIFEST["shards"],
        "fingerprint": "f" * 64,
    }
    assert manifest_text(tokens).splitlines() == [
        "training     shards 2, sequences 900, residues 9,000, bytes 2,200",
        "validation   shards 1, sequences 100, residues 1,250, bytes 300",
        f"corpus       {'c' * 64}",
        f"fingerprint  {'f' * 64}",
    ]


def test_what_was_read_and_left_out_adds_up_to_what_was_kept() -> None:
    *before, (label, kept) = steps(MANIFEST)
    assert label == "kept"
    assert sum(count for _, count in before) == kept == 1000


def test_a_reason_without_words_of_its_own_is_named() -> None:
    counts = {"read": 2, "kept": 1, "dropped": {"some_new_reason": 1}}
    assert ("some new reason", -1) in steps({**MANIFEST, "counts": counts})


def test_many_bins_are_shown_together_and_the_longest_sequences_apart() -> None:
    edges = [*range(0, 510, 10), 9001]
    histogram = {"edges": edges, "train": [1] * 50 + [2], "validation": [0] * 51}
    text = manifest_text({**MANIFEST, "length_histogram": histogram})
    lengths = text.split("length\n", 2)[2].split("\n\n")[0].splitlines()
    assert len(lengths) == 18  # 50 bins, three at a time, and the last
    assert lengths[0].split() == ["0", "to", "29", "5.77%", "#" * 40]
    assert lengths[-2].split() == ["480", "to", "499", "3.85%", "#" * 27]
    assert lengths[-1].split() == ["500", "to", "9,000", "3.85%", "#" * 27]


def test_one_bin_is_enough() -> None:
    histogram = {"edges": [5, 6], "train": [3], "validation": [1]}
    assert "  5       100.00%  ####" in manifest_text({**MANIFEST, "length_histogram": histogram})


def test_a_release_is_named_before_its_files() -> None:
    source = {"name": "UniRef50", "release": "2018_03", "url": "https://a.org/uniref2018_03.tar.gz"}
    assert source_text({**MANIFEST, "source": source}) == "UniRef50 2018_03"


def test_a_part_of_a_release_is_no_surprise() -> None:
    source: dict[str, Any] = {"name": "UniRef50", "release": "2026_03"}
    first = {**MANIFEST, "source": {**source, "limit": "10MB"}}
    assert source_text(first) == "UniRef50 2026_03, its first 10MB"
    sample = {**MANIFEST, "source": {**source, "sample": 0.01}}
    assert source_text(sample) == "UniRef50 2026_03, a downloaded sample of 1 %"
    assert cluster_warning(first) is cluster_warning(sample) is None


def test_a_list_of_ids_says_how_many_were_found() -> None:
    split = {"method": "ids", "ids": 3_016_000, "found": 3_015_998, "ids_file_sha256": "d" * 64}
    assert split_text(split) == "by a list of 3,016,000 ids, 3,015,998 of them found in the input"
    whole = {**split, "found": 3_016_000}
    assert split_text(whole) == "by a list of 3,016,000 ids, all found in the input"


@pytest.mark.parametrize(
    ("selection", "text"),
    [
        ({"strict": False}, "all valid records"),
        (
            {"strict": True, "minimum_length": 30},
            "strict: no invalid record allowed, at least 30 residues",
        ),
        (
            {"strict": False, "maximum_length": 1022, "sample": {"fraction": 0.01}},
            "at most 1022 residues, a sample of 1 %",
        ),
        ({"excluded": {"ids": 1200, "found": 34}}, "without 34 of 1,200 ids"),
    ],
)
def test_what_was_selected(selection: dict[str, Any], text: str) -> None:
    assert selection_text(selection) == text


@pytest.mark.parametrize(
    ("release", "read", "warns"),
    [
        ("2018_03", 30_160_000, False),
        ("2018_03", 30_461_600, False),  # 1 % more
        ("2018_03", 30_461_601, True),
        ("2018_03", 29_858_399, True),
        ("2026_03", 38_840_027, False),
        ("2026_03", 30_160_000, True),
        ("2025_03", 1, False),  # not known
    ],
)
def test_a_release_must_have_its_clusters(release: str, read: int, warns: bool) -> None:
    manifest = {
        **MANIFEST,
        "source": {"name": "UniRef50", "release": release},
        "counts": {**MANIFEST["counts"], "read": read},
    }
    assert (cluster_warning(manifest) is not None) is warns


def test_the_warning_names_both_numbers() -> None:
    source = {"name": "UniRef50", "release": "2018_03"}
    assert cluster_warning({**MANIFEST, "source": source}) == (
        "1,103 records were read of UniRef50 2018_03, which has about 30,160,000 clusters"
    )
    assert cluster_warning(MANIFEST) is None


def test_warnings_of_a_corpus() -> None:
    dna = {**MANIFEST, "composition": {"A": 300, "C": 200, "G": 200, "T": 290, "L": 10}}
    source = {"name": "UniRef50", "release": "2018_03"}
    few, letters = manifest_warnings({**dna, "source": source})
    assert few.startswith("1,103 records were read of UniRef50 2018_03")
    assert letters == ("99% of the residues are A, C, G, T, U or N: DNA or RNA; expected proteins")
    assert manifest_warnings(MANIFEST) == manifest_warnings({"format": "esm1b-tokens"}) == []


def test_clusters_of_the_paper_and_of_no_release() -> None:
    assert expected_clusters("2018_03") == 30_160_000
    assert expected_clusters("1999_01") is None
