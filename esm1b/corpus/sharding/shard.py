"""From sequence files to a corpus: cleaned records, split and sharded."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from esm1b.corpus.describe import cluster_warning
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
from esm1b.corpus.records.id_list import read_id_list
from esm1b.corpus.records.selection import DROP_REASONS, Selection
from esm1b.corpus.records.split import FractionSplit, Split, read_id_split
from esm1b.corpus.sharding.read_inputs import Progress, ReadingAccount, read_inputs
from esm1b.corpus.sharding.worker import ShardAccount, ShardTask, ShardWorker
from esm1b.disk_space import explain_full_disk
from esm1b.download.release import VALIDATION_LIST_RELEASE
from esm1b.errors import UserError
from esm1b.files import atomic_directory, write_json
from esm1b.sequences.input_file import STANDARD_INPUT, InputFile
from esm1b.worker_pool import WorkerPool

_log = logging.getLogger(__name__)


def shard(
    inputs: Sequence[str],
    output: Path,
    *,
    shards: int = 16,
    validation_fraction: float = 0.005,
    validation_ids: Path | None = None,
    allow_partial_list: bool = False,
    minimum_length: int | None = None,
    maximum_length: int | None = None,
    sample: float | None = None,
    exclude: Path | None = None,
    strict: bool = False,
    source: Mapping[str, Any] | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Write the corpus made of all records of `inputs` to `output` and return its manifest.

    The result does not depend on the order of the records or of the files, nor on `workers`.
    Records are ordered by (hash of id, id); of records with one id, the one with the smallest
    sequence is kept. On the way they are spilled to `output`'s file system, which takes about 1.2
    bytes for each byte of the uncompressed inputs. Each worker needs some 250 MB of memory, and
    this process as much, whatever the size of the inputs.

    Args:
        inputs: FASTA, UniRef XML or UniProt release archives, plain or gzip-compressed; `-` is
            standard input.
        output: the corpus directory; an earlier corpus there is replaced.
        shards: training files; validation gets as many in proportion to its share, at least one.
        validation_fraction: share of the sequences to hold out.
        validation_ids: a file of ids to hold out instead. A record with another id and the same
            sequence as one of them is dropped.
        allow_partial_list: go on if some of those ids are not among the records.
        minimum_length: residues below which a record is dropped.
        maximum_length: residues above which a record is dropped.
        sample: share of the sequences to keep, by a keyed hash of the sequence.
        exclude: a file of ids, or FASTA, whose records are left out.
        strict: refuse the inputs instead of dropping a record with other characters, without a
            sequence, of a length that is not wanted, or with the id of another.
        source: where the sequences come from (`name`, `release`), for the manifest.
        workers: processes beside this one that parse, sort and write; with 1 it does all itself.

    Raises:
        UserError: an input or an option is wrong, one side of the split would be empty, listed ids
            are missing, or the file system is full.
        ChildProcessError: a worker died.
    """
    for name, value in (("shards", shards), ("workers", workers)):
        if value < 1:
            raise UserError(f"{name} {value}: expected at least 1")
    split = (
        FractionSplit(fraction=validation_fraction)
        if validation_ids is None
        else read_id_split(validation_ids)
    )
    selection = Selection(
        minimum_length=minimum_length,
        maximum_length=maximum_length,
        sample=sample,
        excluded=None if exclude is None else read_id_list(exclude),
        strict=strict,
    )
    files = _open_inputs(inputs)
    progress = Progress(files)
    read_files = [Path(name) for name in inputs if name != STANDARD_INPUT]
    read_files += [path for path in (validation_ids, exclude) if path is not None]
    with (
        explain_full_disk(output, progress.need),
        atomic_directory(output, "corpus", read_files) as directory,
    ):
        spill = directory / "spill"
        for folder in (spill, *(directory / name for name in SPLITS)):
            folder.mkdir()
        with WorkerPool(partial(ShardWorker, directory, selection, split), workers) as pool:
            read = read_inputs(progress.blocks(), pool, split.listed, selection.excluded, spill)
            _check_sides(read.counts, read.kept - read.held_out, read.held_out, split)
            # The release of the published list has its ids, save what a rule above left out.
            is_its_release = (source or {}).get("release") == VALIDATION_LIST_RELEASE
            _check_list(read.listed, split, allow_partial_list=allow_partial_list or is_its_release)
            np.save(spill / "held-out.npy", read.held_out_sequences)
            accounts = _write(pool, read, shards)
        shutil.rmtree(spill)
        manifest = _manifest(files, read, accounts, selection, split, dict(source or {}))
        sequences = manifest["sequences"]
        _check_sides(read.counts, sequences["train"], sequences["validation"], split)
        write_json(directory / MANIFEST, manifest)
    if warning := cluster_warning(manifest):
        _log.warning("%s: %s", output, warning)
    _log.info(
        "%s: %d sequences to train on, %d held out, from %d records",
        output,
        sequences["train"],
        sequences["validation"],
        read.counts["read"],
    )
    return manifest


def _open_inputs(inputs: Sequence[str]) -> list[InputFile]:
    if not inputs:
        raise UserError("no input: expected at least one FASTA file, or '-' for standard input")
    repeated = [name for name, times in Counter(inputs).items() if times > 1]
    if repeated:
        raise UserError(f"{repeated[0]}: given more than once; expected each input once")
    return [InputFile(name) for name in inputs]


def _check_sides(counts: Counter[str], train: int, validation: int, split: Split) -> None:
    """Check that there is something on either side."""
    kept = train + validation
    if not kept:
        dropped = {reason: counts[reason] for reason in DROP_REASONS if counts[reason]}
        raise UserError(
            f"no sequence kept of {counts['read']} records, dropped: {dropped}; "
            "expected protein sequences"
        )
    for name, number in (("train", train), ("validation", validation)):
        if not number:
            raise UserError(
                f"{split.describe()} no {name} sequence among {kept}; expected some on either side"
            )


def _check_list(found: int, split: Split, *, allow_partial_list: bool) -> None:
    """Check that all listed ids were found, or that the user does not mind."""
    if split.listed is None or found == len(split.listed):
        return
    text = f"{split.listed.file}: {found} of its {len(split.listed)} ids are among the records"
    if not allow_partial_list:
        raise UserError(
            f"{text}; expected all, or --allow-partial-list: ids vanish from release to release"
        )
    _log.warning("%s", text)


def _write(
    pool: WorkerPool[ShardWorker], read: ReadingAccount, shards: int
) -> dict[SplitName, list[ShardAccount]]:
    """Have the workers write all shards from what they spilled."""
    validation_shards = max(1, round(shards * read.held_out / read.kept))
    accounts: dict[SplitName, list[ShardAccount]] = {"train": [], "validation": []}
    with tqdm(desc="write", total=shards + validation_shards, unit=" shards", disable=None) as bar:
        task = ShardTask(number=0, shards=shards, train_shards=shards, size=read.spilled)
        for account in pool.map(ShardWorker.write_train, _tasks(task)):
            accounts["train"].append(account)
            bar.update()
        held_out_size = sum(account.held_out_size for account in accounts["train"])
        task = replace(task, shards=validation_shards, size=held_out_size)
        for account in pool.map(ShardWorker.write_validation, _tasks(task)):
            accounts["validation"].append(account)
            bar.update()
    return accounts


def _tasks(first: ShardTask) -> Iterator[ShardTask]:
    return (replace(first, number=number) for number in range(first.shards))


def _manifest(
    files: Sequence[InputFile],
    read: ReadingAccount,
    accounts: Mapping[SplitName, Sequence[ShardAccount]],
    selection: Selection,
    split: Split,
    source: dict[str, Any],
) -> dict[str, Any]:
    every = [account for name in SPLITS for account in accounts[name]]
    counts = sum([account.dropped for account in every], read.counts)
    entries = {name: [account.facts.entry for account in accounts[name]] for name in SPLITS}
    sequences = {name: sum(entry["rows"] for entry in entries[name]) for name in SPLITS}
    residues = {name: sum(entry["residues"] for entry in entries[name]) for name in SPLITS}
    lengths = {
        name: sum((account.facts.lengths for account in accounts[name]), Counter[int]())
        for name in SPLITS
    }
    selected, split_definition = selection.definition(), split.definition()
    if split.listed is not None:
        split_definition["found"] = read.listed
    if selection.excluded is not None:
        selected["excluded"]["found"] = read.excluded
    return {
        "format": CORPUS_FORMAT,
        "format_version": FORMAT_VERSION,
        "source": source,
        "inputs": [file.identity() for file in files],
        "counts": {
            "read": counts["read"],
            "kept": sum(sequences.values()),
            "dropped": {reason: counts[reason] for reason in DROP_REASONS},
        },
        "sequences": sequences,
        "residues": residues,
        "length_histogram": length_histogram(lengths),
        "composition": composition(
            np.sum([account.facts.composition for account in every], axis=0)
        ),
        "selection": selected,
        "split": split_definition,
        "shards": entries,
        "fingerprint": corpus_fingerprint(entries),
    }
