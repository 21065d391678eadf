import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

# Several tests run at once; a pool of threads in each would only get in the way of the others.
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from esm1b.alphabet import MASK, PAD
from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.dataset import TokenDataset
from esm1b.corpus.tokens.tokenize import tokenize
from esm1b.model.encoder import Encoder
from esm1b.model.shape import EncoderShape

# On a busy machine anything may be slow; time is measured by the benchmarks.
hypothesis.settings.register_profile(
    "unhurried",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("unhurried")

# Residue frequencies of no real protein; every one of the 25 symbols occurs.
_LETTERS = "LAGVSERTIDPKQNFYMHWC" * 20 + "XBUZO"


# Files that take longest; they begin first, or one of them would run alone at the end.
_LONGEST = (
    "workflow/test_workflow.py",
    "pretraining/test_faults.py",
    "pretraining/test_layouts.py",
    "pretraining/test_pretrain.py",
    "pretraining/engine/test_deepspeed_engine.py",
    "benchmarks/test_benchmarks.py",
    "pretraining/test_run_options.py",
    "workflow/test_corpus_rules.py",
    "corpus/test_interruption.py",
    "model/test_packing_parity.py",
    "workflow/test_releases.py",
    "workflow/test_unlock.py",
    "workflow/test_profiles.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {Path(__file__).parent / name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))


@pytest.fixture(autouse=True)
def _root_logger() -> Iterator[None]:
    """Undo what `esm1b.cli.main` sets up: its handler writes to the standard error of one test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture(scope="session")
def tokens_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_tokens(tmp_path_factory.mktemp("tokens"))


def random_tokens(folder: Path) -> Path:
    """Return tokens of 203 random proteins of 3 to 120 residues, three shards, a fifth held out."""
    letters = random.Random(1)
    records = [
        f">protein{number}\n{''.join(letters.choices(_LETTERS, k=letters.randrange(3, 121)))}\n"
        for number in range(203)
    ]
    (folder / "proteins.fasta").write_text("".join(records))
    corpus = folder / "corpus"
    shard([str(folder / "proteins.fasta")], corpus, Selection(validation_fraction=0.2), shards=3)
    tokenize(corpus, folder / "tokens")
    return folder / "tokens"


def residues(dataset: TokenDataset, index: int) -> NDArray[np.uint8]:
    """Return the tokens `[length]` of one sequence."""
    lengths = dataset.lengths[[index]].astype(np.int64)
    return dataset.gather(np.array([index]), np.zeros(1, np.int64), lengths)


def random_encoder(shape: EncoderShape, seed: int = 0) -> Encoder:
    """Return an encoder whose parameters are all random and large enough to matter.

    `initialise` draws zero biases and small weights, in which a swapped bias or norm would hide.
    """
    encoder = Encoder(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1.0)
        encoder.embed_tokens.weight[[PAD, MASK]] = 0.0
        if encoder.embed_positions is not None:
            encoder.embed_positions.weight[PAD] = 0.0
    return encoder.eval()
