"""Model directories: Hugging Face's `EsmForMaskedLM`, written and read."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from esm1b.alphabet import FIRST_AMINO_ACID, MASK, PAD, RESIDUES, TOKENS, X
from esm1b.batches.masking import RareResidues
from esm1b.errors import UserError
from esm1b.files import atomic_directory, read_json, write_json
from esm1b.model.encoder import Encoder
from esm1b.model.shape import EncoderShape

__all__ = ["Provenance", "load_encoder", "read_provenance", "read_shape", "save_model"]

_DETAILS: Final = "esm1b.json"

# Names within a layer, and outside of layers: ours (fair-esm's) and Hugging Face's
# (transformers, models/esm/convert_esm.py).
_LAYER_NAMES: Final = {
    "self_attn.q_proj": "attention.self.query",
    "self_attn.k_proj": "attention.self.key",
    "self_attn.v_proj": "attention.self.value",
    "self_attn.out_proj": "attention.output.dense",
    "self_attn_layer_norm": "attention.LayerNorm",
    "fc1": "intermediate.dense",
    "fc2": "output.dense",
    "final_layer_norm": "LayerNorm",
}
_OTHER_NAMES: Final = {
    "embed_tokens": "esm.embeddings.word_embeddings",
    "embed_positions": "esm.embeddings.position_embeddings",
    "emb_layer_norm_before": "esm.embeddings.layer_norm",
    "emb_layer_norm_after": "esm.encoder.emb_layer_norm_after",
    "lm_head.dense": "lm_head.dense",
    "lm_head.layer_norm": "lm_head.layer_norm",
}


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a model comes from: `esm1b.json`.

    Attributes:
        rare_residues: "replace" where B, U, Z and O were merged into X in training.
        contact_head_fitted: whether the contact head was fitted; if not it is zero.
        details: run configuration, fingerprint and updates.
    """

    rare_residues: RareResidues = "keep"
    contact_head_fitted: bool = False
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


def save_model(encoder: Encoder, directory: Path, provenance: Provenance) -> None:
    """Write a directory that `transformers` loads with no missing and no unexpected key."""
    with atomic_directory(directory) as temporary:
        save_file(_hugging_face_tensors(encoder, provenance), temporary / "model.safetensors")
        write_json(temporary / "config.json", _hugging_face_config(encoder.shape))
        (temporary / "vocab.txt").write_text("\n".join(TOKENS), encoding="utf-8")
        special = {
            "cls_token": "<cls>",
            "eos_token": "<eos>",
            "mask_token": "<mask>",
            "pad_token": "<pad>",
            "unk_token": "<unk>",
        }
        write_json(temporary / "special_tokens_map.json", special)
        write_json(
            temporary / "tokenizer_config.json",
            {
                "tokenizer_class": "EsmTokenizer",
                "model_max_length": encoder.shape.maximum_tokens,
                **special,
            },
        )
        write_json(
            temporary / _DETAILS,
            {
                "rare_residues": provenance.rare_residues,
                "contact_head": "fitted" if provenance.contact_head_fitted else "unfitted",
                **provenance.details,
            },
        )


def load_encoder(directory: Path) -> Encoder:
    """Read the encoder of a model directory, float32, in evaluation mode.

    Raises:
        UserError: a file is missing or damaged, or the weights are not those of the configuration.
    """
    shape = read_shape(directory)
    file = directory / "model.safetensors"
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from error
    encoder = Encoder(shape)
    expected = {
        ours: (theirs, tensor.shape)
        for (ours, tensor), theirs in zip(
            encoder.state_dict().items(), _hugging_face_names(encoder), strict=True
        )
    }
    for theirs, size in expected.values():
        if theirs not in tensors:
            raise UserError(f"{file}: has no tensor {theirs}; expected one of shape {tuple(size)}")
        if tensors[theirs].shape != size:
            raise UserError(
                f"{file}: {theirs} has shape {tuple(tensors[theirs].shape)}; "
                f"expected {tuple(size)} from config.json"
            )
    encoder.load_state_dict({ours: tensors[theirs] for ours, (theirs, _) in expected.items()})
    with torch.no_grad():
        encoder.embed_tokens.weight[MASK] = 0.0
    return encoder.float().eval()


def read_shape(directory: Path) -> EncoderShape:
    """Return the size of the network in a model directory, from its `config.json`.

    Raises:
        UserError: the file is missing, or does not describe an ESM-1b.
    """
    path = directory / "config.json"
    config = read_json(path)

    def value(key: str, kind: type) -> Any:
        found = config.get(key) if isinstance(config, dict) else None
        if type(found) is not kind:
            raise UserError(f"{path}: {key} is {found!r}; expected {kind.__name__}")
        return found

    def size(key: str, least: int = 1) -> int:
        found: int = value(key, int)
        if found < least:
            raise UserError(f"{path}: {key} is {found}; expected at least {least}")
        return found

    for key, expected in (
        ("vocab_size", len(TOKENS)),
        ("position_embedding_type", "absolute"),
        ("token_dropout", True),
    ):
        found = value(key, type(expected))
        if found != expected:
            raise UserError(f"{path}: {key} is {json.dumps(found)}; expected {expected} (ESM-1b)")
    shape = EncoderShape(
        layers=size("num_hidden_layers"),
        width=size("hidden_size"),
        heads=size("num_attention_heads"),
        feed_forward=size("intermediate_size"),
        maximum_tokens=size("max_position_embeddings", PAD + 4) - PAD - 1,
        layer_norm_before=value("emb_layer_norm_before", bool),
    )
    if shape.width % shape.heads:
        raise UserError(
            f"{path}: num_attention_heads {shape.heads} does not divide hidden_size {shape.width}"
        )
    return shape


def read_provenance(directory: Path) -> Provenance:
    """Return what `esm1b.json` says, or the defaults for a directory without one."""
    path = directory / _DETAILS
    if not path.exists():
        return Provenance()
    content = read_json(path)
    if not isinstance(content, dict) or content.get("rare_residues") not in ("replace", "keep"):
        raise UserError(f"{path}: expected rare_residues to be 'replace' or 'keep'")
    return Provenance(
        rare_residues=content.pop("rare_residues"),
        contact_head_fitted=content.pop("contact_head", None) == "fitted",
        details=content,
    )


def _hugging_face_names(encoder: Encoder) -> list[str]:
    """Return Hugging Face's name of each tensor of the encoder's state, in its order."""
    return [_hugging_face_name(name) for name in encoder.state_dict()]


def _hugging_face_name(name: str) -> str:
    if name == "lm_head.bias":
        return name
    module, kind = name.rsplit(".", 1)
    if module.startswith("layers."):
        _, number, inner = module.split(".", 2)
        return f"esm.encoder.layer.{number}.{_LAYER_NAMES[inner]}.{kind}"
    return f"{_OTHER_NAMES[module]}.{kind}"


def _hugging_face_tensors(encoder: Encoder, provenance: Provenance) -> dict[str, Tensor]:
    tensors = {
        theirs: tensor.detach().cpu().contiguous().clone()
        for theirs, tensor in zip(
            _hugging_face_names(encoder), encoder.state_dict().values(), strict=True
        )
    }
    if provenance.rare_residues == "replace":
        # B, U, Z and O were X in training: with X's row they are X in any library.
        rare = slice(X + 1, FIRST_AMINO_ACID + len(RESIDUES))
        embedding = tensors["esm.embeddings.word_embeddings.weight"]
        embedding[rare] = embedding[X]
        tensors["lm_head.bias"][rare] = tensors["lm_head.bias"][X]
    channels = encoder.shape.layers * encoder.shape.heads
    tensors["esm.contact_head.regression.weight"] = torch.zeros(1, channels)
    tensors["esm.contact_head.regression.bias"] = torch.zeros(1)
    return tensors


def _hugging_face_config(shape: EncoderShape) -> dict[str, Any]:
    return {
        "architectures": ["EsmForMaskedLM"],
        "model_type": "esm",
        "vocab_size": len(TOKENS),
        "mask_token_id": MASK,
        "pad_token_id": PAD,
        "hidden_size": shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.feed_forward,
        "max_position_embeddings": shape.position_rows,
        "position_embedding_type": "absolute",
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "emb_layer_norm_before": shape.layer_norm_before,
        "token_dropout": True,
        "tie_word_embeddings": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
    }
