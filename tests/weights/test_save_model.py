import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, EsmForMaskedLM, EsmTokenizer

from esm1b.alphabet import TOKENS, encode
from esm1b.model.encoder import Encoder
from esm1b.model.packed import pack_sequences
from esm1b.model.shape import EncoderShape
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder


def hugging_face(directory: Path, **options: Any) -> Any:
    # Its annotations know one result only, not the pair with the loading information.
    loader: Any = EsmForMaskedLM
    return loader.from_pretrained(directory, **options)


def test_bytes_are_the_same_every_time(encoder: Encoder, directory: Path, tmp_path: Path) -> None:
    save_model(encoder, tmp_path / "again", Provenance(rare_residues="keep"))
    names = sorted(path.name for path in directory.iterdir())
    assert names == [
        ".esm1b",
        "README.md",
        "config.json",
        "esm1b.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "vocab.txt",
    ]
    assert len({(directory / name).stat().st_mode for name in names}) == 1
    for name in names:
        assert (directory / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@torch.no_grad()
def test_transformers_loads_every_key(encoder: Encoder, directory: Path) -> None:
    model, loading = hugging_face(directory, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    packed = pack_sequences([encode("MKTVRQGXBUZO")], torch.device("cpu"))
    logits = model(packed.tokens[None]).logits[0]
    torch.testing.assert_close(encoder(packed), logits, rtol=8e-5, atol=8e-5)


def test_a_model_without_the_first_norm_round_trips(tmp_path: Path) -> None:
    shape = EncoderShape(
        layers=1, width=8, heads=2, feed_forward=8, maximum_tokens=16, layer_norm_before=False
    )
    encoder = random_encoder(shape)
    save_model(encoder, tmp_path / "model", Provenance())
    loaded = ModelDirectory(tmp_path / "model").read().encoder
    assert loaded.shape == shape
    _, loading = hugging_face(tmp_path / "model", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]


@pytest.mark.parametrize("tokenizer", [EsmTokenizer, AutoTokenizer])
def test_transformers_tokenizer_gives_our_tokens(tokenizer: Any, directory: Path) -> None:
    loaded = tokenizer.from_pretrained(directory)
    assert loaded("MKTVRQG")["input_ids"] == [0, 20, 15, 11, 7, 10, 16, 6, 2]
    assert loaded("KALTA<mask>ISQP")["input_ids"] == [0, 15, 5, 4, 11, 5, 32, 12, 8, 16, 14, 2]
    assert loaded("XBUZO.-")["input_ids"] == [0, 24, 25, 26, 27, 28, 29, 30, 2]
    assert loaded.convert_ids_to_tokens(range(33)) == list(TOKENS)
    assert loaded.model_max_length == 64
    assert (loaded.mask_token_id, loaded.pad_token_id) == (32, 1)


@torch.no_grad()
def test_merged_rare_residues_are_x_in_transformers(encoder: Encoder, tmp_path: Path) -> None:
    save_model(encoder, tmp_path / "model", Provenance(rare_residues="replace"))
    model = hugging_face(tmp_path / "model")
    tokenizer = EsmTokenizer.from_pretrained(tmp_path / "model")

    def logits(sequence: str) -> torch.Tensor:
        result: torch.Tensor = model(**tokenizer(sequence, return_tensors="pt")).logits[0]
        return result

    with_x = logits("MKXXGXXL")
    assert torch.equal(logits("MKUBGZOL"), with_x)
    for column in range(25, 29):
        assert torch.equal(with_x[:, column], with_x[:, 24])
    # Saving takes a copy: the network in memory keeps its own rows.
    assert not torch.equal(encoder.embed_tokens.weight[26], encoder.embed_tokens.weight[24])


def test_the_contact_head_is_zero_and_marked(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    assert tensors["esm.contact_head.regression.weight"].tolist() == [[0.0] * 8]
    assert tensors["esm.contact_head.regression.bias"].tolist() == [0.0]
    details = json.loads((directory / "esm1b.json").read_text())
    assert details == {"rare_residues": "keep", "contact_head": "unfitted"}


def test_provenance_round_trips(encoder: Encoder, tmp_path: Path) -> None:
    provenance = Provenance(rare_residues="replace", details={"run": "mine", "updates": 12})
    save_model(encoder, tmp_path / "model", provenance)
    assert ModelDirectory(tmp_path / "model").provenance == provenance
