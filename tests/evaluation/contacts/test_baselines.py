from collections.abc import Sequence

import numpy as np
import pytest

from esm1b.evaluation.contacts.baselines import mean_map, separation_map, separation_prior
from esm1b.evaluation.structures.proteins import Protein


def protein(
    contacts: Sequence[tuple[int, int]], *, length: int = 12, group: str = "a", unseen: int = 0
) -> Protein:
    observed = np.ones(length, dtype=bool)
    observed[:unseen] = False
    return Protein(
        id=group,
        group=group,
        kind="fit",
        residues=np.full(length, 4, dtype=np.uint8),
        observed=observed,
        contacts=np.array(contacts, dtype=np.int64).reshape(-1, 2).T,
    )


def test_the_prior_is_the_frequency_by_separation() -> None:
    prior = separation_prior([protein([(0, 6), (1, 7), (0, 11)])])
    assert prior.size == 12
    assert prior[:6].tolist() == [0.0] * 6
    # Separations 6 to 11 have 6, 5, 4, 3, 2 and 1 pairs, 2 of the 6 and 1 of the 1 in contact.
    # At 6, with two neighbours: 2 of 15, and ten pairs at the density 3/21.
    assert prior[6] == pytest.approx((2 + 10 * 3 / 21) / (6 + 5 + 4 + 10))
    assert prior[9] == pytest.approx((1 + 10 * 3 / 21) / (5 + 4 + 3 + 2 + 1 + 10))


def test_the_last_value_holds_beyond_the_end() -> None:
    prior = np.array([0, 0, 0, 0, 0, 0, 0.5, 0.25])
    assert separation_map(prior, 10)[0].tolist() == [0, 0, 0, 0, 0, 0, 0.5, 0.25, 0.25, 0.25]
    assert separation_map(prior, 10)[7, 0] == 0.25


def test_the_mean_map_counts_each_group_once() -> None:
    prior = np.zeros(12)
    prior[6:] = 0.1
    fit = [protein([(0, 6)], group="a"), protein([(0, 6)], group="a"), protein([], group="b")]
    combined = mean_map(fit, prior, 14)
    assert combined[0, 6] == combined[6, 0] == pytest.approx((1 + 0 + 0.1) / 3)
    assert combined[1, 7] == pytest.approx(0.1 / 3)
    assert combined[0, 13] == pytest.approx(0.1)  # longer than any: the prior alone


def test_unobserved_residues_say_nothing() -> None:
    prior = np.full(12, 0.1)
    combined = mean_map([protein([], unseen=3)], prior, 12)
    assert combined[2, 9] == pytest.approx(0.1)
    assert combined[3, 9] == pytest.approx(0.05)
