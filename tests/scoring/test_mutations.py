"""Variants as people write them."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from esm1b.alphabet import AMINO_ACIDS
from esm1b.scoring.mutations import (
    Mutation,
    Reason,
    Variant,
    VariantError,
    all_substitutions,
    matching_offset,
    parse_variant,
)

WILD_TYPE = "MKAVLA"


@pytest.mark.parametrize(
    ("text", "mutations"),
    [
        ("A3G", [(2, "A", "G")]),
        (" a3g ", [(2, "A", "G")]),
        ("p.Ala3Gly", [(2, "A", "G")]),
        ("p.(Ala3Gly)", [(2, "A", "G")]),
        ("p.A3G", [(2, "A", "G")]),
        ("A3G:M1L", [(0, "M", "L"), (2, "A", "G")]),
        ("A3G,M1L", [(0, "M", "L"), (2, "A", "G")]),
        ("p.[Ala3Gly;Leu5Pro]", [(2, "A", "G"), (4, "L", "P")]),
        ("MKGVLA", [(2, "A", "G")]),
        ("mkgvlp", [(2, "A", "G"), (5, "A", "P")]),
    ],
)
def test_ways_to_write_a_variant(text: str, mutations: list[tuple[int, str, str]]) -> None:
    expected = tuple(Mutation(position=p, wild_type=w, mutant=m) for p, w, m in mutations)
    variant = parse_variant(text, WILD_TYPE)
    assert variant == Variant(name=text, mutations=expected)
    assert parse_variant(variant.short_name(), WILD_TYPE).mutations == expected
    assert parse_variant(variant.applied(WILD_TYPE), WILD_TYPE).mutations == expected


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("A3A", "synonymous", "A3A: replaces nothing; expected a substitution"),
        ("p.Ala3=", "synonymous", "p.Ala3=: replaces nothing; expected a substitution"),
        ("=", "synonymous", "=: is the wild type; expected a substitution"),
        ("p.(=)", "synonymous", "p.(=): is the wild type; expected a substitution"),
        ("_wt", "synonymous", "_wt: is the wild type; expected a substitution"),
        (WILD_TYPE, "synonymous", "MKAVLA: is the wild type; expected a substitution"),
        ("A3*", "stop codon", "A3*: ends the protein; expected a substitution"),
        ("p.Ala3Ter", "stop codon", "p.Ala3Ter: ends the protein; expected a substitution"),
        ("MK*VLA", "stop codon", "A3*: ends the protein; expected a substitution"),
        (
            "MKVLA",
            "insertion or deletion",
            "MKVLA: 5 residues; expected 6, as the wild type has: insertions and deletions "
            "have no score",
        ),
        *(
            (text, "insertion or deletion", f"{text}: insertions and deletions have no score")
            for text in ("A3-", "-3A", "p.Ala3del", "p.Ala3_Val4insGly", "A3delinsGG", "A3GG")
        ),
        ("A3X", "unknown residue", "A3X: X is none of the 20 amino acids LAGVSERTIDPKQNFYMHWC"),
        ("p.Ala3Gly:p.Foo4Gly", "unknown residue", "p.Ala3Gly:p.Foo4Gly: FOO is no amino acid"),
        ("A9G", "position outside", "A9G: position 9; expected 1 to 6"),
        (
            "M24A",
            "position outside",
            "M24A: position 24; expected 1 to 6; all letters agree with offset 24",
        ),
        (
            "K3G",
            "other wild type",
            "K3G: the wild type has A at 3; expected K; all letters agree with offset 2",
        ),
        ("A2G", "other wild type", "A2G: the wild type has K at 2; expected A"),
        ("A3G:A3P", "repeated position", "A3G:A3P: replaces residue 3 twice"),
        *(
            (
                text,
                "unreadable",
                f"{text.strip() or 'empty'}: expected A12G, A12G:L30P, p.Ala12Gly, or a sequence "
                "as long as the wild type",
            )
            for text in ("", "A3", "3G", "A3.5G", "A3G:", "5.1")
        ),
    ],
)
def test_what_is_no_substitution_is_told(text: str, reason: Reason, message: str) -> None:
    with pytest.raises(VariantError) as caught:
        parse_variant(text, WILD_TYPE)
    assert caught.value.reason == reason
    assert str(caught.value) == message


def test_offset_is_the_number_of_the_first_residue() -> None:
    variant = parse_variant("A26G", WILD_TYPE, offset=24)
    assert variant.mutations == (Mutation(position=2, wild_type="A", mutant="G"),)
    assert variant.short_name(24) == "A26G"
    assert parse_variant("M-2L", WILD_TYPE, offset=-2).mutations[0].position == 0


def test_the_only_offset_that_fits_all_is_found() -> None:
    assert matching_offset(["A26G", "M24A"], WILD_TYPE) == 24
    assert matching_offset(["A26G", "p.Leu28Pro", "?", "A26*"], WILD_TYPE) == 24
    assert matching_offset(["A3G"], WILD_TYPE) is None  # also -2
    assert matching_offset(["A3G", "W4A"], WILD_TYPE) is None
    assert matching_offset([], WILD_TYPE) is None


@given(st.text(AMINO_ACIDS, min_size=1, max_size=30), st.integers(-50, 500), st.data())
def test_every_variant_is_read_back_from_its_names(
    wild_type: str, offset: int, data: st.DataObject
) -> None:
    mutated = data.draw(st.text(AMINO_ACIDS, min_size=len(wild_type), max_size=len(wild_type)))
    assume(mutated != wild_type)
    variant = parse_variant(mutated, wild_type, offset=offset)
    assert variant.applied(wild_type) == mutated
    name = variant.short_name(offset)
    assert parse_variant(name, wild_type, offset=offset).mutations == variant.mutations
    assert matching_offset([name], wild_type) in (offset, None)


def test_all_substitutions() -> None:
    variants = all_substitutions("AXG", offset=10)
    assert len(variants) == 38
    assert [each.name for each in variants[:3]] == ["A10C", "A10D", "A10E"]
    assert variants[-1] == Variant(
        name="G12Y", mutations=(Mutation(position=2, wild_type="G", mutant="Y"),)
    )
    assert all(parse_variant(each.name, "AXG", offset=10) == each for each in variants)
