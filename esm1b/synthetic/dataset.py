"""Protein families drawn from a known model: the demonstration's data, whose truth is exact.

Each family is a pairwise model whose contact graph is a forest (`esm1b.synthetic.potts`). Its
fields carry a secondary structure, and its couplings favor complementary residues at sites in
contact. A language model trained on the sequences can be compared with the truth: the contacts, the
secondary structure and the best possible predictions (`esm1b.synthetic.exact_predictions`).
"""

import gzip
import io
import textwrap
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.alphabet import FIRST_AMINO_ACID, decode
from esm1b.errors import UserError
from esm1b.outputs import atomic_directory
from esm1b.read_back import check_count, check_rows
from esm1b.synthetic.assays import ASSAYS_DIRECTORY, write_assay, write_reference
from esm1b.synthetic.families import (
    LENGTHS,
    FamilyKind,
    SyntheticFamily,
    draw_families,
    random_stream,
)
from esm1b.synthetic.potts import PottsForest

SEQUENCES_FILE: Final = "sequences.fasta.gz"
STRUCTURES_FILE: Final = "structures.parquet"
TRUTH_FILE: Final = "truth.npz"

_STRUCTURES: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("sequence", pa.string(), nullable=False),
        pa.field("observed", pa.string(), nullable=False),
        pa.field("contact_i", pa.list_(pa.int32()), nullable=False),
        pa.field("contact_j", pa.list_(pa.int32()), nullable=False),
        pa.field("ss3", pa.string()),
    ]
)


def synthesize(
    output: Path,
    *,
    families: int = 16,
    unseen_families: int = 6,
    sequences: int = 2_000,
    members: int = 8,
    lengths: range = LENGTHS,
    seed: int = 1,
) -> None:
    """Write the sequences, the structure table and the truth to the directory `output`.

    `sequences.fasta.gz` has `sequences` sequences of each corpus family, shuffled, in the format of
    a UniRef50 release. `structures.parquet` has `members` more sequences of every family, with
    contacts (pairs the model couples), secondary structure and `group` = family. `truth.npz` is
    for `load_truth`. `assays/` has variants of the first member of each family that tests, with
    their exact effects, in the layout of ProteinGym. The same arguments give the same bytes.

    Raises:
        UserError: `output` holds something else, or another process writes it.
        OutputError: a file does not hold what was written to it.
    """
    with atomic_directory(output, "synthetic") as directory:
        drawn = draw_families(families, unseen_families, lengths=lengths, seed=seed)
        names: list[str] = []
        corpus: list[str] = []
        rows: list[dict[str, Any]] = []
        assays: list[dict[str, Any]] = []
        folder = directory / ASSAYS_DIRECTORY
        folder.mkdir()
        for index, family in enumerate(tqdm(drawn, desc="families", disable=None)):
            generator = random_stream(seed, 1, index)
            count = 0 if family.kind == "unseen" else sequences
            of_family = _draw_sequences(family, count, generator)
            names += [family.name] * count
            corpus += of_family
            structures = _structure_rows(family, members, set(of_family), generator)
            rows += structures
            if family.kind != "fit":
                generator = random_stream(seed, 3, index)
                assays.append(write_assay(folder, family, structures[0]["sequence"], generator))
        order = random_stream(seed, 2).permutation(len(corpus))
        _write_fasta(directory / SEQUENCES_FILE, ((names[i], corpus[i]) for i in order))
        pq.write_table(pa.Table.from_pylist(rows, schema=_STRUCTURES), directory / STRUCTURES_FILE)
        check_rows(directory / STRUCTURES_FILE, len(rows))
        _save_truth(directory / TRUTH_FILE, drawn)
        write_reference(folder, assays)


def load_truth(path: Path) -> list[SyntheticFamily]:
    """Read the families that `synthesize` wrote, from its directory or from `truth.npz` itself.

    Raises:
        UserError: the file is missing or is not one that `synthesize` wrote.
    """
    file = path / TRUTH_FILE if path.is_dir() else path
    if file.is_file() and not zipfile.is_zipfile(file):
        raise UserError(f"{file}: not an .npz archive; expected the truth of synthetic families")
    try:
        with np.load(file, allow_pickle=False) as archive:
            truth = {name: archive[name] for name in archive.files}
        sites, edges = (np.cumsum(truth[key])[:-1] for key in ("lengths", "edge_counts"))
        columns = [truth[key] for key in ("names", "kinds", "ss3")]
        columns += [np.split(truth["fields"], sites)]
        columns += [np.split(truth[key], edges) for key in ("edges", "couplings")]
        return [
            SyntheticFamily(
                name=str(name),
                kind=cast(FamilyKind, str(kind)),
                ss3=str(ss3),
                potts=PottsForest(fields=fields, edges=pairs, couplings=couplings),
            )
            for name, kind, ss3, fields, pairs, couplings in zip(*columns, strict=True)
        ]
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}") from error
    except (LookupError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file}: {error}; expected the truth of synthetic families") from error


def _draw_sequences(
    family: SyntheticFamily, count: int, generator: np.random.Generator
) -> list[str]:
    return [decode(row + FIRST_AMINO_ACID) for row in family.potts.sample(count, generator)]


def _structure_rows(
    family: SyntheticFamily, count: int, known: set[str], generator: np.random.Generator
) -> list[dict[str, Any]]:
    """Return `count` rows of the structure table; none of their sequences is in `known`."""
    fresh: list[str] = []
    while len(fresh) < count:
        for sequence in _draw_sequences(family, count - len(fresh), generator):
            if sequence not in known:
                known.add(sequence)
                fresh.append(sequence)
    return [
        {
            "id": f"{family.name}-{number:02d}",
            "group": family.name,
            "kind": family.kind,
            "sequence": sequence,
            "observed": "1" * len(sequence),
            "contact_i": family.potts.edges[:, 0].tolist(),
            "contact_j": family.potts.edges[:, 1].tolist(),
            "ss3": family.ss3,
        }
        for number, sequence in enumerate(fresh)
    ]


def _write_fasta(path: Path, records: Iterator[tuple[str, str]]) -> None:
    """Write (family, sequence) records in UniRef50's format: its header fields, 60 columns.

    No real accession looks like these; 32630 is NCBI's taxon for synthetic constructs.
    """
    with (
        path.open("wb") as raw,
        # no file name and no time in the gzip header: the same records give the same bytes
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as compressed,
        io.TextIOWrapper(compressed, encoding="ascii", newline="\n") as text,
    ):
        number = 0
        for number, (family, sequence) in enumerate(records, start=1):
            accession = f"SYN{number:07d}"
            text.write(
                f">UniRef50_{accession} Synthetic protein of {family} n=1 "
                f"Tax=synthetic construct TaxID=32630 RepID={accession}_SYNTH\n"
                f"{textwrap.fill(sequence, 60)}\n"
            )
    with gzip.open(path) as file:
        check_count(path, sum(line.startswith(b">") for line in file), number, "records")


def _save_truth(path: Path, families: Sequence[SyntheticFamily]) -> None:
    arrays: dict[str, NDArray[np.generic]] = {
        "names": np.array([family.name for family in families]),
        "kinds": np.array([family.kind for family in families]),
        "ss3": np.array([family.ss3 for family in families]),
        "lengths": np.array([family.potts.length for family in families]),
        "edge_counts": np.array([len(family.potts.edges) for family in families]),
    }
    for name in ("fields", "edges", "couplings"):
        arrays[name] = np.concatenate([getattr(family.potts, name) for family in families])
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
