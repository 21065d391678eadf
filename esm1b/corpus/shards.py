"""From sequence files to a corpus: cleaned records, split and sharded."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from esm1b.corpus.cleaning import DROP_REASONS, DUPLICATE_ID
from esm1b.corpus.external_sort import RecordSort, drop_duplicate_ids
from esm1b.corpus.fasta import read_fasta_blocks
from esm1b.corpus.input_file import InputFile
from esm1b.corpus.manifest import (
    CORPUS_FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    SPLITS,
    SplitName,
    composition,
    corpus_fingerprint,
    length_histogram,
)
from esm1b.corpus.prefetch import prefetch
from esm1b.corpus.records import clean_records
from esm1b.corpus.shard_writer import ShardWriter
from esm1b.corpus.split import FractionSplit, Split, read_id_split
from esm1b.errors import UserError
from esm1b.files import atomic_directory, write_json

__all__ = ["shard"]

_LOGGER = logging.getLogger(__name__)


def shard(
    inputs: Sequence[str],
    output: Path,
    *,
    shards: int = 16,
    validation_fraction: float = 0.005,
    validation_ids: Path | None = None,
    source: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Write the corpus made of all records of `inputs` to `output` and return its manifest.

    The result does not depend on the order of the records or of the files. Records are ordered by
    (hash of id, id); of records with one id, the one with the smallest sequence is kept. The sort
    spills to `output`'s file system, about as many bytes as the uncompressed inputs.

    Args:
        inputs: FASTA files, plain or gzip-compressed; `-` is standard input.
        output: the corpus directory; an earlier corpus there is replaced.
        shards: training files; validation gets as many in proportion to its share, at least one.
        validation_fraction: share of the sequences to hold out.
        validation_ids: a file of ids to hold out instead.
        source: where the sequences come from (`name`, `release`), for the manifest.

    Raises:
        UserError: an input or an option is wrong, or one side of the split would be empty.
    """
    if shards < 1:
        raise UserError(f"shards {shards}: expected at least 1")
    files = _open_inputs(inputs)
    split = (
        FractionSplit(fraction=validation_fraction)
        if validation_ids is None
        else read_id_split(validation_ids)
    )
    with atomic_directory(output) as directory:
        runs = directory / "runs"
        records = RecordSort(runs)
        counts, held_out = _collect(files, split, records)
        validation_shards = max(1, round(shards * held_out / max(1, records.rows)))
        writers: dict[SplitName, ShardWriter] = {
            "train": ShardWriter(directory / "train", shards),
            "validation": ShardWriter(directory / "validation", validation_shards),
        }
        counts[DUPLICATE_ID] = _write(records, writers)
        shutil.rmtree(runs)
        manifest = _manifest(files, counts, writers, split, dict(source or {}))
        _check_split(manifest, split)
        write_json(directory / MANIFEST, manifest)
    _LOGGER.info(
        "%s: %d sequences to train on, %d held out, from %d records",
        output,
        manifest["sequences"]["train"],
        manifest["sequences"]["validation"],
        manifest["counts"]["read"],
    )
    return manifest


def _open_inputs(inputs: Sequence[str]) -> list[InputFile]:
    if not inputs:
        raise UserError("no input: expected at least one FASTA file, or '-' for standard input")
    repeated = [name for name, times in Counter(inputs).items() if times > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: given more than once; expected each input once")
    return [InputFile(name) for name in inputs]


def _collect(
    files: Iterable[InputFile], split: Split, records: RecordSort
) -> tuple[Counter[str], int]:
    """Feed all cleaned records to `records`; return counts (`read`, dropped) and held out."""
    counts: Counter[str] = Counter()
    held_out = 0
    for file in files:
        with tqdm(
            desc=f"read {file.name}", total=file.size, unit="B", unit_scale=True, disable=None
        ) as bar:
            for block in read_fasta_blocks(file):
                cleaned = clean_records(block, split)
                records.add(cleaned.table)
                counts["read"] += cleaned.read
                counts.update(cleaned.dropped)
                held_out += cleaned.table["validation"].to_numpy().sum()
                bar.update(file.bytes_read - bar.n)
    return counts, int(held_out)


def _write(records: RecordSort, writers: Mapping[SplitName, ShardWriter]) -> int:
    """Write the records without duplicates; return how many duplicates there were."""
    duplicates = 0
    with tqdm(desc="write", unit=" records", unit_scale=True, disable=None) as bar:
        for table in prefetch(records.intervals()):
            unique = drop_duplicate_ids(table)
            duplicates += table.num_rows - unique.num_rows
            is_validation = unique["validation"].to_numpy()
            writers["train"].write(unique.filter(~is_validation))
            writers["validation"].write(unique.filter(is_validation))
            bar.update(table.num_rows)
    for writer in writers.values():
        writer.close()
    return duplicates


def _manifest(
    files: Iterable[InputFile],
    counts: Counter[str],
    writers: Mapping[SplitName, ShardWriter],
    split: Split,
    source: dict[str, str],
) -> dict[str, Any]:
    entries = {name: writers[name].shards for name in SPLITS}
    dropped = {reason: counts[reason] for reason in DROP_REASONS}
    sequences = {name: sum(entry["rows"] for entry in entries[name]) for name in SPLITS}
    residues = {name: sum(entry["residues"] for entry in entries[name]) for name in SPLITS}
    return {
        "format": CORPUS_FORMAT,
        "format_version": FORMAT_VERSION,
        "source": source,
        "inputs": [file.identity() for file in files],
        "counts": {"read": counts["read"], "kept": sum(sequences.values()), "dropped": dropped},
        "sequences": sequences,
        "residues": residues,
        "length_histogram": length_histogram(
            {name: writers[name].length_counts for name in SPLITS}
        ),
        "composition": composition(
            writers["train"].composition + writers["validation"].composition
        ),
        "split": split.definition(),
        "shards": entries,
        "fingerprint": corpus_fingerprint(entries),
    }


def _check_split(manifest: Mapping[str, Any], split: Split) -> None:
    kept = manifest["counts"]["kept"]
    if not kept:
        raise UserError(
            f"no sequence kept of {manifest['counts']['read']} records, dropped: "
            f"{manifest['counts']['dropped']}; expected protein sequences"
        )
    for name in SPLITS:
        if not manifest["sequences"][name]:
            raise UserError(
                f"{split.describe()} no {name} sequence among {kept}; expected some on either side"
            )
