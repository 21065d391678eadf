"""From sequence files to a corpus: cleaned records, split and sharded."""

import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from esm1b.corpus.describe import manifest_warnings
from esm1b.corpus.manifest import (
    CORPUS_FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    SPLITS,
    SplitName,
    check_sums,
    checked_shards,
    corpus_fingerprint,
    length_histogram,
)
from esm1b.corpus.records.id_list import IdList
from esm1b.corpus.records.selection import Counts, Selection
from esm1b.corpus.records.table import DROP_REASONS
from esm1b.corpus.sharding.inputs import Inputs, SharedBlock, share_blocks
from esm1b.corpus.sharding.parquet_shard import ShardFacts
from esm1b.corpus.sharding.worker import HELD_OUT_SEQUENCES, ShardTask, ShardWorker
from esm1b.download.release import VALIDATION_LIST_RELEASE
from esm1b.errors import UserError
from esm1b.files import write_json
from esm1b.outputs import atomic_directory
from esm1b.read_back import check_rows, reading_back
from esm1b.sequences.formats import RawBlock
from esm1b.sequences.input_file import STANDARD_INPUT
from esm1b.worker_pool import WorkerPool, start_workers

_log = logging.getLogger(__name__)

_DEFAULT_SELECTION: Final = Selection()


def shard(
    inputs: Sequence[str],
    output: Path,
    selection: Selection = _DEFAULT_SELECTION,
    *,
    shards: int = 16,
    source: Mapping[str, Any] | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Write the corpus made of the records of `inputs` to `output` and return its manifest.

    The result does not depend on the order of the records or of the files, nor on `workers`.
    Records are ordered by (hash of id, id); of records with one id, the one with the smallest
    sequence is kept. On the way they are spilled to `output`'s file system, which takes about 1.2
    bytes for each byte of the uncompressed inputs. Each worker needs some 250 MB of memory, and
    this process as much, whatever the size of the inputs.

    Args:
        inputs: FASTA, UniRef XML or UniProt release archives, plain or gzip-compressed; `-` is
            standard input.
        output: directory of the corpus; an earlier corpus there is replaced.
        selection: choice of the records to keep and to hold out.
        shards: training files; validation gets as many in proportion to its share, at least one.
        source: origin of the sequences (`name`, `release`), for the manifest.
        workers: processes beside this one that parse, sort and write; with 1 it does all itself.

    Raises:
        UserError: an input or an option is wrong, one side of the split would be empty, ids to hold
            out or all ids to exclude are missing, another process writes `output`, or the file
            system is full.
        OutputError: the files do not hold what was counted on the way.
        ChildProcessError: a worker died.
    """
    lists = [ids.file for ids in (selection.listed, selection.excluded) if ids is not None]
    opened = Inputs(inputs)
    read_files = [Path(name) for name in (*inputs, *lists) if name != STANDARD_INPUT]
    source = dict(source or {})
    # The release of the published list has its ids, but for those that a rule left out.
    allow_partial = selection.allow_partial_list or source.get("release") == VALIDATION_LIST_RELEASE
    need = partial(opened.disk_need, shards + 1)
    with atomic_directory(output, "corpus", read_files, need=need) as directory:
        spill = directory / "spill"
        for folder in (spill, *(directory / name for name in SPLITS)):
            folder.mkdir()
        with start_workers(partial(ShardWorker, directory, spill, selection), workers) as pool:
            blocks: Iterator[RawBlock | SharedBlock] = opened.blocks()
            if pool.has_processes:
                blocks = share_blocks(opened.blocks(), spill, pool.window)
            for _ in pool.map(ShardWorker.add, blocks):
                pass
            counts = sum(pool.each(ShardWorker.flush), start=Counts())
            _check_lists(counts, selection, allow_partial=allow_partial)
            _check_sides(counts, counts.selected - counts.held_out, counts.held_out, selection)
            facts, counts = _write_shards(pool, counts, spill, shards)
        shutil.rmtree(spill)
        manifest = _manifest(
            counts, facts, selection, [file.identity() for file in opened.files], source
        )
        train, validation = (manifest["sequences"][split] for split in SPLITS)
        _check_sides(counts, train, validation, selection)
        write_json(directory / MANIFEST, manifest)
        with reading_back():
            check_sums(directory / MANIFEST, manifest)
            for entry in checked_shards(directory, manifest):
                check_rows(directory / entry["file"], entry["rows"])
    for warning in manifest_warnings(manifest):
        _log.warning("%s: %s", output, warning)
    message = "%s: %d sequences to train on, %d held out, from %d records"
    _log.info(message, output, train, validation, counts.read)
    return manifest


def _check_sides(counts: Counts, train: int, validation: int, selection: Selection) -> None:
    """Check that there is something on either side."""
    kept = train + validation
    if not kept:
        dropped = {reason: n for reason in DROP_REASONS if (n := counts.dropped[reason])}
        raise UserError(
            f"no sequence kept of {counts.read} records, dropped: {dropped}; "
            "expected protein sequences"
        )
    ids = selection.listed
    rule = f"validation fraction {selection.validation_fraction} leaves"
    if ids is not None:
        rule = f"{ids.file}: its {len(ids)} ids leave"
    for name, number in (("train", train), ("validation", validation)):
        if not number:
            raise UserError(f"{rule} no {name} sequence among {kept}; expected some on either side")


def _check_lists(counts: Counts, selection: Selection, *, allow_partial: bool) -> None:
    """Check that all ids to hold out and some to exclude were found, or that the user is aware."""
    listed, excluded = selection.listed, selection.excluded
    if listed is not None and not counts.listed.all():
        text = _missing_ids(listed, counts.listed, counts)
        if not allow_partial:
            raise UserError(
                f"{text}; expected all, or --allow-partial-list: ids vanish from release to release"
            )
        _log.warning("%s", text)
    if excluded is not None and not counts.excluded.all():
        text = _missing_ids(excluded, counts.excluded, counts)
        if not counts.excluded.any() and not selection.allow_partial_list:
            raise UserError(f"{text}; expected some, or --allow-partial-list")
        _log.warning("%s", text)
    if listed is not None and excluded is not None:
        both = len(np.intersect1d(listed.hashes, excluded.hashes))
        if both:
            text = "%s: %d of its ids are in %s too: excluded, not held out"
            _log.warning(text, listed.file, both, excluded.file)


def _missing_ids(ids: IdList, found: NDArray[np.bool_], counts: Counts) -> str:
    """Return in words how many of the `ids` were `found`, with an id of either side to compare."""
    text = f"{ids.file}: {found.sum()} of its {len(ids)} ids are among the records"
    missing = ids.first_missing(found)
    if missing is None or not counts.first_ids:
        return text
    return f"{text}: {missing!r} is not, {counts.first_ids[0]!r} is"


def _write_shards(
    pool: WorkerPool[ShardWorker], counts: Counts, spill: Path, shards: int
) -> tuple[dict[SplitName, list[ShardFacts]], Counts]:
    """Have the workers write all shards from what they spilled.

    Returns:
        The facts of the shards, and the counts with what was dropped on the way.
    """
    hashes = np.concatenate([np.empty(0, np.uint64), *counts.held_out_sequences])
    np.save(spill / HELD_OUT_SEQUENCES, np.unique(hashes))
    validation_shards = max(1, round(shards * counts.held_out / counts.selected))
    facts: dict[SplitName, list[ShardFacts]] = {"train": [], "validation": []}
    size, number = counts.spilled, shards
    with tqdm(desc="write", total=shards + validation_shards, unit=" shards", disable=None) as bar:
        for split in SPLITS:
            tasks = [
                ShardTask(split=split, number=k, shards=number, size=size) for k in range(number)
            ]
            for shard_facts in pool.map(ShardWorker.write_shard, tasks):
                facts[split].append(shard_facts)
                bar.update()
            # writing the training shards has spilled the records of the validation shards
            after = sum(pool.each(ShardWorker.flush), start=Counts())
            size, number = after.spilled - size, validation_shards
    return facts, after


def _manifest(
    counts: Counts,
    facts: Mapping[SplitName, Sequence[ShardFacts]],
    selection: Selection,
    inputs: Sequence[Mapping[str, Any]],
    source: Mapping[str, Any],
) -> dict[str, Any]:
    entries = {split: [entry for entry, _, _ in facts[split]] for split in SPLITS}
    sequences, residues = (
        {split: sum(entry[key] for entry in entries[split]) for split in SPLITS}
        for key in ("rows", "residues")
    )
    lengths = {split: sum((some for _, some, _ in facts[split]), Counter()) for split in SPLITS}
    characters = np.sum([some for split in SPLITS for _, _, some in facts[split]], axis=0)
    return {
        "format": CORPUS_FORMAT,
        "format_version": FORMAT_VERSION,
        "source": source,
        "inputs": inputs,
        "counts": {
            "read": counts.read,
            "kept": sum(sequences.values()),
            "dropped": {reason: counts.dropped[reason] for reason in DROP_REASONS},
        },
        "sequences": sequences,
        "residues": residues,
        "length_histogram": length_histogram(lengths),
        "composition": {chr(one): int(characters[one]) for one in np.flatnonzero(characters)},
        "selection": selection.definition(int(counts.excluded.sum())),
        "split": selection.split_definition(int(counts.listed.sum())),
        "shards": entries,
        "fingerprint": corpus_fingerprint(entries),
    }
