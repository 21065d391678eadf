import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import EsmConfig, EsmForMaskedLM

from esm1b.alphabet import encode
from esm1b.cli import main
from esm1b.errors import UserError
from esm1b.files import sha256_file
from esm1b.model.encoder import Encoder
from esm1b.model.layers import ContactHead
from esm1b.model.packed import pack_sequences
from esm1b.model.shape import EncoderShape
from esm1b.publishing.exchange import export_model, import_model
from esm1b.weights.fair_esm import read_fair_esm
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder
from tests.weights.test_fair_esm import (
    ESM1V,
    ESM2,
    FC1,
    SEQUENCE,
    SHAPE,
    Runs,
    assert_same,
    head_tensors,
    load_in_fair_esm,
    load_released_in_fair_esm,
    random_head,
    release,
    released_content,
    state_of_fair_esm,
)

WEIGHTS = "model.safetensors"
EMBEDDING = "esm.embeddings.word_embeddings.weight"
QUERY = "esm.encoder.layer.1.attention.self.query.weight"


def assert_same_head(actual: ContactHead | None, expected: ContactHead | None) -> None:
    for found, tensor in zip(head_tensors(actual), head_tensors(expected), strict=True):
        assert torch.equal(found, tensor)


def hugging_face(directory: Path, **options: Any) -> Any:
    # Its annotations know one result only, not the pair with the loading information.
    loader: Any = EsmForMaskedLM
    return loader.from_pretrained(directory, **options)


def edit_weights(directory: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(directory / WEIGHTS)
    edit(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, directory / WEIGHTS)


@pytest.fixture
def encoder() -> Encoder:
    return random_encoder(SHAPE)


@pytest.fixture
def model(encoder: Encoder, tmp_path: Path) -> Path:
    save_model(encoder, tmp_path / "model", Provenance(), contact_head=random_head(SHAPE))
    return tmp_path / "model"


@pytest.mark.parametrize("shape", [SHAPE, ESM1V, ESM2], ids=["ESM-1b", "ESM-1v", "ESM-2"])
def test_the_round_trip_is_bitwise(shape: EncoderShape, tmp_path: Path) -> None:
    """fair-esm, ours, transformers, ours, fair-esm."""
    prefix = "esm2" if shape.is_rotary else "esm1b"
    released = release(tmp_path, shape, f"{prefix}_t2")
    import_model(released, tmp_path / "ours")
    network, loading = hugging_face(tmp_path / "ours", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not loading["mismatched_keys"]
    network.save_pretrained(tmp_path / "theirs")
    import_model(tmp_path / "theirs", tmp_path / "again")
    back = tmp_path / f"{prefix}_back.pt"
    export_model(tmp_path / "again", back, format="fair-esm")

    first, last = load_released_in_fair_esm(released), load_in_fair_esm(back)
    assert first.state_dict().keys() == last.state_dict().keys()
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, last.state_dict()[name]), name
    expected = state_of_fair_esm(first)
    for directory in ("ours", "theirs", "again"):
        assert ModelDirectory(tmp_path / directory).read().encoder.shape == shape
        assert_same(ModelDirectory(tmp_path / directory).read().encoder, expected)
        assert_same_head(
            ModelDirectory(tmp_path / directory).read().contact_head,
            read_fair_esm(released).contact_head,
        )


def test_where_imported_weights_come_from(tmp_path: Path) -> None:
    released = release(tmp_path)
    import_model(released, tmp_path / "ours")
    imported = {"name": released.name, "sha256": sha256_file(released)}
    assert ModelDirectory(tmp_path / "ours").provenance.details == {"imported": imported}
    card = (tmp_path / "ours" / "README.md").read_text()
    assert f"imported from `{released.name}` (SHA-256 `{imported['sha256']}`)" in card
    import_model(tmp_path / "ours", tmp_path / "again")
    assert ModelDirectory(tmp_path / "again").provenance.details == {"imported": imported}


@torch.no_grad()
@pytest.mark.parametrize("shape", [SHAPE, ESM2], ids=["ESM-1b", "ESM-2"])
def test_contacts_are_the_same_everywhere(shape: EncoderShape, tmp_path: Path) -> None:
    released = release(tmp_path, shape, "esm2_t2" if shape.is_rotary else "esm1b_t2")
    import_model(released, tmp_path / "ours")
    model = ModelDirectory(tmp_path / "ours").read()
    encoder, head = model.encoder, model.contact_head
    assert head is not None
    packed = pack_sequences([encode(SEQUENCE)], torch.device("cpu"))
    maps = (layer[:, 1:-1, 1:-1] for (layer,) in encoder.attention_maps(packed))
    contacts = head.probabilities(maps)
    tokens = packed.tokens[None]
    theirs = load_released_in_fair_esm(released).predict_contacts(tokens)[0]
    assert theirs.std() > 0.01
    torch.testing.assert_close(contacts, theirs, rtol=0, atol=1e-5)
    # In transformers 5.23 the default attention returns no maps.
    network = hugging_face(tmp_path / "ours", attn_implementation="eager")
    theirs = network.predict_contacts(tokens, torch.ones_like(tokens))[0]
    torch.testing.assert_close(contacts, theirs, rtol=0, atol=1e-5)


def test_provenance_survives(encoder: Encoder, tmp_path: Path) -> None:
    provenance = Provenance(rare_residues="replace", details={"run": "mine", "updates": 12})
    save_model(encoder, tmp_path / "model", provenance)
    export_model(tmp_path / "model", tmp_path / "model.pt", format="fair-esm")
    import_model(tmp_path / "model.pt", tmp_path / "again")
    export_model(tmp_path / "again", tmp_path / "hf", format="hf")
    import_model(tmp_path / "hf", tmp_path / "last")
    assert ModelDirectory(tmp_path / "last").provenance == provenance
    for name in ("config.json", "esm1b.json", WEIGHTS):
        assert (tmp_path / "last" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_an_export_has_every_file_and_the_same_bytes(model: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        export_model(model, tmp_path / name, format="hf")
    names = sorted(path.name for path in model.iterdir())
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == names
    for name in names:
        content = (tmp_path / "first" / name).read_bytes()
        assert content == (tmp_path / "second" / name).read_bytes(), name
        assert content == (model / name).read_bytes(), name


def without_contact_head(directory: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        for kind in ("weight", "bias"):
            del tensors[f"esm.contact_head.regression.{kind}"]

    edit_weights(directory, edit)


def as_older_versions_write_it(directory: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.decoder.weight"] = tensors[EMBEDDING]
        tensors["lm_head.decoder.bias"] = tensors["lm_head.bias"]
        tensors["esm.embeddings.position_ids"] = torch.arange(66)[None]
        tensors["esm.pooler.dense.weight"] = torch.ones(16, 16)
        tensors["esm.pooler.dense.bias"] = torch.ones(16)

    edit_weights(directory, edit)


def with_the_bias_of_the_projection_alone(directory: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors["lm_head.decoder.bias"] = tensors.pop("lm_head.bias")

    edit_weights(directory, edit)


def in_parts(directory: Path) -> None:
    hugging_face(directory).save_pretrained(directory, max_shard_size="8KB")
    (directory / WEIGHTS).unlink()
    assert (directory / f"{WEIGHTS}.index.json").exists()


def as_a_pickle(directory: Path) -> None:
    torch.save(load_file(directory / WEIGHTS), directory / "pytorch_model.bin")
    (directory / WEIGHTS).unlink()


def as_a_pickle_in_parts(directory: Path) -> None:
    places = {}
    for number, (name, tensor) in enumerate(load_file(directory / WEIGHTS).items()):
        places[name] = f"pytorch_model-{number}.bin"
        torch.save({name: tensor}, directory / places[name])
    index = directory / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    (directory / WEIGHTS).unlink()


@pytest.mark.parametrize(
    "rewrite",
    [
        without_contact_head,
        as_older_versions_write_it,
        with_the_bias_of_the_projection_alone,
        in_parts,
        as_a_pickle,
        as_a_pickle_in_parts,
    ],
)
def test_directories_of_others(
    rewrite: Callable[[Path], None], encoder: Encoder, model: Path, tmp_path: Path
) -> None:
    rewrite(model)
    import_model(model, tmp_path / "ours")
    assert_same(ModelDirectory(tmp_path / "ours").read().encoder, encoder.state_dict())
    head = ModelDirectory(tmp_path / "ours").read().contact_head
    if rewrite is without_contact_head:
        assert head is None
    else:
        assert_same_head(head, random_head(SHAPE))
    _, loading = hugging_face(tmp_path / "ours", output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]


def test_a_directory_that_transformers_initialised(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = EsmForMaskedLM(
        EsmConfig(
            vocab_size=33,
            mask_token_id=32,
            pad_token_id=1,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=24,
            max_position_embeddings=66,
            position_embedding_type="absolute",
            token_dropout=True,
            emb_layer_norm_before=True,
            layer_norm_eps=1e-5,
        )
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "LayerNorm" in name:
                parameter.normal_()
        network.esm.embeddings.word_embeddings.weight[32] = 0.0
    network.save_pretrained(tmp_path / "theirs")
    names = load_file(tmp_path / "theirs" / WEIGHTS)
    assert "esm.encoder.layer.0.LayerNorm.gamma" in names
    import_model(tmp_path / "theirs", tmp_path / "ours")
    found = load_file(tmp_path / "ours" / WEIGHTS)
    for name, tensor in found.items():
        assert torch.equal(tensor, network.get_parameter(name)), name


def evaluation(model: Path, directory: Path, **changes: Any) -> Path:
    directory.mkdir()
    description = json.loads((model / "esm1b.json").read_text())
    metrics = {
        "evaluation": "contacts",
        "model": description,
        "protocol": {},
        "metrics": [],
        "comparisons": [],
    }
    (directory / "metrics.json").write_text(json.dumps(metrics))
    regression = {
        "layers": 2,
        "heads": 4,
        "coefficients": [0.0, 2.5, 0.0, 0.0, -1.25, 0.0, 0.0, 0.1],
        "intercept": -3.5,
        **changes,
    }
    (directory / "contact_regression.json").write_text(json.dumps(regression))
    return directory


@pytest.mark.parametrize("format_", ["hf", "fair-esm"])
def test_an_evaluation_gives_the_contact_head(
    format_: Any, encoder: Encoder, model: Path, tmp_path: Path
) -> None:
    save_model(encoder, model, Provenance())
    contacts = evaluation(model, tmp_path / "contacts")
    output = tmp_path / "release.pt"
    export_model(model, output, format=format_, evaluations=[contacts])
    head = (
        ModelDirectory(output).read().contact_head
        if format_ == "hf"
        else read_fair_esm(output).contact_head
    )
    coefficients, intercept = head_tensors(head)
    expected = torch.tensor([0.0, 2.5, 0.0, 0.0, -1.25, 0.0, 0.0, 0.1])
    assert torch.equal(coefficients, expected)
    assert intercept == -3.5
    assert ModelDirectory(model).read().contact_head is None
    if format_ == "hf":
        assert json.loads((output / "esm1b.json").read_text())["contact_head"] == "fitted"


def test_a_fit_that_failed_leaves_the_head_unfitted(model: Path, tmp_path: Path) -> None:
    contacts = evaluation(model, tmp_path / "contacts", coefficients=[0] * 8)
    export_model(model, tmp_path / "release", format="hf", evaluations=[contacts])
    assert ModelDirectory(tmp_path / "release").read().contact_head is None
    details = json.loads((tmp_path / "release" / "esm1b.json").read_text())
    assert details["contact_head"] == "unfitted"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 2}, "heads is 2; the model has 4"),
        ({"layers": None}, "layers is None; the model has 2"),
        ({"coefficients": [1.0] * 7}, "expected 8 coefficients, one for each head of each layer"),
        ({"intercept": None}, "coefficient or intercept None; expected a number"),
        ({"coefficients": ["1"] * 8}, "coefficient or intercept '1'; expected a number"),
    ],
)
def test_a_regression_of_another_network(
    changes: dict[str, Any], message: str, model: Path, tmp_path: Path
) -> None:
    contacts = evaluation(model, tmp_path / "contacts", **changes)
    with pytest.raises(UserError) as caught:
        export_model(model, tmp_path / "release", format="hf", evaluations=[contacts])
    assert str(caught.value) == f"{contacts / 'contact_regression.json'}: {message}"
    assert not (tmp_path / "release").exists()


def test_an_evaluation_of_another_model(model: Path, tmp_path: Path) -> None:
    contacts = evaluation(model, tmp_path / "contacts")
    save_model(random_encoder(SHAPE), model, Provenance(details={"run": "another"}))
    with pytest.raises(UserError, match=r"is about another model \(contact_head, run differ\)"):
        export_model(model, tmp_path / "release.pt", format="fair-esm", evaluations=[contacts])
    assert not (tmp_path / "release.pt").exists()


@pytest.mark.parametrize("format_", ["hf", "fair-esm"])
def test_a_copy_that_differs_gets_no_name(
    format_: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("read back, it differs")

    monkeypatch.setattr("esm1b.publishing.exchange.verify_copy", fails)
    monkeypatch.setattr("esm1b.weights.fair_esm.verify_copy", fails)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(RuntimeError, match="read back, it differs"):
        export_model(model, tmp_path / "release.pt", format=format_)
    assert sorted(tmp_path.iterdir()) == before


def test_damage_on_the_way_to_the_disk_is_noticed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(tensors: dict[str, Tensor], path: Path) -> None:
        save_file({**tensors, QUERY: tensors[QUERY] * (1 + 1e-6)}, path)

    monkeypatch.setattr("esm1b.weights.save_model.save_file", damaged)
    with pytest.raises(RuntimeError, match=r"read back, layers\.1\.self_attn\.q_proj\.weight diff"):
        export_model(model, tmp_path / "release", format="hf")
    assert not (tmp_path / "release").exists()


@pytest.fixture
def refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Return a function that imports a path with the command line, which refuses it in one line."""

    def refused(path: Path) -> str:
        command = ["esm1b", "import", str(path), "--output", str(tmp_path / "output")]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        lines = captured.err.splitlines()
        assert len(lines) == 1, captured.err
        assert not (tmp_path / "output").exists()
        return lines[0].removeprefix("esm1b: error: ")

    return refused


def test_refusals_of_files(tmp_path: Path, refusal: Callable[[Path], str]) -> None:
    path, trace = release(tmp_path), tmp_path / "trace"
    content, _ = released_content(SHAPE)
    runs: Any = Runs(f"touch {trace}")
    torch.save({**content, "model": {**content["model"], FC1: runs}}, path)
    assert refusal(path) == (
        f"{path}: its pickle names {os.system.__module__}.system, which was not run; "
        "expected tensors, argparse.Namespace and plain values only"
    )
    assert not trace.exists()

    torch.save({**content, "model": {**content["model"], FC1: torch.zeros(3)}}, path)
    assert refusal(path) == f"{path}: {FC1} has shape (3,); expected (24, 16) from args"

    missing = {name: tensor for name, tensor in content["model"].items() if name != FC1}
    torch.save({**content, "model": missing}, path)
    assert refusal(path) == f"{path}: has no tensor {FC1}; expected one of shape (24, 16) from args"

    torch.save({**content, "model": {**content["model"], "extra": torch.zeros(3)}}, path)
    assert refusal(path).startswith(f"{path}: has the tensor 'extra', which is none of its args")

    whole = release(tmp_path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert refusal(path).startswith(f"{path}: is cut short, damaged")
    path.write_bytes(b"\x80\x04\x95 a pickle of protocol 4, of which PyTorch would warn")
    assert refusal(path).startswith(f"{path}: is cut short, damaged")

    path.unlink()
    assert refusal(path) == f"{path}: No such file or directory"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda tensors: tensors.update({QUERY: torch.zeros(16, 8)}),
            f"{QUERY} has shape (16, 8); expected (16, 16) from config.json",
        ),
        (
            lambda tensors: tensors.pop(QUERY),
            f"has no tensor {QUERY}; expected one of shape (16, 16) from config.json",
        ),
        (
            lambda tensors: tensors.update(classifier=torch.zeros(2)),
            "has the tensor 'classifier'; expected those of EsmForMaskedLM alone",
        ),
        (
            lambda tensors: tensors.pop("esm.contact_head.regression.bias"),
            "has no tensor esm.contact_head.regression.bias; "
            "expected one of shape (1,) from config.json",
        ),
        (
            lambda tensors: tensors.update({"lm_head.decoder.bias": tensors["lm_head.bias"] + 1}),
            "lm_head.decoder.bias differs from lm_head.bias; expected the same values (tied)",
        ),
        (
            lambda tensors: tensors.update({"lm_head.decoder.weight": tensors[EMBEDDING] + 1}),
            f"lm_head.decoder.weight differs from {EMBEDDING}; expected the same values (tied)",
        ),
    ],
)
def test_refusals_of_weights(
    edit: Callable[[dict[str, Tensor]], object],
    message: str,
    model: Path,
    refusal: Callable[[Path], str],
) -> None:
    edit_weights(model, edit)
    assert refusal(model) == f"{model / WEIGHTS}: {message}"


def test_truncated_safetensors(model: Path, refusal: Callable[[Path], str]) -> None:
    whole = (model / WEIGHTS).read_bytes()
    for size in (0, len(whole) // 2, len(whole) - 1):
        (model / WEIGHTS).write_bytes(whole[:size])
        assert refusal(model).startswith(f"{model / WEIGHTS}: ")


def test_missing_weights(model: Path, refusal: Callable[[Path], str]) -> None:
    (model / WEIGHTS).unlink()
    assert refusal(model) == (
        f"{model}: holds no weights; "
        "expected model.safetensors[.index.json] or pytorch_model.bin[.index.json]"
    )
    index = model / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"weight_map": {QUERY: "part.safetensors"}}))
    assert refusal(model).startswith(f"{model / 'part.safetensors'}: No such file or directory")
    index.write_text(json.dumps({"weight_map": {QUERY: "../other.safetensors"}}))
    assert refusal(model) == (
        f"{index}: names the file '../other.safetensors'; expected files beside the index"
    )
    index.write_text("{}")
    assert refusal(model) == f"{index}: expected weight_map with a file for each tensor"


def test_nothing_in_a_pickled_directory_is_run(
    model: Path, tmp_path: Path, refusal: Callable[[Path], str]
) -> None:
    (model / WEIGHTS).unlink()
    weights, trace = model / "pytorch_model.bin", tmp_path / "trace"
    torch.save({QUERY: Runs(f"touch {trace}")}, weights)
    assert refusal(model) == (
        f"{weights}: its pickle names {os.system.__module__}.system, which was not run; "
        "expected tensors and plain values only"
    )
    assert not trace.exists()
    torch.save([1], weights)
    assert refusal(model) == f"{weights}: expected tensors by name"


def test_another_epsilon_is_another_network(model: Path, refusal: Callable[[Path], str]) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "layer_norm_eps": 1e-12}))
    expected = f"{model / 'config.json'}: layer_norm_eps is 1e-12; expected 1e-05 (ESM-1b)"
    assert refusal(model) == expected
    del config["layer_norm_eps"]
    (model / "config.json").write_text(json.dumps(config))
    assert refusal(model) == expected


def test_an_output_of_somebody_else(model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(UserError, match="holds files but no"):
        import_model(model, tmp_path / "mine")
    with pytest.raises(UserError, match="holds files but no"):
        export_model(model, tmp_path / "mine", format="hf")
    (tmp_path / "mine.pt").mkdir()
    with pytest.raises(UserError, match="is a directory; expected a file to write to"):
        export_model(model, tmp_path / "mine.pt", format="fair-esm")


def test_the_commands(
    model: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contacts = evaluation(model, tmp_path / "contacts")
    monkeypatch.chdir(tmp_path)
    for command in (
        ["export", "model", "--format=fair-esm", "--output=a.pt", f"--evaluation={contacts}"],
        ["import", "a.pt", "--output=b"],
        ["export", "b", "--format=hf", "--output=c"],
    ):
        monkeypatch.setattr(sys, "argv", ["esm1b", *command])
        with pytest.raises(SystemExit) as caught:
            main()
        assert not caught.value.code
    assert_same(ModelDirectory(tmp_path / "c").read().encoder, encoder.state_dict())
    coefficients, _ = head_tensors(ModelDirectory(tmp_path / "c").read().contact_head)
    assert coefficients[1] == 2.5
