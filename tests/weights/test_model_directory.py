import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from esm1b.alphabet import MASK
from esm1b.errors import UserError
from esm1b.model.encoder import Encoder
from esm1b.model.packed import pack_sequences
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from tests.inference.models import write_model
from tests.weights.conftest import SHAPE

QUERY = "esm.encoder.layer.1.attention.self.query.weight"


def refusal(directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        ModelDirectory(directory).read()
    message = str(caught.value)
    assert "\n" not in message
    return message


def edit_config(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))


def test_round_trip_is_bitwise(encoder: Encoder, directory: Path) -> None:
    loaded = ModelDirectory(directory).read().encoder
    assert loaded.shape == SHAPE
    assert not loaded.training
    expected = encoder.state_dict()
    assert loaded.state_dict().keys() == expected.keys()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_provenance_of_a_foreign_directory(directory: Path) -> None:
    (directory / "esm1b.json").unlink()
    assert ModelDirectory(directory).provenance == Provenance(rare_residues="keep")
    (directory / "esm1b.json").write_text('{"rare_residues": "drop"}')
    with pytest.raises(UserError, match="rare_residues is 'drop'; expected 'replace' or 'keep'"):
        ModelDirectory(directory).read()


def test_the_mask_row_is_zeroed_on_loading(directory: Path) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["esm.embeddings.word_embeddings.weight"][MASK] = 1.0
    save_file(tensors, file)
    assert ModelDirectory(directory).read().encoder.embed_tokens.weight[MASK].tolist() == [0.0] * 16


def test_half_precision_weights_load_as_float32(directory: Path) -> None:
    file = directory / "model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    loaded = ModelDirectory(directory).read().encoder
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
        (
            {"position_embedding_type": "relative_key"},
            'position_embedding_type is "relative_key"; expected "absolute" (ESM-1b) or "rotary" '
            "(ESM-2)",
        ),
        (
            {"position_embedding_type": "rotary", "num_attention_heads": 16},
            "num_attention_heads 16 makes heads of width 1; expected an even number for rotary "
            "positions",
        ),
        (
            {"position_embedding_type": "rotary", "rope_theta": 500000.0},
            "rope_theta is 500000.0; expected 10000.0 (ESM-2)",
        ),
        (
            {"position_embedding_type": "rotary", "is_folding_model": True},
            "is_folding_model is true; expected false (ESM-2)",
        ),
        ({"vocab_size": 30}, "vocab_size is 30; expected 33 (ESM-1b)"),
        ({"token_dropout": False}, "token_dropout is false; expected true (ESM-1b)"),
        ({"hidden_size": None}, "hidden_size is None; expected an integer from 1 to 1000000"),
        ({"hidden_size": "16"}, "hidden_size is '16'; expected an integer from 1 to 1000000"),
        ({"num_attention_heads": 3}, "num_attention_heads 3 does not divide hidden_size 16"),
        (
            {"num_attention_heads": 0},
            "num_attention_heads is 0; expected an integer from 1 to 1000000",
        ),
        (
            {"num_hidden_layers": -1},
            "num_hidden_layers is -1; expected an integer from 1 to 1000000",
        ),
        (
            {"max_position_embeddings": 2},
            "max_position_embeddings is 2; expected an integer from 5 to 1000000",
        ),
    ],
)
def test_other_architectures(changes: dict[str, Any], message: str, directory: Path) -> None:
    edit_config(directory, **changes)
    assert refusal(directory) == f"{directory / 'config.json'}: {message}"


def test_a_configuration_of_another_kind(directory: Path) -> None:
    content = '{"model_type": "bert", "vocab_size": 33, "layer_norm_eps": 1e-05}'
    (directory / "config.json").write_text(content)
    config = directory / "config.json"
    expected = 'position_embedding_type is null; expected "absolute" (ESM-1b) or "rotary" (ESM-2)'
    assert refusal(directory) == f"{config}: {expected}"
    (directory / "config.json").write_text("[]")
    assert refusal(directory) == f"{directory / 'config.json'}: expected a JSON object"


def test_loaded_weights_give_the_same_logits(encoder: Encoder, directory: Path) -> None:
    packed = pack_sequences([np.arange(4, 29, dtype=np.uint8)], torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(ModelDirectory(directory).read().encoder(packed), encoder(packed))


def test_a_model_is_known_by_what_decides_its_results(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    digest = ModelDirectory(model).digest()
    assert ModelDirectory(write_model(tmp_path / "same")).digest() == digest
    assert ModelDirectory(write_model(tmp_path / "other", seed=1)).digest() != digest
    (model / "README.md").write_text("about this model")
    assert ModelDirectory(model).digest() == digest
    (model / "esm1b.json").write_text('{"rare_residues": "replace"}')
    assert ModelDirectory(model).digest() != digest


def test_a_model_describes_itself(tmp_path: Path) -> None:
    assert ModelDirectory(tmp_path).description == {}
    (tmp_path / "esm1b.json").write_text('{"step": 7}')
    assert ModelDirectory(tmp_path).description == {"step": 7}
    (tmp_path / "esm1b.json").write_text("{")
    with pytest.raises(UserError, match=r"esm1b\.json: expected JSON"):
        ModelDirectory(tmp_path).description  # noqa: B018
