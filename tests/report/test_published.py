from esm1b.evaluation.contacts.precision import PRECISIONS
from esm1b.report.published import PUBLISHED


def test_the_numbers_of_esm_1b() -> None:
    contacts = {e.metric: e.value for e in PUBLISHED["contacts"] if e.model == "ESM-1b"}
    assert contacts == {"precision_at_L_long": 0.411, "precision_at_L5_long": 0.661}
    (structure,) = [e for e in PUBLISHED["secondary_structure"] if e.model == "ESM-1b"]
    assert (structure.metric, structure.value) == ("eight_state_accuracy", 0.716)


def test_every_number_says_where_it_is_from() -> None:
    for kind, entries in PUBLISHED.items():
        for entry in entries:
            assert entry.source
            assert entry.protocol
            assert 0 < entry.value < (25 if kind == "perplexity" else 1)
    for entry in (*PUBLISHED["contacts"], *PUBLISHED["contact_ranges"]):
        assert entry.metric in PRECISIONS
