"""What tells one model directory from another."""

import hashlib
from pathlib import Path
from typing import Final

from esm1b.files import sha256_file

# What decides a result: weights (released ESM-2 directories may hold .bin files, in parts), shape
# and use. Not the model card or the tokenizer, which nothing here reads.
_DECISIVE: Final = ("*.safetensors", "*.bin", "config.json", "esm1b.json")


def weights_digest(directory: Path) -> str:
    """Return the SHA-256, in hexadecimal, over all files of a model that decide its results."""
    files = sorted(file for pattern in _DECISIVE for file in directory.glob(pattern))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{sha256_file(file)}  {file.name}\n".encode())
    return digest.hexdigest()
