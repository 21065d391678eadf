"""Damage to what a run wrote."""

import json
import random
from pathlib import Path

__all__ = ["damage"]


def damage(checkpoint: Path, chance: random.Random) -> str:
    """Truncate, change by a bit, or remove a random file of a checkpoint; return what was done.

    A bit of `state.json` is one that changes what it says.
    """
    file = chance.choice(sorted(checkpoint.iterdir()))
    what = chance.choice(("truncation", "bit flip", "deletion"))
    content = file.read_bytes()
    if what == "truncation":
        file.write_bytes(content[: chance.randrange(len(content))])
    elif what == "deletion":
        file.unlink()
    else:
        changed = _flipped(content, chance)
        while file.suffix == ".json" and _says(changed) == _says(content):
            changed = _flipped(content, chance)
        file.write_bytes(changed)
    return f"{what} of {file.name}"


def _flipped(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _says(content: bytes) -> object:
    try:
        return json.loads(content)
    except ValueError:
        return content
