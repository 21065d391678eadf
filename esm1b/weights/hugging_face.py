"""Hugging Face's names and settings for the same network: `EsmForMaskedLM`."""

import json
from pathlib import Path
from typing import Any, Final

from esm1b.alphabet import MASK, PAD, TOKENS
from esm1b.errors import UserError
from esm1b.files import read_json
from esm1b.model.encoder import Encoder
from esm1b.model.shape import EncoderShape

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

# Beyond any network, so that a damaged configuration is told before memory is asked for.
_LARGEST: Final = 100_000


def hugging_face_names(encoder: Encoder) -> list[str]:
    """Return Hugging Face's name of each tensor of the encoder's state, in its order."""
    return [_hugging_face_name(name) for name in encoder.state_dict()]


def hugging_face_files(shape: EncoderShape) -> dict[str, str]:
    """Return, by file name, the configuration and the tokenizer."""
    special = {
        "cls_token": "<cls>",
        "eos_token": "<eos>",
        "mask_token": "<mask>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    tokenizer = {"tokenizer_class": "EsmTokenizer", "model_max_length": shape.maximum_tokens}
    return {
        "config.json": json.dumps(_config(shape), indent=2) + "\n",
        "vocab.txt": "\n".join(TOKENS),
        "special_tokens_map.json": json.dumps(special, indent=2) + "\n",
        "tokenizer_config.json": json.dumps({**tokenizer, **special}, indent=2) + "\n",
    }


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
        if not least <= found <= _LARGEST:
            raise UserError(f"{path}: {key} is {found}; expected {least} to {_LARGEST}")
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


def _hugging_face_name(name: str) -> str:
    if name == "lm_head.bias":
        return name
    module, kind = name.rsplit(".", 1)
    if module.startswith("layers."):
        _, number, inner = module.split(".", 2)
        return f"esm.encoder.layer.{number}.{_LAYER_NAMES[inner]}.{kind}"
    return f"{_OTHER_NAMES[module]}.{kind}"


def _config(shape: EncoderShape) -> dict[str, Any]:
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
