"""Where Cb is, and which residues touch."""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from esm1b.evaluation.structures.separation import MINIMUM_SEPARATION

Glycine = Literal["impute", "ca"]

CONTACT_DISTANCE: Final = 8.0  # angstrom

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
    """Return the atom that stands for each residue, `[length, 3]` in angstrom; NaN where unknown.

    Args:
        sequence: the residues, which say where glycine is.
        backbone: N, CA, C and CB, `[length, 4, 3]`; NaN for atoms that the file lacks.
        glycine: `impute` places a Cb on glycine too, as the published notebook does; `ca` takes its
            CA, the convention of many contact benchmarks.
    """
    nitrogen, alpha, carbonyl, beta = (backbone[:, atom] for atom in range(4))
    missing = np.isnan(beta).any(axis=1, keepdims=True)
    beta = np.where(missing, impute_beta_carbons(nitrogen, alpha, carbonyl), beta)
    if glycine == "ca":
        is_glycine = np.array([residue == "G" for residue in sequence], dtype=bool)
        beta = np.where(is_glycine[:, None], alpha, beta)
    return beta


def contact_pairs(beta: NDArray[np.float64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return i and j, counted from 0, of the pairs with `j - i >= 6` closer than 8 angstrom.

    Residues with NaN in `beta` `[length, 3]` touch nothing. Pairs are in order of i, then j.
    """
    distances = np.linalg.norm(beta[:, None] - beta[None, :], axis=-1)
    with np.errstate(invalid="ignore"):
        touching = np.triu(distances < CONTACT_DISTANCE, MINIMUM_SEPARATION)
    first, second = np.nonzero(touching)
    return first.astype(np.int32), second.astype(np.int32)


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        units: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return units
