"""Where a model comes from, and its file in a model directory: `esm1b.json`."""

import json
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from esm1b.alphabet import RareResidues
from esm1b.errors import UserError
from esm1b.model.shape import EncoderShape

PROVENANCE_FILE: Final = "esm1b.json"


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a model comes from.

    Attributes:
        rare_residues: "replace" where B, U, Z and O were merged into X in training.
        details: run configuration, fingerprints, updates and versions, as far as they are known.
    """

    rare_residues: RareResidues = "keep"
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: Any, source: str) -> "Provenance":
        """Return the provenance that JSON content describes.

        Raises:
            UserError: the content is invalid where later steps rely on it; the message begins with
                `source`.
        """
        details = dict(content) if isinstance(content, dict) else {}
        details.pop("contact_head", None)
        rare_residues = details.pop("rare_residues", None)
        if rare_residues not in get_args(RareResidues):
            raise UserError(
                f"{source}: rare_residues is {rare_residues!r}; expected 'replace' or 'keep'"
            )
        recipe, imported = details.get("pretraining", {}), details.get("imported", {})
        for key, kind, expected in (
            ("append_eos", bool, "true or false"),
            ("crop_residues", int, "a number of residues"),
        ):
            if not isinstance(recipe, dict) or type(recipe.get(key, kind(1))) is not kind:
                raise UserError(f"{source}: pretraining.{key}: expected {expected}")
        if not isinstance(imported, dict) or (imported and imported.keys() != {"name", "sha256"}):
            raise UserError(f"{source}: imported: expected name and sha256 of what was imported")
        return cls(rare_residues=rare_residues, details=details)

    def as_json(self) -> str:
        """Return the provenance as JSON text."""
        content = {"rare_residues": self.rare_residues, **self.details}
        return json.dumps(content, ensure_ascii=False)

    @property
    def append_eos(self) -> bool:
        """True if `<eos>` closed each sequence in training; it does in released models."""
        return bool(self._recipe.get("append_eos", True))

    def longest_sequence(self, shape: EncoderShape) -> int:
        """Return the most residues of a sequence in training, at most what fits `shape`."""
        fitting = shape.maximum_tokens - (2 if self.append_eos else 1)
        return min(fitting, int(self._recipe.get("crop_residues", fitting)))

    @property
    def _recipe(self) -> dict[str, Any]:
        recipe = self.details.get("pretraining", {})
        return recipe if isinstance(recipe, dict) else {}
