from esm1b.evaluation.contacts.precision import FRACTIONS, PRECISIONS
from esm1b.evaluation.contacts.precision import RANGES as SCOPES
from esm1b.report.catalogue import FACTS, PUBLISHED, RANGES, TOPS, number_text


def test_a_number_has_a_true_minus_sign() -> None:
    assert number_text(-0.25, 2) == "\N{MINUS SIGN}0.25"
    assert number_text(0.25, 1, signed=True) == "+0.2"


def test_every_range_and_fraction_has_a_name() -> None:
    assert list(RANGES) == list(SCOPES)
    assert list(TOPS) == list(FRACTIONS)


def test_the_numbers_of_esm_1b() -> None:
    assert PUBLISHED["contacts"][0]["models"]["ESM-1b"] == {
        "precision_at_L_long": 0.411,
        "precision_at_L5_long": 0.661,
    }
    (structure,) = [
        source["models"]["ESM-1b"]
        for source in PUBLISHED["secondary_structure"]
        if "ESM-1b" in source["models"]
    ]
    assert structure == {"eight_state_accuracy": 0.716}


def test_every_number_says_where_it_is_from() -> None:
    for kind, sources in PUBLISHED.items():
        for source in sources:
            assert source["source"]
            assert source["protocol"]
            for values in source["models"].values():
                assert all(
                    0 < each < (25 if kind == "perplexity" else 1) for each in values.values()
                )
                assert set(values) <= set(FACTS[kind].published if kind in FACTS else PRECISIONS)
    assert set(FACTS["contacts"].published) <= set(PRECISIONS)
