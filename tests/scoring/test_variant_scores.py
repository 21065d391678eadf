"""Variant scores by each convention, against loops that follow the definitions."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from esm import Alphabet
from numpy.typing import NDArray

from esm1b.alphabet import AMINO_ACIDS, CLS, EOS, MASK, encode
from esm1b.inference.model import Model, load_model
from esm1b.model.encoder import Encoder
from esm1b.model.layers import ContactHead
from esm1b.scoring.mutations import Variant, all_substitutions, parse_variant
from esm1b.scoring.variant_scores import Convention, score_variants
from esm1b.scoring.weighted_passes import edge_weights
from tests.inference.models import write_model
from tests.model.parity import fair_esm

WILD_TYPE = "MKTVRQGSAEWL"
LONG = "".join(np.random.default_rng(0).choice(list(AMINO_ACIDS), 150))  # the model takes 64


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(write_model(tmp_path_factory.mktemp("model")), device="cpu")


@pytest.fixture(scope="module")
def model(single: Model) -> Model:
    """The same model in float64, where differences between ways of computing are not hidden."""
    return replace(single, network=copy.deepcopy(encoder_of(single)).double())


def encoder_of(model: Model) -> Encoder:
    assert isinstance(model.network, Encoder)
    return model.network


def some_variants(wild_type: str, number: int = 12) -> list[Variant]:
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
        float(predicted(model, framed(sequence, (place,)))[place + 1, token(letter)])
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
        score += float(row[token(mutation.mutant)] - row[token(mutation.wild_type)])
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
def test_scores_depend_on_no_batch_and_no_order(single: Model, convention: Convention) -> None:
    variants = some_variants(WILD_TYPE)
    expected = score_variants(single, WILD_TYPE, variants, convention=convention)
    for batch_tokens in (1, 100, 100_000):
        found = score_variants(
            single, WILD_TYPE, variants[::-1], convention=convention, batch_tokens=batch_tokens
        )
        np.testing.assert_allclose(found[::-1], expected, rtol=0, atol=5e-5)


def test_no_variants_have_no_scores(model: Model) -> None:
    for convention in CONVENTIONS:
        assert score_variants(model, WILD_TYPE, [], convention=convention).shape == (0,)


def fair_esm_scores(model: Model, strategy: str) -> NDArray[np.float64]:
    """Return all single substitutions as fair-esm's examples/variant-prediction/predict.py does."""
    head = ContactHead(coefficients=torch.zeros(4), intercept=torch.tensor(0.0))
    network = fair_esm(encoder_of(model), head)
    alphabet = Alphabet.from_architecture("roberta_large")
    _, _, tokens = alphabet.get_batch_converter()([("protein1", WILD_TYPE)])
    with torch.no_grad():
        if strategy == "wt-marginals":
            token_probs = torch.log_softmax(network(tokens)["logits"], dim=-1)
        else:
            rows = []
            for i in range(tokens.size(1)):
                masked = tokens.clone()
                masked[0, i] = alphabet.mask_idx
                rows.append(torch.log_softmax(network(masked)["logits"], dim=-1)[:, i])
            token_probs = torch.cat(rows, dim=0).unsqueeze(0)
    scores = []
    for variant in all_substitutions(WILD_TYPE):
        wt, idx, mt = variant.name[0], int(variant.name[1:-1]) - 1, variant.name[-1]
        at = token_probs[0, 1 + idx]
        scores.append((at[alphabet.get_idx(mt)] - at[alphabet.get_idx(wt)]).item())
    return np.array(scores)


@pytest.mark.parametrize(
    ("strategy", "convention"),
    [("masked-marginals", "masked-marginals"), ("wt-marginals", "wildtype-marginals")],
)
def test_scores_are_those_of_the_published_script(
    single: Model, strategy: str, convention: Convention
) -> None:
    found = score_variants(single, WILD_TYPE, all_substitutions(WILD_TYPE), convention=convention)
    np.testing.assert_allclose(found, fair_esm_scores(single, strategy), rtol=0, atol=5e-5)


@pytest.mark.parametrize("convention", CONVENTIONS[:-1])
def test_long_proteins_are_seen_through_the_piece_around_each_mutation(
    model: Model, convention: Convention
) -> None:
    variants = [parse_variant(f"{LONG[p]}{p + 1}W", LONG) for p in (0, 31, 75, 117, 149)]
    found = score_variants(model, LONG, variants, convention=convention)
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


def proteingym_overlapping(model: Model, sequence: str) -> NDArray[np.float64]:
    """Return log-probabilities `[tokens, 33]` of overlapping windows, as ProteinGym weighs them.

    The loop of its baselines/esm/compute_fitness.py, its lengths for 1,024 tokens scaled to 66.
    """
    tokens = framed(sequence)
    size, count = 66, len(tokens)
    weights = np.ones(size)
    for i in range(1, 17):
        weights[i] = 1 / (1 + math.exp(-(i - 66 / 8) / (66 / 64)))
    for i in range(64 - 16, 65):
        weights[i] = 1 / (1 + math.exp((i - 64 + 66 / 8) / (66 / 64)))
    sums, totals = np.zeros((count, 33)), np.zeros(count)

    def add(start: int) -> None:
        sums[start : start + size] += (
            predicted(model, tokens[start : start + size]) * weights[:, None]
        )
        totals[start : start + size] += weights

    left, right = 0, count - size
    while True:
        add(left)
        add(right)
        if left + size - 1 > right:
            break
        left, right = left + 32, right - 32
    if left + size - 1 - right + 1 < 32:
        add(count // 2 - 33)
    return sums / totals[:, None]


@pytest.mark.parametrize("length", [65, 66, 100, 129, 130, 150, 163, 170, 200])
def test_overlapping_windows_are_weighed_as_proteingym_does(model: Model, length: int) -> None:
    wild_type = (LONG + LONG)[:length]
    variants = all_substitutions(wild_type)[::7]
    found = score_variants(
        model, wild_type, variants, convention="wildtype-marginals", window="overlapping"
    )
    probabilities = proteingym_overlapping(model, wild_type)
    expected = []
    for variant in variants:
        (mutation,) = variant.mutations
        row = probabilities[mutation.position + 1]
        expected.append(row[token(mutation.mutant)] - row[token(mutation.wild_type)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_proteingyms_weights_of_1024_tokens() -> None:
    weights = edge_weights(1024)
    assert weights[[0, 256 + 1, 512, 765, 1023]].tolist() == [1, 1, 1, 1, 1]
    assert weights[128] == 0.5
    assert weights[1] == pytest.approx(1 / (1 + math.exp(127 / 16)))
    assert weights[1022] == pytest.approx(1 / (1 + math.exp(128 / 16)))
    assert weights[766] == pytest.approx(1 / (1 + math.exp(-128 / 16)))
