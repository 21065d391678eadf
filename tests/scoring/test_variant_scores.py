"""Variant scores by each convention, against loops that follow the definitions."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from esm1b.alphabet import AMINO_ACIDS, CLS, EOS, MASK, encode
from esm1b.inference.model import Model, load_model
from esm1b.scoring.mutations import Variant, parse_variant
from esm1b.scoring.variant_scores import Convention, score_variants
from tests.inference.models import random_sequences, write_model

WILD_TYPE = random_sequences(7, longest=30)[6]
LONG = "".join(np.random.default_rng(0).choice(list(AMINO_ACIDS), 150))  # the model takes 64


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    loaded = load_model(write_model(tmp_path_factory.mktemp("model")), device="cpu")
    return replace(loaded, network=loaded.network.double())


def some_variants(wild_type: str, number: int = 25) -> list[Variant]:
    """Return variants of one to four mutations, some of which share positions."""
    generator = np.random.default_rng(1)
    chosen = []
    for _ in range(number):
        places = generator.choice(len(wild_type), generator.integers(1, 5), replace=False)
        mutant = list(wild_type)
        for place in places:
            mutant[place] = str(generator.choice(list(AMINO_ACIDS.replace(mutant[place], ""))))
        chosen.append(parse_variant("".join(mutant), wild_type))
    return chosen


def predicted(model: Model, tokens: list[int]) -> NDArray[np.float64]:
    """Return log-probabilities `[tokens, 33]` of one sequence, which nothing is packed with."""
    length = np.array([len(tokens)])
    return model.log_probabilities(np.array(tokens), length, np.arange(len(tokens)))


def framed(sequence: str, hidden: tuple[int, ...] = ()) -> list[int]:
    tokens = [CLS, *encode(sequence).tolist(), EOS]
    for place in hidden:
        tokens[place + 1] = MASK
    return tokens


def token(letter: str) -> int:
    return int(encode(letter)[0])


def pseudo_log_likelihood(model: Model, sequence: str) -> float:
    return sum(
        predicted(model, framed(sequence, (place,)))[place + 1, token(letter)]
        for place, letter in enumerate(sequence)
    )


def by_definition(model: Model, wild_type: str, variant: Variant, convention: Convention) -> float:
    if convention == "pseudo-perplexity":
        mutated = pseudo_log_likelihood(model, variant.applied(wild_type))
        return mutated - pseudo_log_likelihood(model, wild_type)
    score = 0.0
    for mutation in variant.mutations:
        all_places = tuple(each.position for each in variant.mutations)
        tokens = {
            "masked-marginals": framed(wild_type, (mutation.position,)),
            "masked-marginals-joint": framed(wild_type, all_places),
            "wildtype-marginals": framed(wild_type),
            "mutant-marginals": framed(variant.applied(wild_type)),
        }[convention]
        row = predicted(model, tokens)[mutation.position + 1]
        score += row[token(mutation.mutant)] - row[token(mutation.wild_type)]
    return score


CONVENTIONS: list[Convention] = [
    "masked-marginals",
    "masked-marginals-joint",
    "wildtype-marginals",
    "mutant-marginals",
    "pseudo-perplexity",
]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_conventions_follow_their_definitions(model: Model, convention: Convention) -> None:
    variants = some_variants(WILD_TYPE)
    assert {len(variant.mutations) for variant in variants} == {1, 2, 3, 4}
    found = score_variants(model, WILD_TYPE, variants, convention=convention)
    expected = [by_definition(model, WILD_TYPE, each, convention) for each in variants]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert np.ptp(expected) > 1


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_scores_depend_on_no_batch_and_no_order(model: Model, convention: Convention) -> None:
    single = replace(model, network=model.network.float())
    variants = some_variants(WILD_TYPE)
    expected = score_variants(single, WILD_TYPE, variants, convention=convention)
    for batch_tokens in (1, 100, 100_000):
        found = score_variants(
            single, WILD_TYPE, variants[::-1], convention=convention, batch_tokens=batch_tokens
        )
        np.testing.assert_allclose(found[::-1], expected, rtol=0, atol=5e-5)
    model.network.double()


def test_no_variants_have_no_scores(model: Model) -> None:
    for convention in CONVENTIONS:
        assert score_variants(model, WILD_TYPE, [], convention=convention).shape == (0,)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_long_proteins_are_seen_through_the_piece_around_each_mutation(
    model: Model, convention: Convention
) -> None:
    variants = [parse_variant(f"{LONG[p]}{p + 1}W", LONG) for p in (0, 31, 75, 117, 149)]
    found = score_variants(model, LONG, variants, convention=convention)
    if convention == "pseudo-perplexity":
        return
    for variant, score in zip(variants, found, strict=True):
        (mutation,) = variant.mutations
        place = mutation.position + 1
        sequence = variant.applied(LONG) if convention == "mutant-marginals" else LONG
        tokens = framed(sequence, (mutation.position,) if "masked" in convention else ())
        # get_optimal_window of ProteinGym, for a network of 66 tokens
        start = 0 if place < 33 else min(place - 33, len(tokens) - 66)
        row = predicted(model, tokens[start : start + 66])[place - start]
        expected = row[token("W")] - row[token(mutation.wild_type)]
        assert score == pytest.approx(expected, abs=1e-9)
