import numpy as np
import pytest
from esm import Alphabet
from hypothesis import given
from hypothesis import strategies as st

from esm1b.alphabet import (
    AMINO_ACIDS,
    CLS,
    EOS,
    MASK,
    PAD,
    RESIDUES,
    TOKENS,
    UNK,
    X,
    decode,
    encode,
    encode_masked,
    merge_rare_residues,
)


def test_tokens_are_those_of_fair_esm() -> None:
    theirs = Alphabet.from_architecture("roberta_large")
    assert list(TOKENS) == theirs.all_toks
    assert (CLS, PAD, EOS, UNK, MASK) == (0, 1, 2, 3, 32)
    assert (theirs.cls_idx, theirs.padding_idx, theirs.eos_idx, theirs.mask_idx) == (0, 1, 2, 32)
    assert len(AMINO_ACIDS) == len(set(AMINO_ACIDS)) == 20
    assert RESIDUES == "LAGVSERTIDPKQNFYMHWCXBUZO"


@pytest.mark.parametrize(
    ("sequence", "tokens"),
    [
        # facebookresearch/esm, tests/test_alphabet.py, without <cls> (0) and <eos> (2)
        ("MKTVRQG", [20, 15, 11, 7, 10, 16, 6]),
        ("KALTA", [15, 5, 4, 11, 5]),
        ("ISQP", [12, 8, 16, 14]),
        ("XBUZO", [24, 25, 26, 27, 28]),
        ("", []),
    ],
)
def test_encode_worked_examples(sequence: str, tokens: list[int]) -> None:
    assert encode(sequence).tolist() == tokens
    assert encode(sequence.encode()).tolist() == tokens
    assert encode(sequence).dtype == np.uint8


def test_fair_esm_frames_the_worked_example() -> None:
    theirs = Alphabet.from_architecture("roberta_large").get_batch_converter()
    _, _, tokens = theirs([("example", "MKTVRQG")])
    assert tokens.tolist() == [[0, 20, 15, 11, 7, 10, 16, 6, 2]]
    assert tokens[0].tolist() == [CLS, *encode("MKTVRQG").tolist(), EOS]


def test_leucine_or_isoleucine_becomes_x() -> None:
    assert encode("LJI").tolist() == [4, 24, 12]
    assert decode(encode("LJI")) == "LXI"


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (
            "MKv",
            "'v' at position 3; expected one of the residue symbols LAGVSERTIDPKQNFYMHWCXBUZOJ",
        ),
        (
            "M-K",
            "'-' at position 2; expected one of the residue symbols LAGVSERTIDPKQNFYMHWCXBUZOJ",
        ),
        ("*", "'*' at position 1; expected one of the residue symbols LAGVSERTIDPKQNFYMHWCXBUZOJ"),
        (
            "Mλ K",
            "'λ', U+03BB (GREEK SMALL LETTER LAMDA) at position 2; "
            "expected one of the residue symbols LAGVSERTIDPKQNFYMHWCXBUZOJ",
        ),
        (
            b"MK\n",
            "'\\n' at position 3; expected one of the residue symbols LAGVSERTIDPKQNFYMHWCXBUZOJ",
        ),
    ],
)
def test_encode_names_the_character_and_its_place(sequence: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match="expected one of the residue symbols") as caught:
        encode(sequence)
    assert str(caught.value) == message


@given(st.text(alphabet=RESIDUES))
def test_decode_inverts_encode(sequence: str) -> None:
    assert decode(encode(sequence)) == sequence


def test_decode_shows_special_tokens_as_question_marks() -> None:
    every = np.arange(33, dtype=np.uint8)
    assert decode(every) == "????LAGVSERTIDPKQNFYMHWCXBUZO.-??"


def test_merging_touches_rare_residues_only() -> None:
    every = np.arange(33, dtype=np.uint8)
    merged = merge_rare_residues(every)
    assert merged.tolist() == [*range(24), 24, 24, 24, 24, 24, 29, 30, 31, 32]
    assert merged.dtype == np.uint8
    assert every.tolist() == list(range(33))
    assert X == 24


def test_sequences_as_people_write_them() -> None:
    # The example of facebookresearch/esm, tests/test_alphabet.py, without its special tokens.
    tokens = [15, 5, 4, 11, 5, 32, 12, 8, 16, 14]
    assert encode_masked("KALTA<mask>ISQP").tolist() == tokens
    assert encode_masked(" k a l t a\n<mask> isqp").tolist() == tokens
    assert encode_masked("<mask><mask>").tolist() == [32, 32]
    assert encode_masked("").tolist() == []
    with pytest.raises(ValueError, match=r"'<' at position 4; expected one of .*J or <mask>"):
        encode_masked("M <mask> K <cls>")


@pytest.mark.parametrize(
    ("text", "culprit"),
    [
        ("MKT<mask>AYI\u200bAKQR", "U+200B (ZERO WIDTH SPACE) at position 8"),
        ("mkt\u200b", "U+200B (ZERO WIDTH SPACE) at position 4"),
        ("mkt<ma\ufeffsk>", "U+FEFF (ZERO WIDTH NO-BREAK SPACE) at position 7"),
        ("MKT<mask>A\u2013G", "'\u2013', U+2013 (EN DASH) at position 6"),
        ("<mask>\u00e9", "'\u00e9', U+00E9 (LATIN SMALL LETTER E WITH ACUTE) at position 2"),
        ("M\u0410K", "'\u0410', U+0410 (CYRILLIC CAPITAL LETTER A) at position 2"),
        ("\u00df", "'\u00df', U+00DF (LATIN SMALL LETTER SHARP S) at position 1"),
        ("mk\udc80", "U+DC80 (without a name) at position 3"),
    ],
)
def test_the_culprit_is_named_even_if_it_is_invisible(text: str, culprit: str) -> None:
    with pytest.raises(ValueError, match="or <mask>") as caught:
        encode_masked(text)
    assert str(caught.value).startswith(f"{culprit}; expected one of the residue symbols ")


def test_a_no_break_space_is_white_space() -> None:
    assert encode_masked("mk\u00a0<mask>\u2009t").tolist() == [20, 15, 32, 11]
