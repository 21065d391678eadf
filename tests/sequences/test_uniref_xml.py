import random
import re
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from unittest import mock
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import uniref_files
from benchmarks.uniref_files import draw_clusters, entry_xml
from esm1b.errors import UserError
from esm1b.sequences import uniref_xml
from esm1b.sequences.formats import RawBlock, parse_block
from esm1b.sequences.record import Header, RecordBlock, parse_header
from esm1b.sequences.uniref_xml import cut_uniref_xml, parse_entries

# As in the files: an entry of the layout until 2019_08, and one of the layout since.
OLD_ENTRY = b"""<entry id="UniRef50_Q6GZX4" updated="2011-07-27">
<name>Cluster: Putative transcription factor 001R</name>
<property type="member count" value="2"/>
<property type="common taxon" value="Frog virus 3 (isolate Goorha)"/>
<property type="common taxon ID" value="654924"/>
<representativeMember>
  <dbReference type="UniProtKB ID" id="001R_FRG3G">
    <property type="UniProtKB accession" value="Q6GZX4"/>
    <property type="UniParc ID" value="UPI00003B0FD4"/>
    <property type="UniRef90 ID" value="UniRef90_Q6GZX4"/>
    <property type="protein name" value="Putative transcription factor 001R"/>
    <property type="NCBI taxonomy" value="654924"/>
    <property type="length" value="76"/>
    <property type="isSeed" value="true"/>
  </dbReference>
  <sequence length="76" checksum="B4840739BF7D4121">
MAFSAEDVLKEYDRRRRMEALLLSLYYPNDRKLLDYKEWSPPRVQVECPKAPVEWNNPPS
SFRKIYTDLGWKFTPL
  </sequence>
</representativeMember>
<member>
  <dbReference type="UniParc ID" id="UPI000FFEDAD7">
    <property type="UniRef100 ID" value="UniRef100_UPI000FFEDAD7"/>
    <property type="protein name" value="5&apos;-nucleotidase"/>
  </dbReference>
</member>
</entry>
"""
NEW_ENTRY = b"""<entry id="UniRef50_A0AB34IYJ6" updated="2025-02-05">
<name>Cluster: PKZILLA-1 &amp; giant polyketide synthase</name>
<property type="member count" value="1"/>
<property type="common taxon" value="Prymnesium parvum"/>
<property type="common taxon ID" value="97485"/>
<property type="GO Molecular Function" value="GO:0004315"/>
<property type="GO Biological Process" value="GO:0006633"/>
<representativeMember>
<dbReference type="UniProtKB ID" id="A0AB34IYJ6_PRYPA">
<property type="UniProtKB accession" value="A0AB34IYJ6"/>
<property type="isSeed" value="true"/>
</dbReference>
<sequence length="6" checksum="385E596EB33D030E">MKVLAW</sequence>
</representativeMember>
</entry>
"""
HEAD = b"""<?xml version="1.0" encoding="ISO-8859-1" ?>
<UniRef50 xmlns="http://uniprot.org/uniref" releaseDate="2018-03-28" version="2018_03" >
"""


def chunked(text: bytes, size: int) -> Iterator[bytes]:
    return (text[start : start + size] for start in range(0, len(text), size))


def read(text: bytes, size: int = 1 << 20) -> RecordBlock:
    records = RecordBlock(headers=[], sequences=[])
    for first_record, block in cut_uniref_xml(chunked(text, size), "x.xml"):
        found = parse_entries(block, "x.xml", first_record)
        records.headers.extend(found.headers)
        records.sequences.extend(found.sequences)
    return records


def by_expat(text: bytes) -> RecordBlock:
    with mock.patch.object(uniref_xml, "_ENTRY", re.compile(rb"(?!)")):
        return parse_entries(text, "x.xml", 0)


def by_element_tree(text: bytes) -> RecordBlock:
    headers, sequences = [], []
    for entry in ElementTree.fromstring(b"<r>" + text + b"</r>").iterfind("entry"):
        properties = {item.get("type"): item.get("value") for item in entry.iterfind("property")}
        reference = entry.find("representativeMember/dbReference")
        name = (entry.findtext("name") or "").strip().removeprefix("Cluster: ").strip()
        members, taxon_id = properties.get("member count"), properties.get("common taxon ID")
        headers.append(
            Header(
                id=entry.attrib["id"],
                name=name or None,
                member_count=int(members) if members else None,
                taxon=(properties.get("common taxon") or "").strip() or None,
                taxon_id=int(taxon_id) if taxon_id else None,
                representative_id=None
                if reference is None
                else (reference.get("id") or "").strip() or None,
            )
        )
        letters = entry.findtext("representativeMember/sequence") or ""
        sequences.append(re.sub(r"\s", "", letters).encode())
    return RecordBlock(headers=headers, sequences=sequences)


def test_entries_as_uniprot_writes_them() -> None:
    with mock.patch.object(uniref_xml, "_read", side_effect=AssertionError("not by pattern")):
        records = parse_entries(OLD_ENTRY + NEW_ENTRY.rstrip(), "x.xml", 0)
    assert records.headers == [
        parse_header(
            "UniRef50_Q6GZX4 Putative transcription factor 001R n=2 "
            "Tax=Frog virus 3 (isolate Goorha) TaxID=654924 RepID=001R_FRG3G"
        ),
        parse_header(
            "UniRef50_A0AB34IYJ6 PKZILLA-1 & giant polyketide synthase n=1 "
            "Tax=Prymnesium parvum TaxID=97485 RepID=A0AB34IYJ6_PRYPA"
        ),
    ]
    assert records.sequences == [
        b"MAFSAEDVLKEYDRRRRMEALLLSLYYPNDRKLLDYKEWSPPRVQVECPKAPVEWNNPPSSFRKIYTDLGWKFTPL",
        b"MKVLAW",
    ]


@pytest.mark.parametrize("size", [1, 7, 100, 1000, 100_000])
def test_chunks_of_any_size_give_the_same_entries(size: int) -> None:
    text = HEAD + OLD_ENTRY + NEW_ENTRY + b"<!-- so far -->\n</UniRef50>\n"
    assert read(text, size) == by_expat((OLD_ENTRY + NEW_ENTRY).rstrip())


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("root", ["UniRef50", "UniRef90", "UniRef100"])
def test_entries_without_thought_go_by_the_pattern(root: str, wrapped: bool) -> None:
    clusters = draw_clusters(40)
    plain = [cluster for cluster in clusters if (cluster.header.taxon or "").isascii()]
    with mock.patch.object(uniref_xml, "_read", side_effect=AssertionError("not by pattern")):
        records = read(uniref_files.uniref_xml(plain, root=root, wrapped=wrapped))
    assert records.headers == [cluster.header for cluster in plain]


def test_the_members_of_a_large_entry_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uniref_xml, "_LARGE_ENTRY", 2000)
    cluster = draw_clusters(1)[0]
    large = uniref_files.Cluster(
        header=cluster.header._replace(member_count=50), sequence=cluster.sequence
    )
    text = HEAD + "".join(map(entry_xml, [large, cluster, large, large])).encode() + b"</UniRef50>"
    blocks = list(cut_uniref_xml(chunked(text, 300), "x.xml"))
    assert max(len(block) for _, block in blocks) < 3000
    assert len(blocks) > 20
    headers = read(text, 300).headers
    assert [header.member_count for header in headers] == [50, cluster.header.member_count, 50, 50]
    with pytest.raises(UserError, match="the XML ends early after 3 complete entries"):
        read(text[:-2000], 300)
    broken = text.replace(b'id="M40_HUMAN"', b"id=M40_HUMAN", 1)
    with pytest.raises(UserError, match=r"^x\.xml: entry 1: not well-formed"):
        read(broken, 300)


def test_a_fault_after_many_members_takes_no_longer_than_reading_them() -> None:
    cluster = draw_clusters(1)[0]
    header = cluster.header._replace(member_count=8000)
    entry = entry_xml(uniref_files.Cluster(header=header, sequence=cluster.sequence)).encode()
    assert len(entry) > 2_000_000
    start = perf_counter()
    with pytest.raises(UserError, match="mismatched tag"):
        parse_entries(entry.replace(b"</member>\n</entry>", b"</entry>"), "x.xml", 0)
    assert perf_counter() - start < 5


def test_elements_nested_without_end_take_no_memory_without_end() -> None:
    entry = b'<entry id="a">' + b"<a>" * 300_000 + b"</a>" * 300_000 + b"</entry>"
    start = perf_counter()
    records = parse_entries(entry, "x.xml", 0)
    assert perf_counter() - start < 10
    assert (records.headers[0].id, records.sequences) == ("a", [b""])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + b"</UniRef50>", "no entry; expected UniRef XML with entries"),
        (HEAD, "the XML ends early after 0 complete entries; expected </UniRef50>"),
        (
            HEAD + OLD_ENTRY + NEW_ENTRY[:-30],
            "the XML ends early after 1 complete entries; expected </UniRef50>",
        ),
        (
            HEAD + OLD_ENTRY + NEW_ENTRY,
            "the XML ends early after 2 complete entries; expected </UniRef50>",
        ),
        (
            HEAD + OLD_ENTRY + b"</UniRef90>",
            "after 1 complete entries: mismatched tag; expected well-formed UniRef XML",
        ),
        (
            HEAD + OLD_ENTRY + b"<cluster/></UniRef50>",
            "element 'cluster' beside the entries; expected entries",
        ),
        (
            HEAD + OLD_ENTRY + b"lost text</UniRef50>",
            "text 'lost text' beside the entries; expected entries",
        ),
        (
            HEAD + OLD_ENTRY + b"lost text" + NEW_ENTRY + b"</UniRef50>",
            "entry 2 (UniRef50_A0AB34IYJ6): text 'lost text' between entries; "
            "expected well-formed UniRef XML",
        ),
        (
            HEAD + OLD_ENTRY + b"<cluster/>" + NEW_ENTRY + b"</UniRef50>",
            "entry 2 (UniRef50_A0AB34IYJ6): element 'cluster' where an entry belongs; "
            "expected well-formed UniRef XML",
        ),
        (
            b"<uniprot>" + OLD_ENTRY + b"</uniprot>",
            "root element 'uniprot'; expected UniRef50, as in uniref50.xml",
        ),
        (
            b'<?xml version="1.0" encoding="EBCDIC-CP-US"?><UniRef50>' + OLD_ENTRY,
            "encoding 'EBCDIC-CP-US'; expected one of utf-8, us-ascii, iso-8859-1",
        ),
    ],
)
def test_faults_around_the_entries(text: bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        read(text)
    assert str(caught.value) == f"x.xml: {message}"


def test_no_document_type_and_so_no_entity() -> None:
    """Neither a billion laughs nor a file of the machine."""
    for declaration in (
        b'<!DOCTYPE UniRef50 [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        b'<!DOCTYPE UniRef50 [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        b'<!DOCTYPE UniRef50 SYSTEM "http://127.0.0.1:9/uniref.dtd">',
    ):
        with pytest.raises(UserError, match=r"a document type declaration \(DOCTYPE UniRef50\)"):
            read(declaration + b"<UniRef50>" + OLD_ENTRY + b"</UniRef50>")
    entity = OLD_ENTRY.replace(b"<name>Cluster: ", b"<name>&a;")
    with pytest.raises(UserError, match=r"entry 1 \(UniRef50_Q6GZX4\): undefined entity"):
        read(HEAD + entity + b"</UniRef50>")


def changed(old: bytes, new: bytes) -> bytes:
    assert old in OLD_ENTRY
    return OLD_ENTRY.replace(old, new).rstrip()


@pytest.mark.parametrize(
    ("entry", "field", "value"),
    [
        (changed(b"Cluster: Putative", b"Putative"), "name", "Putative transcription factor 001R"),
        (changed(b"<name>Cluster: Putative", b"<name> "), "name", "transcription factor 001R"),
        (changed(b'value="2"', b'value="two"'), "member_count", None),
        (changed(b'value="2"', b'value="12345678901"'), "member_count", None),
        (changed(b'<property type="member count" value="2"/>', b""), "member_count", None),
        (changed(b'value="Frog virus 3 (isolate Goorha)"', b'value=""'), "taxon", None),
        (changed(b"common taxon ID", b"common taxon XY"), "taxon_id", None),
        (changed(b' id="001R_FRG3G"', b""), "representative_id", None),
    ],
)
def test_what_an_entry_does_not_say_is_none(
    entry: bytes, field: str, value: str | int | None
) -> None:
    records = parse_entries(entry, "x.xml", 0)
    assert [getattr(header, field) for header in records.headers] == [value]
    assert [len(sequence) for sequence in records.sequences] == [76]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (changed(b'id="UniRef50_Q6GZX4"', b""), "entry 4: id None; expected one word"),
        (changed(b'id="UniRef50_Q6GZX4"', b'id=" "'), "entry 4: id ' '; expected one word"),
        (changed(b"UniRef50_Q6GZX4", b"a b"), "entry 4: id 'a b'; expected one word"),
        (
            changed(b'length="76"', b'length="75"'),
            "entry 4 (UniRef50_Q6GZX4): a sequence of 76 residues with length '75'; "
            "expected them to agree",
        ),
        (
            changed(b"SFRKIYTDLGWKFTPL\n", b""),
            "entry 4 (UniRef50_Q6GZX4): a sequence of 60 residues with length '76'; "
            "expected them to agree",
        ),
        (
            changed(b"</name>", b"</nam>"),
            "entry 4 (UniRef50_Q6GZX4): mismatched tag; expected well-formed UniRef XML",
        ),
    ],
)
def test_faulty_entries_are_refused(entry: bytes, message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_entries(entry, "x.xml", 3)
    assert str(caught.value) == f"x.xml: {message}"


def test_an_entry_without_a_sequence_has_an_empty_one() -> None:
    """As a FASTA header without a sequence: cleaning drops and counts it."""
    start, end = OLD_ENTRY.index(b"  <sequence"), OLD_ENTRY.index(b"</sequence>")
    without = OLD_ENTRY[:start] + OLD_ENTRY[end + len(b"</sequence>") :]
    assert parse_entries(without.rstrip(), "x.xml", 0).sequences == [b""]
    start = OLD_ENTRY.index(b"<representativeMember>")
    end = OLD_ENTRY.index(b"</representativeMember>") + len(b"</representativeMember>")
    without = OLD_ENTRY[:start] + OLD_ENTRY[end:]
    records = parse_entries(without.rstrip(), "x.xml", 0)
    assert (records.headers[0].representative_id, records.sequences) == (None, [b""])


VALUE = st.text("ABab 01&<>'\"\té;#x", max_size=12)
LETTERS = st.text("ACDEFGHIKLMNPQRSTVWYXx*- \n\r\t", max_size=80)


@st.composite
def an_entry(draw: st.DrawFn) -> str:
    """An entry that is well-formed, and written in one of the ways that XML has."""

    def chance() -> bool:
        return draw(st.integers(0, 5)) == 0

    def space() -> str:
        return draw(st.sampled_from(["\n", "\n  ", "", "\r\n", "\t"]))

    def text(value: str) -> str:
        if chance():
            return "".join(f"&#{ord(letter)};" for letter in value)
        if chance() and "]]>" not in value:
            return f"<![CDATA[{value}]]>"
        return escape(value)

    def attribute(key: str, value: str) -> str:
        if chance():
            return f" {key} = '{escape(value, {chr(39): '&#x27;'})}'"
        return f' {key}="{escape(value, {chr(34): "&quot;"})}"'

    def element(tag: str, attributes: dict[str, str], content: str | None = None) -> str:
        keys = list(attributes)
        if chance():
            keys.reverse()
        opening = f"<{tag}" + "".join(attribute(key, attributes[key]) for key in keys)
        if chance():
            opening += " "
        return opening + ("/>" if content is None else f">{content}</{tag}>")

    def optional(part: str) -> str:
        comment = f"<!-- {draw(st.sampled_from(['', '<entry>', 'x']))} -->" if chance() else ""
        return comment + ("" if chance() else part + space())

    def reference() -> str:
        properties = "".join(
            element("property", {"type": draw(VALUE), "value": draw(VALUE)}) + space()
            for _ in range(draw(st.integers(0, 2)))
        )
        return element("dbReference", {"type": "UniParc ID", "id": draw(VALUE)}, properties)

    def number() -> str:
        return str(draw(st.integers(0, 99_999)))

    sequence = draw(LETTERS)
    length = len(re.sub(r"\s", "", sequence))
    name = "Cluster: " + draw(VALUE)
    content = (
        space()
        + optional(element("name", {}, text(name)))
        + optional(element("property", {"type": "member count", "value": number()}))
        + optional(element("property", {"type": "common taxon", "value": draw(VALUE)}))
        + optional(element("property", {"type": "common taxon ID", "value": number()}))
        + optional(element("property", {"type": "GO Function", "value": draw(VALUE)}))
        + element(
            "representativeMember",
            {},
            space()
            + optional(reference())
            + element("sequence", {"length": str(length), "checksum": "A"}, text(sequence)),
        )
        + space()
        + "".join(
            element("member", {}, space() + reference() + space()) + space()
            for _ in range(draw(st.integers(0, 2)))
        )
    )
    return element("entry", {"id": f"UniRef50_{number()}", "updated": "2018-03-28"}, content)


@given(entries=st.lists(an_entry(), min_size=1, max_size=4), size=st.integers(1, 2000))
@settings(max_examples=150, deadline=None)
def test_any_spelling_of_entries_equals_element_tree(entries: list[str], size: int) -> None:
    text = "\n".join(entries).encode()
    expected = by_element_tree(text)
    assert parse_entries(text, "x.xml", 0) == expected
    assert by_expat(text) == expected
    head = b'<?xml version="1.0"?>\n<UniRef50>'
    assert read(head + text + b"</UniRef50>", size) == expected


PIECES = [b"<", b">", b"&", b'"', b"/", b" ", b"\x00", b"\x01", b"]]>", b"\xe9", b"&lt;", b"<!--"]


@given(
    position=st.integers(0, len(OLD_ENTRY) - 2),
    removed=st.integers(0, 3),
    inserted=st.one_of(st.just(b""), st.sampled_from(PIECES)),
)
@settings(max_examples=400, deadline=None)
def test_pattern_and_parser_agree_on_any_change(
    position: int, removed: int, inserted: bytes
) -> None:
    text = OLD_ENTRY[:position] + inserted + OLD_ENTRY[position + removed :]
    text = (text + NEW_ENTRY).rstrip()

    def outcome(by: object) -> object:
        try:
            return by(text)  # type: ignore[operator]  # either function
        except UserError:
            return "refused"

    assert outcome(lambda text: parse_entries(text, "x.xml", 0)) == outcome(by_expat)


def test_members_with_sequences_and_shuffled_entries(tmp_path: Path) -> None:
    member = OLD_ENTRY.index(b"</member>")
    sequence = b'<sequence length="3" checksum="C">\nMKV\n</sequence>\n'
    entry = OLD_ENTRY[:member] + sequence + OLD_ENTRY[member:]
    texts = [entry, NEW_ENTRY, OLD_ENTRY] * 5
    random.Random(0).shuffle(texts)
    text = b"".join(texts).rstrip()
    assert parse_entries(text, "x.xml", 0) == by_element_tree(text)


def test_a_damaged_id_is_told_on_one_line() -> None:
    text = b'<entry id="UniRef50_A\n1" updated><name>Cluster: a</name></entry>'
    block = RawBlock(text=text, kind="uniref-xml", source="x.xml", first_record=9)
    with pytest.raises(UserError) as caught:
        parse_block(block)
    assert str(caught.value).startswith("x.xml: entry 10 (UniRef50_A 1): not well-formed")
    assert "\n" not in str(caught.value)
