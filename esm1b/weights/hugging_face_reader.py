"""Directories of `EsmForMaskedLM` as others write them, older ones and in several files too."""

import re
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from esm1b.errors import UserError
from esm1b.files import read_json
from esm1b.model.contact_head import ContactHead
from esm1b.model.encoder import Encoder
from esm1b.weights.hugging_face import hugging_face_names, read_shape
from esm1b.weights.state import check_tied, contact_head_from_state, encoder_from_state
from esm1b.weights.torch_file import read_torch_file

# In the order in which `transformers` looks for them.
_FILES: Final = ("model.safetensors", "pytorch_model.bin")

_EMBEDDING: Final = "esm.embeddings.word_embeddings.weight"
_PROJECTION: Final = "lm_head.decoder.weight"
_PROJECTION_BIAS: Final = "lm_head.decoder.bias"
_CONTACT_HEAD: Final = "esm.contact_head.regression"
# Counted numbers, and a layer for sentence classification that masked language models leave out.
_WITHOUT_MEANING: Final = ("esm.embeddings.position_ids", "esm.pooler.")
# As TensorFlow called them; transformers 5.23 still writes this for a network that it initialised.
_NORM: Final = re.compile(r"LayerNorm\.(gamma|beta)$")
_NORM_NAMES: Final = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
_EPSILON: Final = 1e-5
_DEFAULT_EPSILON: Final = 1e-12  # what transformers takes where the configuration has none


def read_hugging_face(directory: Path) -> tuple[Encoder, ContactHead | None]:
    """Read an ESM-1b or ESM-1v, float32, in evaluation mode; without contact head where it is zero.

    The weights may be in safetensors or in `pytorch_model.bin`, whole or in parts with an index.
    The output projection and its bias may be there a second time, under `lm_head.decoder`.

    Raises:
        UserError: a file is missing or damaged, is of another model, or holds anything besides
            tensors (none of which is run); or the tensors are not those of `config.json`.
    """
    _check_kind(directory)
    shape = read_shape(directory)
    source, tensors = _read_tensors(directory)
    tensors = {
        _NORM.sub(lambda old: _NORM_NAMES[old[0]], name): tensor
        for name, tensor in tensors.items()
        if not name.startswith(_WITHOUT_MEANING)
    }
    if _PROJECTION_BIAS in tensors:
        _merge_bias(tensors, source)
    with torch.device("meta"):
        empty = Encoder(shape)
    names = dict(zip(empty.state_dict(), hugging_face_names(empty), strict=True))
    encoder = encoder_from_state(
        shape, tensors, names.__getitem__, source=source, described_by="config.json"
    )
    if _PROJECTION in tensors:
        check_tied(tensors, _PROJECTION, _EMBEDDING, source=source, described_by="config.json")
    others = tensors.keys() - {*names.values(), _PROJECTION}
    contact_head = None
    if others & {f"{_CONTACT_HEAD}.weight", f"{_CONTACT_HEAD}.bias"}:
        contact_head = contact_head_from_state(
            shape, tensors, _CONTACT_HEAD, source=source, described_by="config.json"
        )
    if unknown := sorted(others - {f"{_CONTACT_HEAD}.weight", f"{_CONTACT_HEAD}.bias"}):
        raise UserError(
            f"{source}: has the tensor {unknown[0]!r}; expected those of EsmForMaskedLM alone"
        )
    return encoder, contact_head


def _check_kind(directory: Path) -> None:
    path = directory / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        return  # what is read from it says so
    if config.get("position_embedding_type") == "rotary":
        raise UserError(
            f'{path}: position_embedding_type is "rotary", so this is an ESM-2, which embed, '
            "contacts and fill-mask take as it is; expected ESM-1b or ESM-1v"
        )
    epsilon = config.get("layer_norm_eps", _DEFAULT_EPSILON)
    if epsilon != _EPSILON:
        raise UserError(f"{path}: layer_norm_eps is {epsilon!r}; expected {_EPSILON} (ESM-1b)")


def _merge_bias(tensors: dict[str, Any], source: Path) -> None:
    """Take the bias of the projection for that of the head, its name in `EsmForMaskedLM`."""
    again = tensors.pop(_PROJECTION_BIAS)
    bias = tensors.setdefault("lm_head.bias", again)
    if not (isinstance(bias, Tensor) and isinstance(again, Tensor) and torch.equal(bias, again)):
        raise UserError(
            f"{source}: {_PROJECTION_BIAS} differs from lm_head.bias; expected the same vector"
        )


def _read_tensors(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Return the tensors by name, and the file to name in messages about them."""
    for name in _FILES:
        if (directory / name).exists():
            return directory / name, _read_file(directory / name)
        index = directory / f"{name}.index.json"
        if index.exists():
            return index, _read_parts(index)
    expected = " or ".join(f"{name}[.index.json]" for name in _FILES)
    raise UserError(f"{directory}: holds no weights; expected {expected}")


def _read_parts(index: Path) -> dict[str, Any]:
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not places:
        raise UserError(f"{index}: expected weight_map with a file for each tensor")
    tensors: dict[str, Any] = {}
    for part in sorted({str(place) for place in places.values()}):
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
