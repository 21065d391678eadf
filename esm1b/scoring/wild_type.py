"""The protein whose variants are scored."""

import logging
from itertools import chain

from esm1b.errors import UserError
from esm1b.sequences.fasta import read_fasta_blocks
from esm1b.sequences.input_file import InputFile
from esm1b.sequences.record import clean, count_nucleotides, drop_reason, fault, nucleotide_warning

_log = logging.getLogger(__name__)


def read_wild_type(fasta: str) -> tuple[str, str]:
    """Return id and sequence of the only record of a FASTA file, or of `-`, standard input.

    Raises:
        UserError: the file is no FASTA, has another number of records, or its sequence is invalid.
    """
    file = InputFile(fasta)
    blocks = read_fasta_blocks(file)
    first = next(blocks, None)
    count = 0 if first is None else sum(len(block.headers) for block in chain([first], blocks))
    if first is None or count != 1:
        raise UserError(f"{file.name}: {count} records; expected one, the wild type")
    (header,) = first.headers
    sequence = checked_sequence(f"{file.name}: record 1 ({header.id})", first.sequences[0])
    nucleotides = count_nucleotides(sequence.encode())
    if warning := nucleotide_warning(nucleotides, len(sequence)):
        _log.warning("%s: %s", file.name, warning)
    return header.id, sequence


def checked_sequence(where: str, sequence: bytes) -> str:
    """Return a protein sequence in upper case without white space, or raise an error at `where`."""
    cleaned = clean(sequence)
    if drop_reason(cleaned) is not None:
        raise UserError(f"{where}: {fault(cleaned)}")
    return cleaned.decode()
