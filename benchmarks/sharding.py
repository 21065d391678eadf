"""FASTA.gz to Parquet, compared with Biopython's SimpleFastaParser and pyarrow's writer.

`shard` runs the code of `esm1b shard`. Both sides read the same UniRef50-like .gz on the same
processors and write the same eight columns with zstd, synced to the disk; records that differ are
an error. `shard` also cleans, drops duplicate ids, orders by hash, splits, and computes digests.
`decompression` alone is the lower bound for any reader of a .gz. The sides run one after the other,
each in its own process with its own workers; memory is the sum over these processes.
"""

import argparse
import gzip
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from Bio.SeqIO.FastaIO import SimpleFastaParser

from benchmarks.corpus import add_corpus_options
from benchmarks.machine import describe_machine
from benchmarks.process_tree import Usage, run_in_turn, summary
from benchmarks.uniref_text import write_uniref
from esm1b.corpus.sharding.parquet_shard import CORPUS_SCHEMA
from esm1b.corpus.sharding.shard import shard
from esm1b.errors import UserError
from esm1b.sequences.input_file import InputFile

_ROW_GROUP: Final = 32_768
_RELEASE_RECORDS: Final = 60_000_000
_HEADER: Final = re.compile(r"(\S+) (.*) n=(\d+) Tax=(.*) TaxID=(\d+) RepID=(\S+)")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--fasta", type=Path, help="UniRef FASTA.gz file (default: random records)")
    add_corpus_options(parser, megabytes=1000)
    parser.add_argument(
        "--workers", type=int, default=2, help="processes of the `shard` side, its first included"
    )
    parser.add_argument("--passes", type=int, default=3, help="runs of each side")
    parser.add_argument(
        "--without-biopython", action="store_true", help="no `biopython` side, which is slow"
    )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides and return the result."""
    machine = describe_machine(threads=options.workers)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        path = options.fasta or folder / "uniref50.fasta.gz"
        if options.fasta is None:
            write_uniref(path, round(options.megabytes * 1e6), seed=options.seed)
        corpus = folder / "corpus"
        sides: dict[str, Callable[[], object]] = {
            "decompression": partial(_decompress, path),
            "shard": partial(_shard, path, corpus, options.shards, options.workers),
        }
        if not options.without_biopython:
            parquet = folder / "biopython.parquet"
            sides["biopython"] = partial(_biopython, path, parquet)
        usages = run_in_turn(sides, options.passes)
        records, text_bytes = _size(path)
        shards = list(corpus.rglob("*.parquet"))
        if not options.without_biopython and _content(shards) != _content([parquet]):
            raise RuntimeError("shard and Biopython wrote different records; expected the same")
        parquet_bytes = sum(file.stat().st_size for file in shards)
        compressed = path.stat().st_size
    megabytes = text_bytes / 1e6
    result: dict[str, Any] = {
        "benchmark": "FASTA.gz to Parquet; rates in MB (1e6 bytes) of text per second",
        "machine": machine,
        "input": {
            "source": "drawn" if options.fasta is None else options.fasta.name,
            "seed": options.seed,
            "records": records,
            "bytes": text_bytes,
            "compressed_bytes": compressed,
        },
        "parquet_bytes": parquet_bytes,
        "workers": options.workers,
        "shards": options.shards,
        "order": "sides one after the other, each in processes of its own",
        "sides": {
            side: summary(passes, amount=megabytes, unit="megabytes")
            for side, passes in usages.items()
        },
        "hours_for_60_million_records": {
            side: round(min(one.seconds for one in passes) * _RELEASE_RECORDS / records / 3600, 3)
            for side, passes in usages.items()
        },
    }
    if not options.without_biopython:
        result["ratios"] = {"biopython / shard": _ratios(usages["biopython"], usages["shard"])}
    return result


def _ratios(theirs: Sequence[Usage], ours: Sequence[Usage]) -> dict[str, Any]:
    times = sorted(a.seconds / b.seconds for a, b in zip(theirs, ours, strict=True))
    cpu = sorted(a.cpu_seconds / b.cpu_seconds for a, b in zip(theirs, ours, strict=True))
    return {
        "time": round(times[len(times) // 2], 2),
        "lowest_time": round(times[0], 2),
        "highest_time": round(times[-1], 2),
        "least_time": round(
            min(one.seconds for one in theirs) / min(one.seconds for one in ours), 2
        ),
        "cpu_time": round(cpu[len(cpu) // 2], 2),
    }


def _decompress(path: Path) -> None:
    for _ in InputFile(str(path)).chunks():
        pass


def _shard(path: Path, output: Path, shards: int, workers: int) -> None:
    shard([str(path)], output, shards=shards, workers=workers)


def _biopython(path: Path, output: Path) -> None:
    with (
        gzip.open(path, "rt") as file,
        pq.ParquetWriter(output, CORPUS_SCHEMA, compression="zstd") as writer,
    ):
        columns: dict[str, list[Any]] = {name: [] for name in CORPUS_SCHEMA.names}
        for header, sequence in SimpleFastaParser(file):
            match = _HEADER.fullmatch(header)
            if match is None:
                raise UserError(f"{path}: {header!r}; expected a UniRef header")
            identifier, name, members, taxon, taxon_id, representative = match.groups()
            columns["id"].append(identifier)
            columns["sequence"].append(sequence)
            columns["length"].append(len(sequence))
            columns["name"].append(name)
            columns["member_count"].append(int(members))
            columns["taxon"].append(taxon)
            columns["taxon_id"].append(int(taxon_id))
            columns["representative_id"].append(representative)
            if len(columns["id"]) == _ROW_GROUP:
                writer.write_table(pa.table(columns, schema=CORPUS_SCHEMA))
                columns = {name: [] for name in CORPUS_SCHEMA.names}
        writer.write_table(pa.table(columns, schema=CORPUS_SCHEMA))
    with output.open("rb") as file_to_sync:
        os.fsync(file_to_sync.fileno())


def _size(path: Path) -> tuple[int, int]:
    """Return the number of records of a FASTA file and its uncompressed bytes."""
    records = size = 0
    last = b"\n"
    for chunk in InputFile(str(path)).chunks():
        records += (last + chunk).count(b"\n>")
        size += len(chunk)
        last = chunk[-1:]
    return records, size


def _content(paths: Iterable[Path]) -> tuple[int, int]:
    """Return the number of rows and a sum of their digests, which depends on no order."""
    rows = total = 0
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches():
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                rows += 1
                digest = hashlib.blake2b(repr(values).encode(), digest_size=8).digest()
                total += int.from_bytes(digest)
    return rows, total % 2**64
