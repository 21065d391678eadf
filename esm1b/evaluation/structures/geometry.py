"""Where Cb is, which residues touch, and which pairs are far enough apart to count."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Glycine = Literal["impute", "ca"]

CONTACT_DISTANCE: Final = 8.0  # angstrom
MINIMUM_SEPARATION: Final = 6  # of the residues of a pair, along the sequence

# Ideal Cb from N, CA and C: examples/contact_prediction.ipynb of facebookresearch/esm.
_BOND: Final = 1.522  # CA-CB, angstrom
_ANGLE: Final = 1.927  # N-CA-CB, radian
_DIHEDRAL: Final = -2.143  # C-N-CA-CB, radian


def impute_beta_carbons(
    nitrogen: NDArray[np.float64], alpha: NDArray[np.float64], carbonyl: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return where Cb would be, `[residues, 3]` in angstrom, from N, CA and C of the same shape.

    The fourth atom of the chain C-N-CA-CB, placed by bond length, angle and dihedral.
    """
    along = _unit(alpha - nitrogen)
    normal = _unit(np.cross(nitrogen - carbonyl, along))
    across = np.cross(normal, along)
    sideways = np.cos(_DIHEDRAL) * across + np.sin(_DIHEDRAL) * normal
    beta: NDArray[np.float64] = alpha + _BOND * (np.sin(_ANGLE) * sideways - np.cos(_ANGLE) * along)
    return beta


def beta_carbons(
    sequence: str, backbone: NDArray[np.float64], *, glycine: Glycine
) -> NDArray[np.float64]:
    """Return a position for each residue, `[length, 3]` in angstrom; NaN where unknown.

    `backbone` holds N, CA, C and CB, `[length, 4, 3]`, NaN for missing atoms. On glycine, `impute`
    places a Cb too, as the published notebook does; `ca` takes its CA, the convention of many
    contact benchmarks.
    """
    nitrogen, alpha, carbonyl, beta = (backbone[:, atom] for atom in range(4))
    missing = np.isnan(beta).any(axis=1, keepdims=True)
    beta = np.where(missing, impute_beta_carbons(nitrogen, alpha, carbonyl), beta)
    if glycine == "ca":
        is_glycine = np.array(list(sequence))[:, None] == "G"
        beta = np.where(is_glycine, alpha, beta)
    return beta


def contact_pairs(beta: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return i and j of the pairs with `j - i >= 6` closer than 8 angstrom, `[2, contacts]`.

    They are counted from 0 and in order of i, then j. Residues with NaN in `beta` `[length, 3]`
    have no contact.
    """
    distances = np.linalg.norm(beta[:, None] - beta[None, :], axis=-1)
    with np.errstate(invalid="ignore"):
        touching = np.triu(distances < CONTACT_DISTANCE, MINIMUM_SEPARATION)
    return np.array(np.nonzero(touching))


def pair_mask(
    observed: NDArray[np.bool_], first: int = MINIMUM_SEPARATION, beyond: int = 1 << 30
) -> NDArray[np.bool_]:
    """Return the pairs i < j that count, `[length, length]`.

    Both residues are `observed` `[length]`, and `first <= j - i < beyond`.
    """
    position = np.arange(observed.size)
    separation = position[None, :] - position[:, None]
    return (separation >= first) & (separation < beyond) & observed[None, :] & observed[:, None]


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        units: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units
