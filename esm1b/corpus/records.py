"""Cleaned records as Arrow tables, with what decides their place in the corpus."""

from collections import Counter
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from esm1b.corpus.cleaning import clean_all
from esm1b.corpus.fasta import FastaBlock
from esm1b.corpus.header import Header, parse_header
from esm1b.corpus.split import Split, id_hashes

__all__ = ["RECORD_SCHEMA", "CleanedRecords", "clean_records"]

# `order` is the hash of the id, `validation` the side of the split. Strings are "large" because a
# table of the sort may pass the 2 GiB that Arrow's plain strings can address.
RECORD_SCHEMA: Final = pa.schema(
    [
        pa.field("order", pa.uint64(), nullable=False),
        pa.field("validation", pa.bool_(), nullable=False),
        pa.field("id", pa.large_string(), nullable=False),
        pa.field("sequence", pa.large_string(), nullable=False),
        pa.field("name", pa.large_string()),
        pa.field("member_count", pa.int32()),
        pa.field("taxon", pa.large_string()),
        pa.field("taxon_id", pa.int64()),
        pa.field("representative_id", pa.large_string()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class CleanedRecords:
    """Kept records and the account of the others.

    Attributes:
        table: the kept records, columns as `RECORD_SCHEMA`.
        read: records looked at.
        dropped: how many of them were dropped for which reason.
    """

    table: pa.Table
    read: int
    dropped: Counter[str]


def clean_records(block: FastaBlock, split: Split) -> CleanedRecords:
    """Return the records of `block` that enter the corpus, cleaned and with their side."""
    sequences, kept, dropped = clean_all(block.sequences)
    headers = [parse_header(block.headers[index]) for index in kept]
    order = id_hashes(header.id.encode() for header in headers)
    fields = list(zip(*headers, strict=True)) or [()] * len(Header._fields)
    ids, *annotations = [
        pa.array(values, RECORD_SCHEMA.field(name).type)
        for name, values in zip(Header._fields, fields, strict=True)
    ]
    letters = pa.array(sequences, pa.large_binary()).cast(pa.large_string())
    validation = split.is_validation(sequences, order)
    columns = [pa.array(order), pa.array(validation), ids, letters, *annotations]
    table = pa.table(columns, schema=RECORD_SCHEMA)
    return CleanedRecords(table=table, read=len(block.sequences), dropped=dropped)
