"""Where a model comes from: the file `esm1b.json` of its directory."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from esm1b.alphabet import RareResidues
from esm1b.errors import UserError
from esm1b.files import read_json, write_json
from esm1b.model.shape import EncoderShape

_FILE: Final = "esm1b.json"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a model comes from: `esm1b.json`.

    Attributes:
        rare_residues: "replace" where B, U, Z and O were merged into X in training.
        details: run configuration, fingerprint and updates.
    """

    rare_residues: RareResidues = "keep"
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def append_eos(self) -> bool:
        """Whether `<eos>` closed each sequence in training; it does in released models."""
        return bool(self._recipe.get("append_eos", True))

    def longest_sequence(self, shape: EncoderShape) -> int:
        """Return the most residues that a sequence had in training, at most what fits `shape`."""
        fitting = shape.maximum_tokens - (2 if self.append_eos else 1)
        return min(fitting, int(self._recipe.get("crop_residues", fitting)))

    @property
    def _recipe(self) -> dict[str, Any]:
        recipe = self.details.get("pretraining", {})
        return recipe if isinstance(recipe, dict) else {}


def write_provenance(directory: Path, provenance: Provenance, *, contact_head: bool) -> None:
    """Write `esm1b.json`; `contact_head` says whether the contact head is fitted."""
    write_json(
        directory / _FILE,
        {
            "rare_residues": provenance.rare_residues,
            "contact_head": "fitted" if contact_head else "unfitted",
            **provenance.details,
        },
    )


def read_provenance(directory: Path) -> Provenance:
    """Return what `esm1b.json` says, or the defaults for a directory without one."""
    path = directory / _FILE
    if not path.exists():
        return Provenance()
    content = read_json(path)
    if not isinstance(content, dict) or content.get("rare_residues") not in ("replace", "keep"):
        raise UserError(f"{path}: expected rare_residues to be 'replace' or 'keep'")
    _check_details(path, content)
    return Provenance(
        rare_residues=content.pop("rare_residues"),
        details={key: value for key, value in content.items() if key != "contact_head"},
    )


def _check_details(path: Path, content: Mapping[str, Any]) -> None:
    """Check what is read again later; the rest is only passed on."""
    recipe, imported = content.get("pretraining", {}), content.get("imported", {})
    for key, kind, expected in (
        ("append_eos", bool, "true or false"),
        ("crop_residues", int, "a number of residues"),
    ):
        if not isinstance(recipe, dict) or type(recipe.get(key, kind(1))) is not kind:
            raise UserError(f"{path}: pretraining.{key}: expected {expected}")
    if not isinstance(imported, dict) or (imported and imported.keys() != {"name", "sha256"}):
        raise UserError(f"{path}: imported: expected name and sha256 of what was imported")
