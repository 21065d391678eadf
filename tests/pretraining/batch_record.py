"""Has every process of a run write down what it trains on."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from esm1b.batches.micro_batch import MicroBatch
from esm1b.pretraining.engine.deepspeed_engine import Engine

__all__ = ["FOLDER", "digests_by_update", "record_batches"]

FOLDER = "BATCH_RECORD"
"""The variable that names the folder for the records."""


def record_batches(rank: int) -> None:
    """Write down the digest of every masked sequence; called in a process before its command."""
    path = Path(os.environ[FOLDER]) / f"rank-{rank}.jsonl"
    update = Engine.update

    def recorded(self: Engine, batches: Sequence[MicroBatch], **others: Any) -> Any:
        digests = [digest for batch in batches for digest in _digests(batch)]
        with path.open("a") as file:
            file.write(json.dumps(digests) + "\n")
        return update(self, batches, **others)

    Engine.update = recorded  # type: ignore[method-assign]  # in this process alone


def digests_by_update(folder: Path) -> list[str]:
    """Return a digest of the sequences of each update, whatever their order and process."""
    lines = [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("rank-*.jsonl"))
    ]
    joined = []
    for of_ranks in zip(*lines, strict=True):
        found = Counter(digest for of_rank in of_ranks for digest in of_rank)
        joined.append(hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest())
    return joined


def _digests(batch: MicroBatch) -> list[str]:
    """Return a digest of each sequence: its tokens, masked positions and targets."""
    digests = []
    start = 0
    for length in batch.lengths.tolist():
        end = start + length
        inside = (batch.masked_positions >= start) & (batch.masked_positions < end)
        if length > 2 or inside.any():  # else it is what stands in for no sequence at all
            parts = (
                batch.tokens[start:end],
                batch.masked_positions[inside] - start,
                batch.targets[inside],
            )
            content = b"|".join(part.astype("<i8").tobytes() for part in parts)
            digests.append(hashlib.sha256(content).hexdigest()[:16])
        start = end
    return digests
