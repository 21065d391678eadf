"""Model directories, written as Hugging Face's `EsmForMaskedLM`: files, settings and names."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from safetensors.torch import save_file

from esm1b.alphabet import MASK, PAD, TOKENS
from esm1b.files import write_json
from esm1b.model.encoder import Encoder
from esm1b.model.layers import ContactHead
from esm1b.model.shape import EncoderShape
from esm1b.outputs import replace_directory
from esm1b.weights.model_card import CardResult, model_card
from esm1b.weights.provenance import PROVENANCE_FILE, Provenance
from esm1b.weights.state import TrainedModel

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
CONTACT_HEAD: Final = "esm.contact_head.regression"
_FREQUENCIES: Final = "esm.encoder.layer.{}.attention.self.rotary_embeddings.inv_freq"
LAYER_NORM_EPSILON: Final = 1e-5

# Key of each size of the network in the configuration.
SIZES: Final = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
    "maximum_tokens": "max_position_embeddings",
}

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
_SPECIAL_TOKENS: Final = {
    f"{name}_token": f"<{name}>" for name in ("cls", "eos", "mask", "pad", "unk")
}


def save_model(
    encoder: Encoder,
    directory: Path,
    provenance: Provenance,
    *,
    contact_head: ContactHead | None = None,
    results: Sequence[CardResult] = (),
    verify: Callable[[Path], None] | None = None,
) -> None:
    """Write a directory that `transformers` loads with no missing and no unexpected key.

    Without a fitted contact head its tensors are zero. The model card shows `results`. `verify`
    reads the finished directory under its temporary name, and raises an error to discard it.
    Whoever calls this owns `directory` (`esm1b.outputs`).
    """
    model = TrainedModel(encoder=encoder, contact_head=contact_head, provenance=provenance)
    fitted = contact_head is not None
    card = model_card(encoder.shape, provenance, contact_head_fitted=fitted, results=results)
    description = {
        "rare_residues": provenance.rare_residues,
        "contact_head": "fitted" if fitted else "unfitted",
        **provenance.details,
    }
    tensors = {hugging_face_name(name): tensor for name, tensor in model.state().items()}
    with replace_directory(directory, "model") as temporary:
        tensors |= model.frequencies(_FREQUENCIES) | model.regression(CONTACT_HEAD)
        save_file(tensors, temporary / WEIGHTS)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        # safetensors lets nobody else read its files.
        shutil.copymode(temporary / "README.md", temporary / WEIGHTS)
        for name, content in hugging_face_files(encoder.shape).items():
            (temporary / name).write_text(content, encoding="utf-8")
        write_json(temporary / PROVENANCE_FILE, description)
        if verify is not None:
            verify(temporary)


def hugging_face_name(name: str) -> str:
    """Return Hugging Face's name of a tensor of the encoder's state."""
    if name == "lm_head.bias":
        return name
    module, kind = name.rsplit(".", 1)
    if module.startswith("layers."):
        _, number, inner = module.split(".", 2)
        return f"esm.encoder.layer.{number}.{_LAYER_NAMES[inner]}.{kind}"
    return f"{_OTHER_NAMES[module]}.{kind}"


def hugging_face_files(shape: EncoderShape) -> dict[str, str]:
    """Return the content of the configuration and the tokenizer's files by file name."""
    config = {
        "architectures": ["EsmForMaskedLM"],
        "model_type": "esm",
        "vocab_size": len(TOKENS),
        "mask_token_id": MASK,
        "pad_token_id": PAD,
        **{key: getattr(shape, ours) for ours, key in SIZES.items()},
        # as if there were a table, also of ESM-2
        SIZES["maximum_tokens"]: shape.maximum_tokens + PAD + 1,
        "position_embedding_type": "rotary" if shape.is_rotary else "absolute",
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPSILON,
        "emb_layer_norm_before": shape.layer_norm_before,
        "token_dropout": True,
        "tie_word_embeddings": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "torch_dtype": "float32",
    }
    tokenizer = {"tokenizer_class": "EsmTokenizer", "model_max_length": shape.maximum_tokens}
    return {
        CONFIG: json.dumps(config, indent=2) + "\n",
        "vocab.txt": "\n".join(TOKENS),
        "special_tokens_map.json": json.dumps(_SPECIAL_TOKENS, indent=2) + "\n",
        "tokenizer_config.json": json.dumps({**tokenizer, **_SPECIAL_TOKENS}, indent=2) + "\n",
    }
