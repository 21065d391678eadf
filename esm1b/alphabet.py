"""The 33 tokens of ESM-1b and the residue symbols among them.

Order as in facebookresearch/esm, `esm/constants.py` and `esm/data.py`: four special tokens, the
residue symbols by falling frequency, two gap symbols, one filler to reach a multiple of eight, and
`<mask>` last.
"""

import unicodedata
from string import ascii_lowercase, ascii_uppercase
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

RareResidues = Literal["replace", "keep"]

AMINO_ACIDS: Final = "LAGVSERTIDPKQNFYMHWC"
RESIDUES: Final = AMINO_ACIDS + "XBUZO"
TOKENS: Final = ("<cls>", "<pad>", "<eos>", "<unk>", *RESIDUES, ".", "-", "<null_1>", "<mask>")
CLS: Final = 0
PAD: Final = 1
EOS: Final = 2
UNK: Final = 3
FIRST_AMINO_ACID: Final = 4
X: Final = 24
MASK: Final = 32

SECONDARY_STRUCTURE: Final = "HEC"
"""The three states of secondary structure: helix, strand and coil."""

_NOT_A_RESIDUE: Final = 255
# J stands for leucine or isoleucine: ESM-1b has no symbol for it.
_TOKEN_OF: Final = {symbol: token for token, symbol in enumerate(TOKENS)} | {"J": X}
_EXPECTED: Final = f"expected one of the residue symbols {RESIDUES}J"
# Beyond ASCII, upper() can turn one letter into two.
_UPPER: Final = str.maketrans(ascii_lowercase, ascii_uppercase)
_ENCODING: Final = bytes(
    _TOKEN_OF[chr(code)] if chr(code) in RESIDUES + "J" else _NOT_A_RESIDUE for code in range(256)
)
_DECODING: Final = np.frombuffer(
    b"".join(token.encode() if len(token) == 1 else b"?" for token in TOKENS), dtype=np.uint8
)


def encode(sequence: str | bytes | memoryview) -> NDArray[np.uint8]:
    """Return the residue tokens `[length]` of an upper-case sequence; J becomes X.

    No special tokens are added.

    Raises:
        ValueError: a character is not one of the 25 residue symbols or J; the message names it and
            its position, counted from 1.
    """
    characters = sequence.encode("latin-1", "replace") if isinstance(sequence, str) else sequence
    # several times as fast as indexing with NumPy
    tokens = bytearray(characters).translate(_ENCODING)
    if _NOT_A_RESIDUE in tokens:
        position = tokens.index(_NOT_A_RESIDUE)
        character = sequence[position] if isinstance(sequence, str) else chr(sequence[position])
        raise ValueError(f"{character_name(character)} at position {position + 1}; {_EXPECTED}")
    return np.frombuffer(tokens, dtype=np.uint8)


def character_name(character: str) -> str:
    """Return a character as messages show it, with its name beyond ASCII: some are invisible."""
    if character.isascii():
        return repr(character)
    shown = f"{character!r}, " if character.isprintable() else ""
    return f"{shown}U+{ord(character):04X} ({unicodedata.name(character, 'without a name')})"


def encode_masked(text: str) -> NDArray[np.uint8]:
    """Return the tokens `[length]` of a sequence as people write it.

    White space is ignored, lower case counts as upper case, and `<mask>` is a token.

    Raises:
        ValueError: a character is not one of the 25 residue symbols or J; the message names it and
            its position, counted from 1, with `<mask>` as one position.
    """
    text = "".join(text.split()).translate(_UPPER)
    for place, character in enumerate("" if text.isascii() else text):
        if not character.isascii():  # first, as it may stand within <mask> and hide that
            position = len(text[:place].replace("<MASK>", "A")) + 1
            raise ValueError(
                f"{character_name(character)} at position {position}; {_EXPECTED} or <mask>"
            )
    # Encode with a residue in place of each mask, then write the mask tokens over it.
    parts = text.split("<MASK>")
    try:
        tokens = encode("A".join(parts))
    except ValueError as error:
        raise ValueError(f"{error} or <mask>") from error
    places = np.cumsum([len(part) + 1 for part in parts[:-1]], dtype=np.int64) - 1
    tokens[places] = MASK
    return tokens


def decode(tokens: NDArray[np.integer]) -> str:
    """Return the residue symbols of `tokens` `[length]`; special tokens appear as `?`."""
    return str(_DECODING[tokens].tobytes(), "ascii")


def merge_rare_residues(tokens: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return `tokens` with B, U, Z and O replaced by X: the recipe's 21 residue symbols."""
    return np.where((tokens > X) & (tokens < FIRST_AMINO_ACID + len(RESIDUES)), X, tokens).astype(
        np.uint8
    )
