from esm1b.evaluation import published
from esm1b.evaluation.contacts.precision import PRECISIONS


def test_the_numbers_of_esm_1b() -> None:
    contacts = {
        entry.metric: entry.value for entry in published.CONTACTS if entry.model == "ESM-1b"
    }
    assert contacts == {"precision_at_L_long": 0.411, "precision_at_L5_long": 0.661}
    (structure,) = [e for e in published.SECONDARY_STRUCTURE if e.model == "ESM-1b"]
    assert (structure.metric, structure.value) == ("eight_state_accuracy", 0.716)


def test_every_number_says_where_it_is_from() -> None:
    entries = [
        *published.CONTACTS,
        *published.CONTACT_RANGES,
        *published.PERPLEXITY,
        *published.SECONDARY_STRUCTURE,
    ]
    for entry in entries:
        assert entry.source
        assert entry.protocol
        assert 0 < entry.value < (1 if entry.unit == "fraction" else 25)
    for entry in (*published.CONTACTS, *published.CONTACT_RANGES):
        assert entry.metric in PRECISIONS
