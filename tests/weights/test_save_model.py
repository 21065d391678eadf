import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, EsmForMaskedLM, EsmTokenizer

from esm1b.alphabet import MASK, TOKENS, encode
from esm1b.errors import UserError
from esm1b.model.encoder import Encoder
from esm1b.model.packed import pack_sequences
from esm1b.model.shape import EncoderShape
from esm1b.weights.hugging_face_reader import read_hugging_face
from esm1b.weights.provenance import Provenance, read_provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder

SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=24, maximum_tokens=64)
QUERY = "esm.encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def encoder() -> Encoder:
    return random_encoder(SHAPE)


@pytest.fixture
def directory(encoder: Encoder, tmp_path: Path) -> Path:
    save_model(encoder, tmp_path / "model", Provenance(rare_residues="keep"))
    return tmp_path / "model"


def hugging_face(directory: Path, **options: Any) -> Any:
    # Its annotations know one result only, not the pair with the loading information.
    loader: Any = EsmForMaskedLM
    return loader.from_pretrained(directory, **options)


def refusal(directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_hugging_face(directory)[0]
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit_config(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))


def test_round_trip_is_bitwise(encoder: Encoder, directory: Path) -> None:
    loaded = read_hugging_face(directory)[0]
    assert loaded.shape == SHAPE
    assert not loaded.training
    expected = encoder.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


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
    loaded = read_hugging_face(tmp_path / "model")[0]
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
    assert read_provenance(tmp_path / "model") == provenance


def test_provenance_of_a_foreign_directory(directory: Path) -> None:
    (directory / "esm1b.json").unlink()
    assert read_provenance(directory) == Provenance(rare_residues="keep")
    (directory / "esm1b.json").write_text('{"rare_residues": "drop"}')
    with pytest.raises(UserError, match="expected rare_residues to be 'replace' or 'keep'"):
        read_provenance(directory)


def test_the_mask_row_is_zeroed_on_loading(directory: Path) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["esm.embeddings.word_embeddings.weight"][MASK] = 1.0
    save_file(tensors, file)
    assert read_hugging_face(directory)[0].embed_tokens.weight[MASK].tolist() == [0.0] * 16


def test_half_precision_weights_load_as_float32(directory: Path) -> None:
    file = directory / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    loaded = read_hugging_face(directory)[0]
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_missing_files(directory: Path) -> None:
    weights, config = directory / "model.safetensors", directory / "config.json"
    weights.unlink()
    assert refusal(directory) == (
        f"{directory}: holds no weights; expected model.safetensors[.index.json] or "
        "pytorch_model.bin[.index.json]"
    )
    config.unlink()
    assert refusal(directory) == f"{config}: No such file or directory"


def test_truncated_weights(directory: Path) -> None:
    file = directory / "model.safetensors"
    content = file.read_bytes()
    for size in (0, 5, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        assert refusal(directory).startswith(f"{file}: ")
    file.write_bytes(b"a pickle, perhaps")
    assert refusal(directory).startswith(f"{file}: ")


def test_missing_key(directory: Path) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    del tensors[QUERY]
    save_file(tensors, file)
    assert refusal(directory) == (
        f"{file}: has no tensor {QUERY}; expected one of shape (16, 16) from config.json"
    )


def test_wrong_shape(directory: Path) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors[QUERY] = torch.zeros(16, 8)
    save_file(tensors, file)
    assert refusal(directory) == (
        f"{file}: {QUERY} has shape (16, 8); expected (16, 16) from config.json"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # ESM-2's configuration differs from ESM-1b's by this and the first norm
        (
            {"position_embedding_type": "rotary"},
            'position_embedding_type is "rotary", so this is an ESM-2, which embed, contacts and '
            "fill-mask take as it is; expected ESM-1b or ESM-1v",
        ),
        ({"vocab_size": 30}, "vocab_size is 30; expected 33 (ESM-1b)"),
        ({"token_dropout": False}, "token_dropout is false; expected True (ESM-1b)"),
        ({"hidden_size": None}, "hidden_size is None; expected int"),
        ({"hidden_size": "16"}, "hidden_size is '16'; expected int"),
        ({"num_attention_heads": 3}, "num_attention_heads 3 does not divide hidden_size 16"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0; expected 1 to 100000"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1; expected 1 to 100000"),
        ({"max_position_embeddings": 2}, "max_position_embeddings is 2; expected 5 to 100000"),
    ],
)
def test_other_architectures(changes: dict[str, Any], message: str, directory: Path) -> None:
    edit_config(directory, **changes)
    assert refusal(directory) == f"{directory / 'config.json'}: {message}"


def test_a_configuration_of_another_kind(directory: Path) -> None:
    content = '{"model_type": "bert", "vocab_size": 33, "layer_norm_eps": 1e-05}'
    (directory / "config.json").write_text(content)
    assert refusal(directory) == (
        f"{directory / 'config.json'}: position_embedding_type is None; expected str"
    )
    (directory / "config.json").write_text("[]")
    assert refusal(directory) == f"{directory / 'config.json'}: vocab_size is None; expected int"


def test_loaded_weights_give_the_same_logits(encoder: Encoder, directory: Path) -> None:
    packed = pack_sequences([np.arange(4, 29, dtype=np.uint8)], torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(read_hugging_face(directory)[0](packed), encoder(packed))
