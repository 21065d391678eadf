"""A set of clusters in every format in which UniProt publishes UniRef50."""

import gzip
import io
import random
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from esm1b.sequences.record import Header

_NAMES = (
    "Uncharacterized protein",
    "5'-nucleotidase",
    "Alpha & omega <fragment>",
    'Protein "quoted"  twice',
    "Protein n=3 Tax=Bacteria",
    "a=b; n=2 things",
    "Cluster: of clusters",
    "[2Fe-2S] ferredoxin",
)
_TAXA = ("Amniota", "root", "Escherichia coli (strain K=12)", "Bacillus sp. 'x'", "Abies peña")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """A cluster: its header, and the sequence of its representative member."""

    header: Header
    sequence: str


def draw_clusters(count: int, seed: int = 0) -> list[Cluster]:
    """Return clusters with common and rare kinds of names, taxa and lengths."""
    random_numbers = random.Random(seed)
    clusters = []
    for number in range(count):
        accession = f"A0A{number:03X}{random_numbers.randrange(16**4):04X}"
        header = Header(
            id=f"UniRef50_{accession}",
            name=random_numbers.choice(_NAMES),
            member_count=random_numbers.choice((1, 1, 2, 25)),
            taxon=random_numbers.choice(_TAXA),
            taxon_id=random_numbers.choice((None, 1, 32524)),
            representative_id=random_numbers.choice((f"{accession}_PELSI", f"UPI000{accession}")),
        )
        length = random_numbers.choice((1, 59, 60, 61, 120, 300))
        sequence = "".join(random_numbers.choices("ACDEFGHIKLMNPQRSTVWYX", k=length))
        clusters.append(Cluster(header=header, sequence=sequence))
    return clusters


def uniref_fasta(clusters: Iterable[Cluster]) -> bytes:
    """Return the text of uniref50.fasta."""
    return "".join(map(_record_fasta, clusters)).encode()


def uniref_xml(
    clusters: Iterable[Cluster], *, root: str = "UniRef50", wrapped: bool = True
) -> bytes:
    """Return the text of uniref50.xml; up to 2019_08 its sequences are wrapped, later not."""
    entries = "".join(entry_xml(cluster, wrapped=wrapped) for cluster in clusters)
    return (
        '<?xml version="1.0" encoding="ISO-8859-1" ?>\n'
        f'<{root} xmlns="http://uniprot.org/uniref" \n'
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \n'
        'xsi:schemaLocation="http://uniprot.org/uniref '
        'http://www.uniprot.org/support/docs/uniref.xsd" \n'
        f' releaseDate="2018-03-28" version="2018_03" > \n{entries}</{root}>\n'
    ).encode("latin-1")


def entry_xml(cluster: Cluster, *, wrapped: bool = True) -> str:
    """Return the `<entry>` of a cluster."""
    header, sequence = cluster.header, cluster.sequence
    count = header.member_count or 0
    kind = "UniParc ID" if (header.representative_id or "").startswith("UPI") else "UniProtKB ID"
    letters = f"\n{_wrapped(sequence)}\n  " if wrapped else sequence
    properties = [
        ("member count", header.member_count),
        ("common taxon", header.taxon),
        ("common taxon ID", header.taxon_id),
    ]
    return (
        f'<entry id="{header.id}" updated="2018-03-28">\n'
        f"<name>Cluster: {escape(header.name or '')}</name>\n"
        + "".join(_property(key, value) for key, value in properties if value is not None)
        + "<representativeMember>\n"
        + _reference(kind, header.representative_id, len(sequence), seed=True)
        + f'  <sequence length="{len(sequence)}" checksum="B4840739BF7D4121">{letters}</sequence>\n'
        + "</representativeMember>\n"
        + "".join(
            "<member>\n"
            + _reference("UniProtKB ID", f"M{number}_HUMAN", 10 + number, seed=False)
            + "</member>\n"
            for number in range(1, count)
        )
        + "</entry>\n"
    )


def release_archive(xml: bytes, levels: Sequence[str] = ("uniref100", "uniref90")) -> bytes:
    """Return a release archive: a gzipped tar of tars, one per level, UniRef50 last."""
    members = {f"{level}.tar": _level_archive(level, b"<not read>") for level in levels}
    archive = tar(members | {"uniref50.tar": _level_archive("uniref50", xml)})
    return gzip.compress(archive, mtime=0)


def tar(members: dict[str, bytes]) -> bytes:
    """Return a tar archive of files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _level_archive(level: str, xml: bytes) -> bytes:
    return tar(
        {
            "README": b"UniRef",
            f"{level}.release_note": b"Release: 2018_03",
            f"{level}.xml.gz": gzip.compress(xml, mtime=0),
        }
    )


def _record_fasta(cluster: Cluster) -> str:
    header = cluster.header
    taxon_id = "" if header.taxon_id is None else f" TaxID={header.taxon_id}"
    return (
        f">{header.id} {header.name} n={header.member_count} Tax={header.taxon}{taxon_id} "
        f"RepID={header.representative_id}\n{_wrapped(cluster.sequence)}\n"
    )


def _wrapped(sequence: str) -> str:
    return "\n".join(sequence[start : start + 60] for start in range(0, len(sequence), 60))


def _reference(kind: str, identifier: str | None, length: int, *, seed: bool) -> str:
    return (
        f'  <dbReference type="{kind}" id="{identifier}">\n'
        + _property("UniParc ID", "UPI0000D77B45")
        + _property("protein name", "Guanosine-3',5'-bis(diphosphate) & more")
        + _property("length", length)
        + (_property("isSeed", "true") if seed else "")
        + "  </dbReference>\n"
    )


def _property(key: str, value: object) -> str:
    return f'<property type="{key}" value="{_attribute(str(value))}"/>\n'


def _attribute(text: str) -> str:
    return escape(text, {'"': "&quot;", "'": "&apos;"})
