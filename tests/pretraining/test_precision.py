"""Training in bf16 against float32."""

import random
from pathlib import Path

import numpy as np
import pytest

from esm1b.corpus.records.selection import Selection
from esm1b.corpus.sharding.shard import shard
from esm1b.corpus.tokens.tokenize import tokenize
from tests.pretraining.fork_server import ForkServer
from tests.pretraining.runs import Run

CONFIGURATION = {
    "run": "precision",
    "seed": 5,
    "model": {"layers": 2, "width": 32, "heads": 2, "feed_forward": 128, "maximum_tokens": 64},
    "pretraining": {
        "updates": 300,
        "tokens_per_update": 2000,
        "crop_residues": 62,
        "learning_rate": 0.003,
        "warmup_updates": 20,
        "log_interval": 1,
        "validation_sequences": 10,
        "checkpoint_interval": 300,
    },
}


@pytest.mark.slow
def test_losses_of_300_updates_in_bf16_are_within_one_percent(
    server: ForkServer, tmp_path: Path
) -> None:
    # Relatives of four proteins, so that there is something to learn.
    letters = random.Random(1)
    ancestors = ["".join(letters.choices("ACDEFGHIKLMNPQRSTVWY", k=60)) for _ in range(4)]
    with (tmp_path / "proteins.fasta").open("w") as file:
        for number in range(800):
            residues = list(ancestors[number % 4])
            for place in letters.sample(range(60), 6):
                residues[place] = letters.choice("ACDEFGHIKLMNPQRSTVWY")
            file.write(f">protein{number}\n{''.join(residues)}\n")
    corpus, tokens = tmp_path / "corpus", tmp_path / "tokens"
    shard([str(tmp_path / "proteins.fasta")], corpus, Selection(validation_fraction=0.1), shards=1)
    tokenize(corpus, tokens)

    losses = {}
    for precision in ("fp32", "bf16"):
        run = Run(server, tmp_path / precision, tokens, CONFIGURATION)
        statuses, started = run.start("--micro-batch-tokens=2000", precision=precision)
        assert statuses == [0], started.errors()
        losses[precision] = np.array(run.losses())

    # the mean of 20 updates: that of one has the noise of 300 masked residues
    means = {name: values.reshape(-1, 20).mean(1) for name, values in losses.items()}
    assert means["fp32"][-1] < 0.7 * means["fp32"][0]
    np.testing.assert_allclose(means["bf16"], means["fp32"], rtol=0.01)
