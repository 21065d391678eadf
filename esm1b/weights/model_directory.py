"""Model directories read: `EsmForMaskedLM` as this package, `transformers` and others write it."""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load_file

from esm1b.alphabet import PAD, TOKENS
from esm1b.errors import UserError
from esm1b.files import read_json, sha256_file
from esm1b.model.shape import EncoderShape
from esm1b.weights.provenance import PROVENANCE_FILE, Provenance
from esm1b.weights.save_model import (
    CONFIG,
    CONTACT_HEAD,
    LAYER_NORM_EPSILON,
    SIZES,
    WEIGHTS,
    hugging_face_name,
)
from esm1b.weights.state import FileTensors, TrainedModel, read_shape, read_torch_file

# In the order in which `transformers` looks for them.
_WEIGHT_FILES: Final = (WEIGHTS, "pytorch_model.bin")
# What decides a result: weights (released ESM-2 directories may hold .bin files, in parts), shape
# and use. Not the model card or the tokenizer, which nothing here reads.
_DECISIVE: Final = ("*.safetensors", "*.bin", CONFIG, PROVENANCE_FILE)

_BIAS: Final = "lm_head.bias"
_PROJECTION_BIAS: Final = "lm_head.decoder.bias"
# Tensors that files may have under a second name.
_REPEATED: Final = {
    "lm_head.decoder.weight": hugging_face_name("embed_tokens.weight"),
    _PROJECTION_BIAS: _BIAS,
}
_REGRESSION: Final = {f"{CONTACT_HEAD}.weight", f"{CONTACT_HEAD}.bias"}
# Counted numbers, and a layer for sentence classification that masked language models leave out.
_WITHOUT_MEANING: Final = ("esm.embeddings.position_ids", "esm.pooler.")
# Released ESM-2 directories have a table that their network does not use.
_POSITION_TABLE: Final = hugging_face_name("embed_positions.weight")
# As TensorFlow called them; transformers 5.23 still writes this for a network that it initialised.
_NORM: Final = re.compile(r"LayerNorm\.(gamma|beta)$")
_NORM_NAMES: Final = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}

_DEFAULTS: Final = {"layer_norm_eps": 1e-12, "rope_theta": 10_000.0, "is_folding_model": False}
"""What transformers takes where the configuration has none."""
_EXPECTED: Final = {
    "layer_norm_eps": LAYER_NORM_EPSILON,
    "vocab_size": len(TOKENS),
    "token_dropout": True,
}
_EXPECTED_OF_ROTARY: Final = {**_EXPECTED, "rope_theta": 10_000.0, "is_folding_model": False}


@dataclass(frozen=True, eq=False)
class ModelDirectory:
    """A model directory, whose files are opened when they are needed, the small ones once.

    A file that is missing, damaged or invalid raises a `UserError` that names it.
    """

    path: Path

    @property
    def name(self) -> str:
        """Name of the directory."""
        return self.path.absolute().name

    @cached_property
    def config(self) -> dict[str, Any]:
        """Content of `config.json`."""
        config = read_json(self.path / CONFIG)
        if not isinstance(config, dict):
            raise UserError(f"{self.path / CONFIG}: expected a JSON object")
        return config

    @cached_property
    def description(self) -> dict[str, Any]:
        """Content of `esm1b.json`; empty in a directory without one."""
        path = self.path / PROVENANCE_FILE
        description: dict[str, Any] = read_json(path) if path.exists() else {}
        return description

    @property
    def provenance(self) -> Provenance:
        """Origin of the model according to `esm1b.json`; defaults without that file."""
        path = self.path / PROVENANCE_FILE
        return Provenance.parse(self.description, str(path)) if path.exists() else Provenance()

    @property
    def shape(self) -> EncoderShape:
        """Size of the network, if it is an ESM-1b, ESM-1v or ESM-2.

        An ESM-2 counts positions as if it had ESM-1b's table; training saw no more.
        """
        config = {**_DEFAULTS, **self.config}

        def refuse(key: str, expected: str) -> NoReturn:
            found = json.dumps(config.get(key))
            raise UserError(f"{self.path / CONFIG}: {key} is {found}; expected {expected}")

        kind = config.get("position_embedding_type")
        if kind not in ("absolute", "rotary"):
            refuse("position_embedding_type", '"absolute" (ESM-1b) or "rotary" (ESM-2)')
        is_rotary = kind == "rotary"
        for key, value in (_EXPECTED_OF_ROTARY if is_rotary else _EXPECTED).items():
            found = config.get(key)
            if found != value or isinstance(found, bool) != isinstance(value, bool):
                refuse(key, f"{json.dumps(value)} ({'ESM-2' if is_rotary else 'ESM-1b'})")
        norm_before = config.get("emb_layer_norm_before")
        if norm_before is None and is_rotary:
            norm_before = False
        if not isinstance(norm_before, bool):
            refuse("emb_layer_norm_before", "true or false")
        return read_shape(
            config,
            SIZES,
            layer_norm_before=norm_before,
            positions="rotary" if is_rotary else "learned",
            source=f"{self.path / CONFIG}: ",
            rows_of_no_position=PAD + 1,
        )

    def read(self) -> TrainedModel:
        """Read an ESM-1b, ESM-1v or ESM-2, float32, in evaluation mode.

        The weights may be in safetensors or in `pytorch_model.bin`, whole or in parts with an
        index; nothing in them is run. The output projection and its bias may be repeated under
        `lm_head.decoder`.
        """
        shape = self.shape
        source, content = self._tensors()
        tensors = {
            _NORM.sub(lambda old: _NORM_NAMES[old[0]], name): tensor
            for name, tensor in content.items()
            if not name.startswith(_WITHOUT_MEANING)
        }
        if _PROJECTION_BIAS in tensors:
            tensors.setdefault(_BIAS, tensors[_PROJECTION_BIAS])
        if shape.is_rotary:
            tensors.pop(_POSITION_TABLE, None)
        file = FileTensors(tensors=tensors, source=source, described_by=CONFIG)
        encoder = file.encoder(file.with_positions(shape), hugging_face_name)
        for again in sorted(tensors.keys() & _REPEATED):
            file.check_tied(again, _REPEATED[again])
        known = {*map(hugging_face_name, encoder.state_dict()), *_REPEATED}
        others = tensors.keys() - known
        if shape.is_rotary:
            others -= file.frequencies()
        contact_head = file.contact_head(shape, CONTACT_HEAD) if others & _REGRESSION else None
        if unknown := sorted(others - _REGRESSION):
            raise UserError(
                f"{source}: has the tensor {unknown[0]!r}; expected those of EsmForMaskedLM alone"
            )
        return TrainedModel(encoder=encoder, contact_head=contact_head, provenance=self.provenance)

    def digest(self) -> str:
        """Return the SHA-256, in hexadecimal, over all files that decide the model's results."""
        digest = hashlib.sha256()
        for file in sorted(file for pattern in _DECISIVE for file in self.path.glob(pattern)):
            digest.update(f"{sha256_file(file)}  {file.name}\n".encode())
        return digest.hexdigest()

    def _tensors(self) -> tuple[Path, dict[str, Any]]:
        """Return the file to name in messages about the tensors, and the tensors by name."""
        for name in _WEIGHT_FILES:
            file, index = self.path / name, self.path / f"{name}.index.json"
            if file.exists():
                return file, _read_file(file)
            if index.exists():
                return index, _read_parts(index)
        expected = " or ".join(f"{name}[.index.json]" for name in _WEIGHT_FILES)
        raise UserError(f"{self.path}: holds no weights; expected {expected}")


def _read_parts(index: Path) -> dict[str, Any]:
    content = read_json(index)
    files = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not files:
        raise UserError(f"{index}: expected weight_map with a file for each tensor")
    tensors: dict[str, Any] = {}
    for part in sorted({str(file) for file in files.values()}):
        if Path(part).name != part:
            raise UserError(f"{index}: names the file {part!r}; expected files beside the index")
        tensors.update(_read_file(index.with_name(part)))
    return tensors


def _read_file(file: Path) -> dict[str, Any]:
    if file.suffix == ".safetensors":
        try:
            return dict(load_file(file))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file}: {' '.join(str(error).split())}") from error
    tensors = read_torch_file(file)
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
        raise UserError(f"{file}: expected tensors by name")
    return tensors
