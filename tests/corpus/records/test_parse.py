import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from esm1b.corpus.records.parse import parse_rows, read_uniref_fasta
from esm1b.corpus.records.table import NONE, OUTCOMES, Rows
from esm1b.errors import UserError
from esm1b.sequences.formats import RawBlock, parse_block
from esm1b.sequences.record import Header, clean, drop_reason

REGULAR = (
    b">UniRef50_K7G060 Titin n=25 Tax=Amniota TaxID=32524 RepID=K7G060_PELSI\nMKVLA\nWW\n"
    b">UniRef50_A0A1 DUF12 domain-containing  protein > x n=1 Tax=Homo sapiens (Human) "
    b"TaxID=9606 RepID=UPI0001\nM\n"
)


def block_of(text: bytes) -> RawBlock:
    return RawBlock(text=text, kind="fasta", source="input", first_record=7)


def record(rows: Rows, place: int) -> tuple[Header, bytes]:
    text = {
        name: None if value is None else value.decode()
        for name in ("id", "name", "taxon", "representative_id")
        for value in [rows.value(name, place)]
    }
    count, taxon_id = (int(rows.index[name][place]) for name in ("member_count", "taxon_id"))
    header = Header(
        text["id"] or "",
        text["name"],
        None if count == NONE else count,
        text["taxon"],
        None if taxon_id == NONE else taxon_id,
        text["representative_id"],
    )
    return header, rows.value("sequence", place) or b""


def in_order(rows: Rows) -> list[tuple[Header, bytes, str | None]]:
    return [
        (*record(rows, place), OUTCOMES[rows.index["outcome"][place]]) for place in range(len(rows))
    ]


def one_by_one(text: bytes) -> list[tuple[Header, bytes, str | None]]:
    parsed = parse_block(block_of(text))
    sequences = [clean(sequence) for sequence in parsed.sequences]
    return list(zip(parsed.headers, sequences, map(drop_reason, sequences), strict=True))


def test_regular_records_are_read_without_parsing_them_one_by_one() -> None:
    found, starts, irregular = read_uniref_fasta(REGULAR)
    assert starts.tolist() == [0, REGULAR.index(b"\n>") + 1, len(REGULAR)]
    assert irregular.tolist() == []
    assert record(found, 0) == (
        Header("UniRef50_K7G060", "Titin", 25, "Amniota", 32524, "K7G060_PELSI"),
        b"MKVLAWW",
    )
    assert record(found, 1) == (
        Header(
            "UniRef50_A0A1",
            "DUF12 domain-containing  protein > x",
            1,
            "Homo sapiens (Human)",
            9606,
            "UPI0001",
        ),
        b"M",
    )


@pytest.mark.parametrize(
    "text",
    [
        b">plain\nMKV",
        b">\xc3\xa9 Name n=1 Tax=a TaxID=1 RepID=b\nMKV",
        b">a Name\tx n=1 Tax=a TaxID=1 RepID=b\nMKV",
        b">a Name n=1 Tax=a TaxID=1 RepID=b \nMKV",
        b"> a Name n=1 Tax=a TaxID=1 RepID=b\nMKV",
        b">a  Name n=1 Tax=a TaxID=1 RepID=b\nMKV",
        b">a Name  n=1 Tax=a TaxID=1 RepID=b\nMKV",
        b">a n=1 Tax=a TaxID=1 RepID=b\nMKV",
        b">a Na=me n=1 Tax=a TaxID=1 RepID=b\nMKV",
        b">a Name n=1 Tax=a TaxID=N/A RepID=b\nMKV",
        b">a Name n= Tax=a TaxID=1 RepID=b\nMKV",
        b">a Name n=1234567890 Tax=a TaxID=1 RepID=b\nMKV",
        b">a Name n=1 Tax=a TaxID=1234567890123456789 RepID=b\nMKV",
        b">a Name n=1 Tax= TaxID=1 RepID=b\nMKV",
        b">a Name n=1 Tax=a TaxID=1 RepID=\nMKV",
        b">a Name n=1 Tax=a TaxID=1 RepID=b c\nMKV",
        b">a Name n=1 TaxID=1 Tax=a RepID=b\nMKV",
        b">a Name n=1 Tax=a TaxID=1 RepID=b\nmkv",
        b">a Name n=1 Tax=a TaxID=1 RepID=b\nMK*",
        b">a Name n=1 Tax=a TaxID=1 RepID=b\nMK V",
        b">a Name n=1 Tax=a TaxID=1 RepID=b\nMK>V",
        b">a Name n=1 Tax=a TaxID=1 RepID=b\nMK=V",
        b">a Name n=1 Tax=a TaxID=1 RepID=b\n",
        b">a Name n=1 Tax=a TaxID=1 RepID=b\n\n\n",
        b">a Name n=1 Tax=a TaxID=1 RepID=b",
        b">a n=1\nMKV = Tax= TaxID= RepID=",
    ],
)
def test_others_are_left_to_the_parser(text: bytes) -> None:
    mixed = REGULAR * 10 + text + b"\n" + REGULAR
    assert read_uniref_fasta(mixed)[2].tolist() == [20]
    assert in_order(parse_rows(block_of(mixed))) == one_by_one(mixed)
    assert in_order(parse_rows(block_of(text))) == one_by_one(text)


def test_a_record_without_an_id_is_told_by_its_number() -> None:
    with pytest.raises(UserError, match="input: record 28: a header line without an id"):
        parse_rows(block_of(REGULAR * 10 + b">\nMKV\n"))


FIELD = st.text("ab (),=\t\u00e9", min_size=1, max_size=6)
NUMBER = st.one_of(st.integers(0, 10**10).map(str), st.sampled_from(["", "N/A", "007"]))
TAGGED = st.tuples(
    st.text("UR5_ab", max_size=5), FIELD, NUMBER, FIELD, NUMBER, st.text("ab_ ", max_size=4)
).map("{0[0]} {0[1]} n={0[2]} Tax={0[3]} TaxID={0[4]} RepID={0[5]}".format)
PLAIN = st.tuples(
    st.text("ab", min_size=1, max_size=3),
    st.text("ab", min_size=1, max_size=4),
    st.integers(0, 99),
    st.text("ab", min_size=1, max_size=15),
    st.integers(0, 10**7),
    st.text("ab_", min_size=1, max_size=14),
).map("{0[0]} {0[1]} n={0[2]} Tax={0[3]} TaxID={0[4]} RepID={0[5]}".format)
LINES = st.lists(st.text("MKVX", max_size=9), max_size=3).map("\n".join)
ODD_LINES = st.text("MKVmk*- >=\n\u00e9", max_size=9).filter(lambda text: "\n>" not in "\n" + text)


@given(
    st.lists(
        st.tuples(PLAIN | TAGGED | FIELD, LINES | ODD_LINES).filter(lambda pair: pair[0].strip()),
        min_size=1,
        max_size=40,
    ),
    st.booleans(),
)
@settings(max_examples=200, deadline=None)
@example([("a b n=1 Tax=c TaxID=2 RepID=d", "M")], False)
def test_every_block_means_what_the_parser_says(
    records: list[tuple[str, str]], ends_with_a_line: bool
) -> None:
    text = "\n".join(f">{header}\n{lines}" for header, lines in records).encode()
    text += b"\n" if ends_with_a_line else b""
    assert in_order(parse_rows(block_of(text))) == one_by_one(text)
