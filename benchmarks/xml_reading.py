"""UniRef XML to records, compared with the usual `lxml.iterparse` loop.

`whole` runs the code of `esm1b shard` in one process. Both sides read the same random .xml.gz and
must find the same records. Further sides time the stages that bound release 2018_03: decompression
alone, cutting into blocks (one process), parsing blocks (each worker), and passing over UniRef100
and UniRef90 in the archive. If lxml is not installed, its side is left out.
"""

import argparse
import gzip
import importlib
import importlib.util
import random
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.interleaving import Measured, Work, measure_in_turn
from benchmarks.machine import describe_machine, installed_version
from benchmarks.proteins import read_or_draw
from benchmarks.uniref_files import tar
from esm1b.sequences.formats import RawBlock, parse_block, raw_blocks
from esm1b.sequences.input_file import InputFile

# Estimates for the archive of 2018_03: a size between those of the neighboring releases, clusters
# from the published list of held-out ones, and the bytes of uniref50.xml.gz per cluster of 2026_03
# (20,587,679,812 / 38,840,027).
_ARCHIVE_BYTES: Final = 85e9
_CLUSTERS: Final = 30.16e6
_COMPRESSED_BYTES_PER_CLUSTER: Final = 530
_NAMES: Final = (
    "Uncharacterized protein",
    "ABC transporter, ATP-binding protein",
    "5&apos;-nucleotidase SurE",
    "Zinc finger protein 4 (Fragment)",
    "DNA-directed RNA polymerase subunit beta &amp; beta&apos;",
)
_TAXA: Final = ("Bacteria", "root", "Homo sapiens (Human)", "Streptomyces sp. NRRL F-5123")
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

Record = tuple[str, str | None, int | None, str | None, int | None, str | None, bytes]


def decompress(path: Path) -> int:
    """Decompress with ISA-L, as the package does, and return the bytes of text."""
    return sum(map(len, InputFile(str(path)).chunks(4 << 20)))


def decompress_by_zlib(path: Path) -> int:
    """Decompress with zlib and return the bytes of text."""
    size = 0
    member = zlib.decompressobj(wbits=31)
    with path.open("rb") as file:
        while data := file.read(1 << 18):
            size += len(member.decompress(data))
    return size


def cut(path: Path) -> int:
    """Decompress and cut, as one process does for all workers; return the bytes of the blocks."""
    return sum(len(block.text) for block in raw_blocks(InputFile(str(path))))


def pass_over(path: Path) -> int:
    """Decompress and digest an archive up to UniRef50; return the bytes of the archive."""
    file = InputFile(str(path))
    for _ in raw_blocks(file):
        pass
    return file.bytes_read


class Stage(Work):
    """One stage of reading a file, repeated for every piece of work."""

    def __init__(self, stage: Callable[[Path], int], path: Path) -> None:
        self._stage = stage
        self._path = path

    def first(self) -> int:
        """Return a number of bytes."""
        return self._stage(self._path)


class Parsing(Work):
    """Parsing of blocks in memory, as each worker does."""

    def __init__(self, path: Path) -> None:
        self._blocks: list[RawBlock] = list(raw_blocks(InputFile(str(path))))

    def first(self) -> int:
        """Return the number of records."""
        return sum(len(parse_block(block).headers) for block in self._blocks)


class Whole(Work):
    """Decompressing, cutting and parsing in one process."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def first(self) -> list[Record]:
        """Return the records."""
        found: list[Record] = []
        for block in raw_blocks(InputFile(str(self._path))):
            parsed = parse_block(block)
            found += [
                (*header, sequence)
                for header, sequence in zip(parsed.headers, parsed.sequences, strict=True)
            ]
        return found

    def run(self, piece: int) -> None:
        """Read once more, keeping nothing."""
        for block in raw_blocks(InputFile(str(self._path))):
            parse_block(block)


class Lxml(Work):
    """The loop of most repositories: `iterparse`, read the fields, clear the entry."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._etree = importlib.import_module("lxml.etree")

    def first(self) -> list[Record]:
        """Return the records."""
        return [self._record(entry) for entry in self._entries()]

    def run(self, piece: int) -> None:
        """Read once more, keeping nothing."""
        for entry in self._entries():
            self._record(entry)

    def _entries(self) -> Any:
        with gzip.open(self._path) as file:
            for _, entry in self._etree.iterparse(file, tag="{*}entry"):
                yield entry
                entry.clear()
                while entry.getprevious() is not None:
                    del entry.getparent()[0]

    def _record(self, entry: Any) -> Record:
        properties = {item.get("type"): item.get("value") for item in entry.iterfind("{*}property")}
        member = entry.find("{*}representativeMember")
        return (
            entry.get("id"),
            entry.findtext("{*}name").removeprefix("Cluster: "),
            int(properties["member count"]),
            properties["common taxon"],
            int(properties["common taxon ID"]),
            member.find("{*}dbReference").get("id"),
            "".join(member.findtext("{*}sequence").split()).encode(),
        )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument(
        "--megabytes",
        type=float,
        default=200,
        help="uncompressed size of the random XML, in MB (1e6 bytes)",
    )
    parser.add_argument("--passes", type=int, default=3, help="runs of each side")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run all sides and return the result."""
    machine = describe_machine(threads=1)
    size = round(options.megabytes * 1e6)
    with tempfile.TemporaryDirectory() as folder:
        path, archive = Path(folder) / "uniref50.xml.gz", Path(folder) / "release.tar.gz"
        entries = _write_xml(path, size, options.seed)
        _write_archive(archive, size, options.seed)
        compressed = path.stat().st_size
        sides: dict[str, Any] = {
            "decompression (ISA-L)": partial(Stage, decompress, path),
            "decompression (zlib)": partial(Stage, decompress_by_zlib, path),
            "cutting": partial(Stage, cut, path),
            "parsing": partial(Parsing, path),
            "whole": partial(Whole, path),
            "passing over": partial(Stage, pass_over, archive),
        }
        if importlib.util.find_spec("lxml"):
            sides["lxml"] = partial(Lxml, path)
        measured = measure_in_turn(sides, passes=options.passes, pieces=1, threads=1)
    text_bytes = measured["decompression (ISA-L)"].first
    result: dict[str, Any] = {
        "benchmark": "UniRef XML to records; rates in MB (1e6 bytes) of XML per second",
        "machine": machine,
        "versions": {name: installed_version(name) for name in ("isal", "lxml")},
        "xml": {
            "entries": entries,
            "bytes": text_bytes,
            "compressed_bytes": compressed,
            "seed": options.seed,
        },
        "order": "sides in turn, each in a process of its own",
        "sides": {
            name: _summary(side, side.first if name == "passing over" else text_bytes)
            for name, side in measured.items()
        },
    }
    # by processor time, which other load on the machine does not change
    rates = {name: side["megabytes_per_cpu_second"] for name, side in result["sides"].items()}
    if "lxml" in measured:
        if measured["lxml"].first != measured["whole"].first:
            raise RuntimeError("lxml and this package found different records; expected the same")
        result["ratios"] = {"lxml / whole": measured["lxml"].compared_with(measured["whole"])}
    else:
        result["note"] = "lxml is not installed, so it was left out"
    result["release_2018_03"] = _extrapolated(rates, text_bytes / compressed)
    return result


def _extrapolated(rates: dict[str, float], compression: float) -> dict[str, Any]:
    """Return hours for the archive of 2018_03, by number of workers besides the reading process."""
    compressed = _CLUSTERS * _COMPRESSED_BYTES_PER_CLUSTER
    passing = (_ARCHIVE_BYTES - compressed) / rates["passing over"] / 1e6
    text_megabytes = compressed * compression / 1e6
    seconds = {"one process": text_megabytes / rates["whole"]}
    for workers in (1, 2, 4):
        rate = min(rates["cutting"], workers * rates["parsing"])
        seconds[f"{workers} workers"] = text_megabytes / rate
    if "lxml" in rates:
        seconds["lxml"] = text_megabytes / rates["lxml"]
    shares = (_ARCHIVE_BYTES / 1e9, compressed / 1e9, text_megabytes / 1e3)
    return {
        "assumed": "{:.0f} GB, of which {:.0f} GB are UniRef50, of {:.0f} GB of XML; "
        "rates per second of processor; a disk that keeps up".format(*shares),
        "hours": {name: round((passing + reading) / 3600, 2) for name, reading in seconds.items()},
        "of_which_passing_over": round(passing / 3600, 2),
    }


def _summary(side: Measured, size: int) -> dict[str, Any]:
    seconds = median(side.pass_seconds)
    return {
        "megabytes_per_second": round(size / seconds / 1e6, 1),
        "megabytes_per_cpu_second": round(size / median(map(sum, side.cpu_seconds)) / 1e6, 1),
        "peak_memory_mib": round(side.peak_memory_bytes / 2**20),
        "seconds_by_pass": [round(second, 3) for second in side.pass_seconds],
    }


def _write_xml(path: Path, size: int, seed: int) -> int:
    """Write about `size` bytes of entries in the layout of 2018_03; return their number.

    A cluster has about four members on average, most have one; half of the text is members.
    """
    random_numbers = random.Random(seed)
    sequences = cycle(read_or_draw(None, residues=max(2000, size // 40), seed=seed))
    entries = written = 0
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(
            b'<?xml version="1.0" encoding="ISO-8859-1" ?>\n<UniRef50 '
            b'xmlns="http://uniprot.org/uniref" releaseDate="2018-03-28" version="2018_03" >\n'
        )
        while written < size:
            written += file.write(_entry(random_numbers, next(sequences)).encode())
            entries += 1
        file.write(b"</UniRef50>\n")
    return entries


def _entry(random_numbers: random.Random, sequence: str) -> str:
    members = min(5000, int(random_numbers.paretovariate(1.3)))
    accession = _accession(random_numbers)
    lines = "\n".join(sequence[start : start + 60] for start in range(0, len(sequence), 60))
    return (
        f'<entry id="UniRef50_{accession}" updated="2018-03-28">\n'
        f"<name>Cluster: {random_numbers.choice(_NAMES)}</name>\n"
        f'<property type="member count" value="{members}"/>\n'
        f'<property type="common taxon" value="{random_numbers.choice(_TAXA)}"/>\n'
        f'<property type="common taxon ID" value="{random_numbers.randrange(3_000_000)}"/>\n'
        "<representativeMember>\n"
        + _member(random_numbers, accession, len(sequence))
        + f'  <sequence length="{len(sequence)}" checksum="B4840739BF7D4121">\n'
        f"{lines}\n  </sequence>\n</representativeMember>\n"
        + "".join(
            "<member>\n"
            + _member(random_numbers, _accession(random_numbers), len(sequence))
            + "</member>\n"
            for _ in range(members - 1)
        )
        + "</entry>\n"
    )


def _member(random_numbers: random.Random, accession: str, length: int) -> str:
    properties = {
        "UniProtKB accession": accession,
        "UniParc ID": f"UPI{random_numbers.getrandbits(40):010X}",
        "UniRef100 ID": f"UniRef100_{accession}",
        "UniRef90 ID": f"UniRef90_{accession}",
        "protein name": random_numbers.choice(_NAMES),
        "source organism": random_numbers.choice(_TAXA),
        "NCBI taxonomy": random_numbers.randrange(3_000_000),
        "length": length,
    }
    return (
        f'  <dbReference type="UniProtKB ID" id="{accession}_9BACT">\n'
        + "".join(
            f'    <property type="{key}" value="{value}"/>\n' for key, value in properties.items()
        )
        + "  </dbReference>\n"
    )


def _accession(random_numbers: random.Random) -> str:
    return "A0A" + "".join(random_numbers.choices(_LETTERS, k=7))


def _write_archive(path: Path, size: int, seed: int) -> None:
    """Write an archive with `size` incompressible bytes before a small UniRef50."""
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "uniref50.xml.gz"
        _write_xml(xml, 10_000, seed)
        members = {
            "uniref100.tar": random.Random(seed).randbytes(size),
            "uniref50.tar": tar({"uniref50.xml.gz": xml.read_bytes()}),
        }
    path.write_bytes(gzip.compress(tar(members), compresslevel=6))
