import logging
import os
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import esm
import pytest
import torch
from torch import Tensor

from esm1b.alphabet import MASK, encode
from esm1b.errors import UserError
from esm1b.model.encoder import Encoder
from esm1b.model.layers import ContactHead
from esm1b.model.packed import pack_sequences
from esm1b.model.shape import EncoderShape, Positions
from esm1b.weights.fair_esm import read_fair_esm, write_fair_esm
from esm1b.weights.provenance import Provenance
from esm1b.weights.state import TrainedModel
from tests.conftest import random_encoder

SHAPE = EncoderShape(layers=2, width=16, heads=4, feed_forward=24, maximum_tokens=64)
ESM1V = EncoderShape(
    layers=1, width=8, heads=2, feed_forward=8, maximum_tokens=16, layer_norm_before=False
)
ESM2 = EncoderShape(
    layers=2,
    width=24,
    heads=2,
    feed_forward=96,
    layer_norm_before=False,
    positions="rotary-fp16",
)
SEQUENCE = "MKTVRQGXBUZO"
EMBEDDING = "encoder.sentence_encoder.embed_tokens.weight"
FC1 = "encoder.sentence_encoder.layers.1.fc1.weight"
KIND = 'expected ESM-1b or ESM-1v (args.arch "roberta_large"), or ESM-2 (cfg.model)'


def released_arguments(shape: EncoderShape) -> dict[str, Any]:
    return {
        "arch": "roberta_large",
        "encoder_layers": shape.layers,
        "encoder_embed_dim": shape.width,
        "encoder_ffn_embed_dim": shape.feed_forward,
        "encoder_attention_heads": shape.heads,
        "max_positions": shape.maximum_tokens,
        "token_dropout": True,
        "dropout": 0.0,
        "adam_betas": "(0.9, 0.999)",
        "lr": [0.0001],
    }


def released_content(shape: EncoderShape, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a released model and its contact regression, with weights of fair-esm's own network.

    As in training, and unlike what fair-esm makes of it, the row of `<mask>` is not zero.
    """
    network = fair_esm_network(shape)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            # large: attention maps that differ, and contacts with them
            parameter.normal_(0.0, 0.7, generator=generator)
    state = network.state_dict()
    regression = {name: state.pop(name) for name in list(state) if "contact_head" in name}
    raw = {
        f"encoder.{name}" if "lm_head" in name else f"encoder.sentence_encoder.{name}": tensor
        for name, tensor in state.items()
    }
    arguments = Namespace(**released_arguments(shape))
    described = {"cfg": {"model": arguments}} if shape.is_rotary else {"args": arguments}
    return {**described, "model": raw}, {"model": regression}


def fair_esm_network(shape: EncoderShape) -> Any:
    if shape.is_rotary:
        network = esm.ESM2(shape.layers, shape.width, shape.heads)
        for frequencies in network.buffers():
            frequencies.copy_(frequencies.half())  # as training in fp16 left them
        return network
    arguments = {
        name.removeprefix("encoder_"): value for name, value in released_arguments(shape).items()
    }
    alphabet = esm.Alphabet.from_architecture("roberta_large")
    arguments["emb_layer_norm_before"] = shape.layer_norm_before
    return esm.ProteinBertModel(Namespace(**arguments), alphabet)


def release(folder: Path, shape: EncoderShape = SHAPE, name: str = "esm1b_t2") -> Path:
    model, regression = released_content(shape)
    torch.save(model, folder / f"{name}.pt")
    torch.save(regression, folder / f"{name}-contact-regression.pt")
    return folder / f"{name}.pt"


def load_in_fair_esm(path: Path) -> Any:
    network, _ = esm.pretrained.load_model_and_alphabet_local(path)
    return network.eval()


def load_released_in_fair_esm(path: Path) -> Any:
    """Load what fair-esm released, whose arguments are a class that `torch.load` refuses."""
    with torch.serialization.safe_globals([Namespace]):
        return load_in_fair_esm(path)


def random_head(shape: EncoderShape) -> ContactHead:
    generator = torch.Generator().manual_seed(3)
    return ContactHead(
        coefficients=torch.randn(shape.layers * shape.heads, generator=generator),
        intercept=torch.tensor(-1.5),
    )


def head_tensors(head: ContactHead | None) -> list[Tensor]:
    assert head is not None
    return [head.coefficients, head.intercept]


def assert_same(actual: Encoder, expected: dict[str, Tensor]) -> None:
    found = actual.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, expected[name]), name


def state_of_fair_esm(network: Any) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if name != "lm_head.weight" and "contact_head" not in name and "rot_emb" not in name
    }


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_fair_esm(path)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_released_file_is_read_as_fair_esm_reads_it(tmp_path: Path) -> None:
    path = release(tmp_path)
    model = read_fair_esm(path)
    network = load_released_in_fair_esm(path)
    assert model.encoder.shape == SHAPE
    assert not model.encoder.training
    assert model.provenance == Provenance(rare_residues="keep")
    assert_same(model.encoder, state_of_fair_esm(network))
    coefficients, intercept = head_tensors(model.contact_head)
    assert torch.equal(coefficients, network.contact_head.regression.weight[0])
    assert torch.equal(intercept, network.contact_head.regression.bias[0])


def test_the_mask_row_is_zeroed(tmp_path: Path) -> None:
    path = release(tmp_path)
    assert torch.load(path, weights_only=False)["model"][EMBEDDING][MASK].any()
    assert read_fair_esm(path).encoder.embed_tokens.weight[MASK].tolist() == [0.0] * 16


@torch.no_grad()
def test_an_esm2_is_read_as_fair_esm_reads_it(tmp_path: Path) -> None:
    path = release(tmp_path, ESM2, "esm2_t2")
    model = read_fair_esm(path)
    network = load_released_in_fair_esm(path)
    assert model.encoder.shape == ESM2
    assert_same(model.encoder, state_of_fair_esm(network))
    assert model.encoder.embed_tokens.weight[MASK].any()  # there, too
    coefficients, _ = head_tensors(model.contact_head)
    assert torch.equal(coefficients, network.contact_head.regression.weight[0])
    packed = pack_sequences([encode("LAGVSERTID" * 100)], torch.device("cpu"))
    expected = network(packed.tokens[None])["logits"][0]

    def difference(encoder: Encoder) -> float:
        return float((encoder(packed) - expected).abs().max() / expected.abs().max())

    assert difference(model.encoder) <= 1e-5
    exact = Encoder(replace(ESM2, positions="rotary"))
    exact.load_state_dict(model.encoder.state_dict())
    assert difference(exact) > 1e-3  # so the rounding of their frequencies matters


def test_what_fair_esm_asks_of_no_esm2_need_not_be_there(tmp_path: Path) -> None:
    path = release(tmp_path, ESM2, "esm2_t2")
    content, _ = released_content(ESM2)
    settings = content["cfg"]["model"]
    del settings.max_positions, settings.encoder_ffn_embed_dim, settings.arch
    torch.save(content, path)
    assert read_fair_esm(path).encoder.shape == ESM2
    settings.token_dropout = False
    torch.save(content, path)
    assert refusal(path) == f"{path}: cfg.model.token_dropout is False; expected True"
    torch.save({**content, "cfg": None}, path)
    assert refusal(path) == f"{path}: args is missing; expected an argparse.Namespace"
    torch.save({**content, "cfg": {}}, path)
    assert refusal(path) == f"{path}: cfg.model is missing; expected an argparse.Namespace"


@pytest.mark.parametrize("factor", [1.01, -1.0])
def test_other_frequencies_are_refused(factor: float, tmp_path: Path) -> None:
    path = release(tmp_path, ESM2, "esm2_t2")
    content, _ = released_content(ESM2)
    name = "encoder.sentence_encoder.layers.1.self_attn.rot_emb.inv_freq"
    content["model"][name] *= factor
    torch.save(content, path)
    assert refusal(path) == (
        f"{path}: {name}: expected, as in all layers, 10,000^(-2 i / 12) in float32, or rounded to "
        "fp16, or then to bf16"
    )


@pytest.mark.filterwarnings("ignore:Regression weights not found")
@torch.no_grad()
def test_an_esm1v_gives_the_logits_of_fair_esm(tmp_path: Path) -> None:
    path = release(tmp_path, ESM1V, "esm1v_t1")
    (tmp_path / "esm1v_t1-contact-regression.pt").unlink()
    model = read_fair_esm(path)
    assert model.encoder.shape == ESM1V
    assert model.contact_head is None
    packed = pack_sequences([encode(SEQUENCE)], torch.device("cpu"))
    expected = load_released_in_fair_esm(path)(packed.tokens[None])["logits"][0]
    difference = (model.encoder(packed) - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-5


def test_half_precision(tmp_path: Path) -> None:
    path = release(tmp_path)
    content, _ = released_content(SHAPE)
    halves = {name: tensor.half() for name, tensor in content["model"].items()}
    torch.save({**content, "model": halves}, path)
    encoder = read_fair_esm(path).encoder
    assert torch.equal(encoder.get_parameter("layers.1.fc1.weight"), halves[FC1].float())
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


def test_the_format_before_pytorch_1_6(tmp_path: Path) -> None:
    expected = read_fair_esm(release(tmp_path)).encoder.state_dict()
    content, _ = released_content(SHAPE)
    torch.save(content, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(tmp_path / "old.pt")
    assert_same(read_fair_esm(tmp_path / "old.pt").encoder, expected)


def test_names_that_fair_esm_has_upgraded(tmp_path: Path) -> None:
    path = release(tmp_path)
    expected = read_fair_esm(path)
    content, regression = released_content(SHAPE)
    tensors = {
        name.removeprefix("encoder.").removeprefix("sentence_encoder."): tensor
        for name, tensor in content["model"].items()
    }
    arguments = {
        name.removeprefix("encoder_"): value for name, value in vars(content["args"]).items()
    }
    content = {"args": Namespace(**arguments), "model": {**tensors, **regression["model"]}}
    torch.save(content, tmp_path / "upgraded.pt")
    model = read_fair_esm(tmp_path / "upgraded.pt")
    assert_same(model.encoder, expected.encoder.state_dict())
    for found, tensor in zip(
        head_tensors(model.contact_head), head_tensors(expected.contact_head), strict=True
    ):
        assert torch.equal(found, tensor)


def test_torch_load_takes_what_we_write_without_a_flag(tmp_path: Path) -> None:
    """As in fair-esm: attributes, of a class that `weights_only` allows since PyTorch 2.6."""
    assert Namespace not in torch.serialization.get_safe_globals()
    provenance = Provenance(rare_residues="keep", details={"run": "mine"})
    model = TrainedModel(encoder=random_encoder(SHAPE), provenance=provenance)
    write_fair_esm(tmp_path / "model.pt", model)
    arguments = torch.load(tmp_path / "model.pt")["args"]
    assert vars(arguments) == {
        "arch": "roberta_large", "encoder_layers": 2, "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 24, "encoder_attention_heads": 4, "max_positions": 64,
        "token_dropout": True, "esm1b": provenance.as_json(),
    }  # fmt: skip
    assert len(arguments) == 0
    assert torch.load(tmp_path / "model-contact-regression.pt").keys() == {"model"}


def test_arguments_as_earlier_versions_wrote_them(tmp_path: Path) -> None:
    provenance = Provenance(rare_residues="replace", details={"run": "mine"})
    encoder = random_encoder(SHAPE)
    write_fair_esm(tmp_path / "new.pt", TrainedModel(encoder=encoder, provenance=provenance))
    content = torch.load(tmp_path / "new.pt")
    torch.save({**content, "args": Namespace(**vars(content["args"]))}, tmp_path / "old.pt")
    new, old = (read_fair_esm(tmp_path / name) for name in ("new.pt", "old.pt"))
    assert old.provenance == new.provenance == provenance
    assert_same(old.encoder, new.encoder.state_dict())


@torch.no_grad()
def test_fair_esm_loads_what_we_write(tmp_path: Path) -> None:
    encoder, head = random_encoder(SHAPE), random_head(SHAPE)
    write_fair_esm(tmp_path / "model.pt", TrainedModel(encoder=encoder, contact_head=head))
    network = load_in_fair_esm(tmp_path / "model.pt")
    assert_same(encoder, state_of_fair_esm(network))
    assert network.lm_head.weight is network.embed_tokens.weight
    packed = pack_sequences([encode(SEQUENCE)], torch.device("cpu"))
    expected = network(packed.tokens[None])["logits"][0]
    assert (encoder(packed) - expected).abs().max() / expected.abs().max() <= 1e-5
    maps = (layer[:, 1:-1, 1:-1] for (layer,) in encoder.attention_maps(packed))
    contacts = network.predict_contacts(packed.tokens[None])[0]
    torch.testing.assert_close(head.probabilities(maps), contacts, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["rotary", "rotary-fp16"])
def test_fair_esm_loads_the_esm2_that_we_write(positions: Positions, tmp_path: Path) -> None:
    shape = replace(ESM2, positions=positions)
    encoder, head = random_encoder(shape), random_head(shape)
    path = tmp_path / "esm2_ours.pt"
    write_fair_esm(path, TrainedModel(encoder=encoder, contact_head=head))
    assert read_fair_esm(path).encoder.shape == shape
    network = load_in_fair_esm(path)
    assert_same(encoder, state_of_fair_esm(network))
    packed = pack_sequences([encode("LAGVSERTID" * 100)], torch.device("cpu"))
    expected = network(packed.tokens[None])["logits"][0]
    assert (encoder(packed) - expected).abs().max() / expected.abs().max() <= 1e-5


def test_what_fair_esm_has_no_esm2_for(tmp_path: Path) -> None:
    esm2 = TrainedModel(encoder=Encoder(ESM2))
    with pytest.raises(
        UserError, match=r"loads no ESM-2 from .* ends in \.pt and begins with esm2"
    ):
        write_fair_esm(tmp_path / "model.pt", esm2)
    for shape in (replace(ESM2, feed_forward=8), replace(ESM2, layer_norm_before=True)):
        with pytest.raises(UserError, match="expected a feed-forward width of 4 x 24 and no layer"):
            write_fair_esm(tmp_path / "esm2.pt", TrainedModel(encoder=Encoder(shape)))
    assert list(tmp_path.iterdir()) == []


def test_what_we_write_comes_back(tmp_path: Path) -> None:
    encoder, head = random_encoder(ESM1V), random_head(ESM1V)
    details = {"run": "mine", "pretraining": {"append_eos": False}, "note": "é"}
    provenance = Provenance(rare_residues="keep", details=details)
    original = TrainedModel(encoder=encoder, contact_head=head, provenance=provenance)
    write_fair_esm(tmp_path / "model.pt", original)
    model = read_fair_esm(tmp_path / "model.pt")
    assert_same(model.encoder, encoder.state_dict())
    assert model.provenance == provenance
    for found, expected in zip(head_tensors(model.contact_head), head_tensors(head), strict=True):
        assert torch.equal(found, expected)


def test_bytes_depend_on_no_name(tmp_path: Path) -> None:
    for name in ("first", "second.v2"):
        model = TrainedModel(encoder=random_encoder(SHAPE), contact_head=random_head(SHAPE))
        write_fair_esm(tmp_path / f"{name}.pt", model)
    for ending in (".pt", "-contact-regression.pt"):
        first, second = (tmp_path / f"{name}{ending}" for name in ("first", "second.v2"))
        assert first.read_bytes() == second.read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_the_tied_projection_is_stored_once(tmp_path: Path) -> None:
    encoder = random_encoder(SHAPE)
    write_fair_esm(tmp_path / "model.pt", TrainedModel(encoder=encoder))
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        storages = [name for name in archive.namelist() if "/data/" in name]
    assert len(storages) == len(encoder.state_dict())


def test_without_a_contact_head_the_regression_is_zero(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    write_fair_esm(tmp_path / "model.pt", TrainedModel(encoder=random_encoder(SHAPE)))
    regression = tmp_path / "model-contact-regression.pt"
    assert caplog.messages == [
        f"{regression}: no contact head is fitted, so the regression is zero"
    ]
    network = load_in_fair_esm(tmp_path / "model.pt")
    assert network.contact_head.regression.weight.tolist() == [[0.0] * 8]
    assert network.contact_head.regression.bias.tolist() == [0.0]
    assert read_fair_esm(tmp_path / "model.pt").contact_head is None


def test_merged_rare_residues_are_x_in_fair_esm(tmp_path: Path) -> None:
    encoder = random_encoder(SHAPE)
    own = encoder.embed_tokens.weight[26].clone()
    provenance = Provenance(rare_residues="replace")
    write_fair_esm(tmp_path / "model.pt", TrainedModel(encoder=encoder, provenance=provenance))
    network = load_in_fair_esm(tmp_path / "model.pt")
    for token in range(25, 29):
        assert torch.equal(network.embed_tokens.weight[token], encoder.embed_tokens.weight[24])
        assert network.lm_head.bias[token] == encoder.lm_head.bias[24]
    assert torch.equal(encoder.embed_tokens.weight[26], own)
    assert read_fair_esm(tmp_path / "model.pt").provenance.rare_residues == "replace"


def test_a_copy_that_differs_gets_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = torch.save

    def damaged(content: dict[str, Any], stream: Any) -> None:
        if "args" in content:
            content["model"]["encoder.lm_head.bias"] += 1e-6
        save(content, stream)

    monkeypatch.setattr("esm1b.weights.fair_esm.torch.save", damaged)
    with pytest.raises(RuntimeError, match=r"read back, lm_head.bias differs"):
        write_fair_esm(tmp_path / "model.pt", TrainedModel(encoder=random_encoder(SHAPE)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.bin", "esm2_mine.pt", "model"])
def test_names_that_fair_esm_would_not_take(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected one that ends in \.pt and does not"):
        write_fair_esm(tmp_path / name, TrainedModel(encoder=random_encoder(SHAPE)))
    assert list(tmp_path.iterdir()) == []


class Runs:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["args", "model", "tensor", "regression"])
def test_nothing_in_the_file_is_run(place: str, zipped: bool, tmp_path: Path) -> None:
    path = release(tmp_path)
    trace = tmp_path / "trace"
    runs: Any = Runs(f"touch {trace}")
    content, _ = released_content(SHAPE)
    damaged = path
    if place == "tensor":
        content["model"][FC1] = runs
    elif place == "regression":
        content, damaged = runs, tmp_path / "esm1b_t2-contact-regression.pt"
    else:
        content[place] = runs
    torch.save(content, damaged, _use_new_zipfile_serialization=zipped)
    assert refusal(path) == (
        f"{damaged}: its pickle names {os.system.__module__}.system, which was not run; "
        f"expected tensors{'' if place == 'regression' else ', argparse.Namespace'} and plain "
        "values only"
    )
    assert not trace.exists()


def test_what_a_library_has_allowed_is_refused_and_stays_allowed(tmp_path: Path) -> None:
    path = release(tmp_path)
    content, _ = released_content(SHAPE)
    content["args"].path = Path("data")
    torch.save(content, path)
    with torch.serialization.safe_globals([type(Path())]):
        assert "its pickle names pathlib" in refusal(path)
        assert type(Path()) in torch.serialization.get_safe_globals()


def test_missing_and_truncated_files(tmp_path: Path) -> None:
    path = release(tmp_path)
    content = path.read_bytes()
    damaged = (
        f"{path}: is cut short, damaged, or not of this kind; expected a file that torch.save wrote"
    )
    for size in (0, 1, 5, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        assert refusal(path) == damaged, size
    path.write_bytes(b"<html>404</html>")
    assert refusal(path) == damaged
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("thesis.tex", "")
    assert refusal(path) == damaged
    path.unlink()
    assert refusal(path) == f"{path}: No such file or directory"
    assert refusal(tmp_path) == f"{tmp_path}: Is a directory"


def test_a_truncated_file_of_the_old_format(tmp_path: Path) -> None:
    content, _ = released_content(SHAPE)
    path = tmp_path / "old.pt"
    torch.save(content, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for size in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert refusal(path).startswith(f"{path}: is cut short, damaged"), size


def edited(path: Path, edit: Callable[[dict[str, Any]], Any]) -> str:
    content, _ = released_content(SHAPE)
    replaced = edit(content)
    torch.save(content if replaced is None else replaced, path)
    return refusal(path)


def arguments(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        for name, value in changes.items():
            if value is ...:
                delattr(content["args"], name)
            else:
                setattr(content["args"], name, value)

    return edit


def tensors(**changes: Any) -> Callable[[dict[str, Any]], None]:
    def edit(content: dict[str, Any]) -> None:
        for name, value in changes.items():
            content["model"][name] = value
            if value is ...:
                del content["model"][name]

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            tensors(**{FC1: ...}),
            f"has no tensor {FC1}; expected one of shape (24, 16) from args",
        ),
        (
            tensors(**{FC1: torch.zeros(24, 8)}),
            f"{FC1} has shape (24, 8); expected (24, 16) from args",
        ),
        (
            tensors(**{FC1: [1.0, 2.0]}),
            f"{FC1} is a list; expected a tensor of shape (24, 16) from args",
        ),
        (
            tensors(**{FC1: torch.zeros(24, 16, dtype=torch.int64)}),
            f"{FC1} is torch.int64; expected floating-point numbers",
        ),
        (
            tensors(**{FC1: torch.zeros(24, 16).to_sparse()}),
            f"{FC1} is torch.sparse_coo; expected a plain tensor",
        ),
        (
            tensors(**{FC1: torch.zeros(24, 16, device="meta")}),
            f"{FC1} is without values; expected a plain tensor",
        ),
        (
            tensors(adapter=torch.zeros(1)),
            f"has the tensor 'adapter', which is none of its args; {KIND}",
        ),
        (
            tensors(**{"encoder.lm_head.weight": torch.zeros(33, 16)}),
            f"encoder.lm_head.weight differs from {EMBEDDING}; expected the same values (tied)",
        ),
        (
            tensors(**{"encoder.lm_head.weight": ...}),
            "has no tensor encoder.lm_head.weight; expected one of shape (33, 16) from args",
        ),
        (
            arguments(encoder_layers=3),
            "has the tensors of 2 layers; expected 3 from args.encoder_layers",
        ),
        (
            arguments(encoder_layers=10**30),
            f"args.encoder_layers is {10**30}; expected an integer from 1 to 1000000",
        ),
        (
            arguments(encoder_embed_dim=...),
            "args.embed_dim is None; expected an integer from 1 to 1000000",
        ),
        (
            arguments(encoder_embed_dim=32),
            f"{EMBEDDING} has shape (33, 16); expected (33, 32) from args",
        ),
        (
            arguments(encoder_ffn_embed_dim="24"),
            "args.encoder_ffn_embed_dim is '24'; expected an integer from 1 to 1000000",
        ),
        (
            arguments(encoder_attention_heads=3),
            "args.encoder_attention_heads 3 does not divide encoder_embed_dim 16",
        ),
        (arguments(token_dropout=...), "args.token_dropout is None; expected True"),
        (arguments(arch="protein_bert_base"), f"args.arch is 'protein_bert_base' (ESM-1); {KIND}"),
        (
            arguments(arch="msa_transformer"),
            f"args.arch is 'msa_transformer' (MSA Transformer); {KIND}",
        ),
        (arguments(arch="two\nlines"), f"args.arch is 'two\\nlines'; {KIND}"),
        (
            arguments(esm1b='{"rare_residues": "drop"}'),
            "args.esm1b: rare_residues is 'drop'; expected 'replace' or 'keep'",
        ),
        (
            arguments(esm1b="{"),
            "args.esm1b is '{'; expected the JSON text that export writes",
        ),
        (
            lambda content: content.pop("args") and None,
            "args is missing; expected an argparse.Namespace",
        ),
        (
            lambda content: content.update(args={"arch": "roberta_large"}),
            "args is a dict; expected an argparse.Namespace",
        ),
        (
            lambda content: content.update(args=OrderedDict(arch="roberta_large")),
            f"args.arch is None; {KIND}",
        ),
        (
            lambda content: content.update(model=[1]),
            "has no tensors by name under model; expected a file of fair-esm",
        ),
        (
            lambda content: list(content),
            "has no tensors by name under model; expected a file of fair-esm",
        ),
    ],
)
def test_what_is_no_esm1b(
    edit: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    assert edited(path, edit) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("tensors_there", "message"),
    [
        (
            {"contact_head.regression.weight": torch.zeros(1, 9)},
            "contact_head.regression.weight has shape (1, 9); "
            "expected (1, 8) from the model's args",
        ),
        (
            {"contact_head.regression.weight": torch.zeros(1, 8)},
            "has no tensor contact_head.regression.bias; "
            "expected one of shape (1,) from the model's args",
        ),
        (
            {},
            "has no tensor contact_head.regression.weight; "
            "expected one of shape (1, 8) from the model's args",
        ),
    ],
)
def test_a_regression_that_does_not_fit(
    tensors_there: dict[str, Tensor], message: str, tmp_path: Path
) -> None:
    path = release(tmp_path)
    regression = tmp_path / "esm1b_t2-contact-regression.pt"
    torch.save({"model": tensors_there}, regression)
    assert refusal(path) == f"{regression}: {message}"


def test_the_largest_sizes_need_no_memory(tmp_path: Path) -> None:
    message = edited(
        tmp_path / "model.pt",
        arguments(encoder_embed_dim=10**6, encoder_ffn_embed_dim=10**6, max_positions=10**6),
    )
    assert message.endswith(f"{EMBEDDING} has shape (33, 16); expected (33, 1000000) from args")
