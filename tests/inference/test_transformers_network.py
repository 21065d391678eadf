import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import EsmConfig, EsmForMaskedLM

from esm1b.alphabet import CLS, EOS, MASK, PAD, TOKENS, encode
from esm1b.errors import UserError
from esm1b.evaluation.secondary_structure.secondary_structure import evaluate_secondary_structure
from esm1b.inference import transformers_network
from esm1b.inference.jacobian import coupling_scores
from esm1b.inference.model import load_model, untrained_model
from esm1b.inference.transformers_network import TransformersNetwork, load_transformers
from esm1b.model.packed import PackedTokens, pack_sequences
from esm1b.scoring.mutations import all_substitutions
from esm1b.scoring.variant_scores import score_variants
from esm1b.weights.model_directory import ModelDirectory
from tests.evaluation.fake_models import examples, write_table

CPU = torch.device("cpu")
QUERY = "esm.encoder.layer.1.attention.self.query.weight"


def esm2() -> Any:
    """Return a tiny ESM-2 whose parameters are all random and large enough to matter."""
    config = EsmConfig(
        vocab_size=33,
        mask_token_id=32,
        pad_token_id=1,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=40,
        max_position_embeddings=66,
        position_embedding_type="rotary",
        token_dropout=True,
        emb_layer_norm_before=False,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    model: Any = EsmForMaskedLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
            if "norm" in name.lower() and name.endswith("weight"):
                parameter.add_(1.0)
        model.esm.embeddings.word_embeddings.weight[PAD] = 0.0
        model.esm.contact_head.regression.weight *= 20  # else every pair is at one half
    return model.eval()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory as the released ones are: with their names, not those of a new save."""
    directory = tmp_path_factory.mktemp("esm2")
    model = esm2()
    model.config.save_pretrained(directory)
    tensors = {
        name: tensor.clone()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.decoder.weight" and "inv_freq" not in name
    }
    for layer in range(3):
        name = f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"
        tensors[name] = 10_000 ** (-torch.arange(0, 12, 2) / 12)
    tensors["esm.embeddings.position_ids"] = torch.arange(66)[None]
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "vocab.txt").write_text("\n".join(TOKENS))
    return directory


@pytest.fixture(scope="module")
def theirs(directory: Path) -> Any:
    loader: Any = EsmForMaskedLM
    return loader.from_pretrained(directory, attn_implementation="eager")


@pytest.fixture(scope="module")
def network(directory: Path) -> TransformersNetwork:
    network = load_model(directory, device="cpu").network
    assert isinstance(network, TransformersNetwork)
    return network


@pytest.fixture
def copied(directory: Path, tmp_path: Path) -> Path:
    """Return a copy of the directory, to be damaged."""
    for file in directory.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def batch() -> PackedTokens:
    sequences = [
        encode("MKTVRQGXBUZO"),
        encode("M"),
        np.full(9, MASK, np.uint8),
        encode("LAG" * 20),
    ]
    sequences[3][[4, 8, 30]] = MASK
    return pack_sequences(sequences, CPU)


def in_batch(packed: PackedTokens, padded: Tensor) -> Tensor:
    return padded[packed.sequence_index, packed.offsets]


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def refusal(directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_transformers(ModelDirectory(directory), CPU, torch.float32)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(directory))
    return message.removeprefix(str(directory))


def edit_config(directory: Path, **changes: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))


def edit_weights(directory: Path, **changes: Tensor | None) -> None:
    tensors: dict[str, Tensor | None] = {**load_file(directory / "model.safetensors"), **changes}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})


def test_what_is_loaded(directory: Path, theirs: Any) -> None:
    model = load_model(directory, device="cpu")
    shape = model.shape
    assert (shape.layers, shape.width, shape.heads, model.network.device) == (3, 24, 2, CPU)
    assert model.longest_sequence == 62  # 66 rows, as 1,026 rows are 1,022 residues
    assert model.contact_head is not None
    regression = theirs.esm.contact_head.regression
    assert torch.equal(model.contact_head.coefficients, regression.weight[0])
    assert torch.equal(model.contact_head.intercept, regression.bias[0])


@torch.no_grad()
def test_logits_and_representations_are_those_of_transformers(
    network: TransformersNetwork, theirs: Any
) -> None:
    packed = batch()
    tokens = packed.to_padded(packed.tokens, PAD)
    expected = theirs(tokens, attention_mask=(tokens != PAD).long(), output_hidden_states=True)
    close(network(packed), in_batch(packed, expected.logits))
    representations = network.representations(packed, (0, 1, 2, 3))
    assert list(representations) == [0, 1, 2, 3]
    for layer, hidden in enumerate(expected.hidden_states):
        close(representations[layer], in_batch(packed, hidden))
    some = network.representations(packed, {2})
    assert list(some) == [2]
    assert torch.equal(some[2], representations[2])


def test_first_representation_is_the_embedding_and_the_last_leaves_the_last_norm(
    network: TransformersNetwork, theirs: Any
) -> None:
    packed = pack_sequences([encode("MKTV")], CPU)
    representations = network.representations(packed, (0, 3))
    embedding = theirs.esm.embeddings.word_embeddings.weight[packed.tokens]
    close(representations[0], embedding * (1 - 0.15 * 0.8))
    close(theirs.lm_head(representations[3]), network(packed))


def test_logits_at_masked_positions_are_those_of_all(network: TransformersNetwork) -> None:
    packed = batch()
    positions = torch.tensor([3, 20, 3])
    close(network(packed, positions), network(packed)[positions])


def test_variant_scores_are_those_of_masked_copies(directory: Path, theirs: Any) -> None:
    wild_type = "MKTVRQGSAE"
    tokens = torch.tensor([CLS, *encode(wild_type).tolist(), EOS])
    copies = tokens.repeat(10, 1)
    places = torch.arange(10)
    copies[places, places + 1] = MASK
    with torch.no_grad():
        rows = theirs(copies).logits[places, places + 1].log_softmax(-1)
    variants = all_substitutions(wild_type)
    expected = []
    for variant in variants:
        (mutation,) = variant.mutations
        row, token = rows[mutation.position], tokens[mutation.position + 1]
        expected.append(float(row[int(encode(mutation.mutant)[0])] - row[token]))
    found = score_variants(load_model(directory, device="cpu"), wild_type, variants)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)


def test_a_sequence_in_company_is_as_alone(network: TransformersNetwork) -> None:
    packed = batch()
    together = network(packed)
    lengths = list(packed.lengths)
    parts = (torch.split(values, lengths) for values in (packed.tokens, together))
    for tokens, logits in zip(*parts, strict=True):
        alone = PackedTokens.from_tokens(tokens, [len(tokens)])
        close(logits, network(alone))


@torch.no_grad()
def test_attention_maps_are_those_of_transformers(
    network: TransformersNetwork, theirs: Any
) -> None:
    packed = pack_sequences([encode("MKTVRQGXBUZO")], CPU)
    expected = theirs(packed.tokens[None], output_attentions=True).attentions
    before = network(packed)
    maps = list(network.attention_maps(packed))
    assert len(maps) == 3
    for (ours,), layer in zip(maps, expected, strict=True):
        assert ours.dtype == torch.float32
        close(ours, layer[0])
    assert torch.equal(before, network(packed))  # maps leave the network as it was


@torch.no_grad()
def test_contacts_are_those_of_transformers(directory: Path, theirs: Any) -> None:
    model = load_model(directory)
    assert isinstance(model.network, TransformersNetwork)
    sequence = "MKTVRQGERLKSIVRILERSKEPVSGAQLAEELSVSRQVIVQDIAYLRSLGYNIVATPRGYVLAGG"[:62]
    tokens = torch.tensor([[0, *encode(sequence), 2]])
    expected = theirs.predict_contacts(tokens, torch.ones_like(tokens))[0]
    contacts = model.contacts(sequence)
    assert contacts.shape == (62, 62)
    assert np.ptp(contacts) > 0.1
    close(torch.from_numpy(contacts), expected)


def test_couplings_are_those_of_transformers(directory: Path, theirs: Any) -> None:
    @torch.no_grad()
    def alone(sequences: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        framed = [torch.tensor([[CLS, *tokens.tolist(), EOS]]) for tokens in sequences]
        return [theirs(tokens).logits[0, 1:-1].numpy() for tokens in framed]

    found = load_model(directory).contacts("MKTVRXGA", method="jacobian")
    expected = coupling_scores(alone, encode("MKTVRXGA"))
    assert np.ptp(expected) > 0.1
    close(torch.from_numpy(found), torch.from_numpy(expected))


def test_the_model_uses_it_like_any_other(directory: Path, theirs: Any) -> None:
    model = load_model(directory)
    assert (model.shape.layers, model.shape.width, model.shape.heads) == (3, 24, 2)
    assert (model.rare_residues, model.append_eos, model.longest_sequence) == ("keep", True, 62)
    (logits,) = model.logits(["MKT<mask>V"])
    expected = theirs(torch.tensor([[0, 20, 15, 11, 32, 7, 2]])).logits[0, 1:-1]
    close(torch.from_numpy(logits), expected.detach())
    with pytest.raises(UserError, match="63"):
        model.logits(["M" * 63])


def test_untrained_depends_on_the_seed_alone(directory: Path) -> None:
    model = load_model(directory)
    torch.manual_seed(1)
    first = untrained_model(model, 7)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = untrained_model(model, 7)
    third = untrained_model(model, 8)
    assert first.shape.width == 24
    (ours,), (same,), (other,) = (m.logits(["MKTVRQG"]) for m in (first, second, third))
    np.testing.assert_array_equal(ours, same)
    assert np.abs(ours - other).max() > 1e-3
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws change


def test_bfloat16_keeps_rotary_frequencies_exact(directory: Path) -> None:
    precise = load_model(directory)
    rough = load_model(directory, precision="bf16")
    assert isinstance(rough.network, TransformersNetwork)
    assert {p.dtype for p in rough.network.model.parameters()} == {torch.bfloat16}
    buffers = dict(rough.network.model.named_buffers())
    frequencies = {buffer.dtype for name, buffer in buffers.items() if "inv_freq" in name}
    assert frequencies == {torch.float32}
    (expected,), (logits,) = (m.logits(["MKTVRQG" * 8]) for m in (precise, rough))
    # 8 bits of fraction in each of three layers.
    assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    assert next(rough.network.attention_maps(batch_of_one()))[0].dtype == torch.float32


def batch_of_one() -> PackedTokens:
    return pack_sequences([encode("MKTV")], CPU)


def test_a_saved_model_loads_like_a_released_one(tmp_path: Path, directory: Path) -> None:
    esm2().save_pretrained(tmp_path / "saved")
    expected, saved = load_model(directory), load_model(tmp_path / "saved")
    (ours,), (again,) = (model.logits(["MKTV"]) for model in (expected, saved))
    np.testing.assert_allclose(ours, again, rtol=0, atol=1e-5)  # frequencies round differently


def test_a_contact_head_that_is_missing_or_zero_is_not_fitted(copied: Path) -> None:
    edit_weights(copied, **{"esm.contact_head.regression.weight": torch.zeros(1, 6)})
    assert load_model(copied).contact_head is None
    edit_weights(copied, **{"esm.contact_head.regression.weight": None})
    assert load_model(copied).contact_head is None


def test_loading_says_nothing(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_transformers(ModelDirectory(directory), CPU, torch.float32)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "bert"}, '/config.json: model_type is "bert"; expected "esm" (ESM-2)'),
        (
            {"position_embedding_type": "absolute"},
            '/config.json: position_embedding_type is "absolute"; expected "rotary" (ESM-2)',
        ),
        ({"vocab_size": 446}, "/config.json: vocab_size is 446; expected 33 (ESM-2)"),
        ({"mask_token_id": None}, "/config.json: mask_token_id is null; expected 32 (ESM-2)"),
        (
            {"is_folding_model": True},
            "/config.json: is_folding_model is true; expected ESM-2, not ESMFold",
        ),
        (
            {"max_position_embeddings": 4},
            "/config.json: max_position_embeddings is 4; expected an integer from 5 to 1000000",
        ),
    ],
)
def test_foreign_configurations_are_refused(
    copied: Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(copied, **changes)
    assert refusal(copied) == message


@pytest.mark.parametrize(
    "changes", [{"hidden_size": 25}, {"num_hidden_layers": "three"}, {"intermediate_size": []}]
)
def test_configurations_that_transformers_refuses(copied: Path, changes: dict[str, Any]) -> None:
    edit_config(copied, **changes)
    refusal(copied)


def test_damaged_weights_are_refused(copied: Path) -> None:
    edit_weights(copied, **{QUERY: torch.zeros(24, 23)})
    assert refusal(copied) == f": {QUERY} has shape (24, 23); expected (24, 24) from config.json"
    edit_weights(copied, **{QUERY: None})
    assert refusal(copied) == f": has no tensor {QUERY}; expected a whole ESM-2"
    content = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(content[:-10])
    refusal(copied)
    (copied / "model.safetensors").unlink()
    assert "model.safetensors" in refusal(copied)


def test_pickled_weights_are_not_read(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    torch.save(tensors, copied / "pytorch_model.bin")
    assert "safetensors" in refusal(copied)


def test_damaged_texts_are_refused(copied: Path) -> None:
    (copied / "vocab.txt").write_text("\n".join(TOKENS[::-1]))
    assert refusal(copied) == "/vocab.txt: expected the 33 tokens of ESM-1b and ESM-2"
    (copied / "config.json").write_text("[]")
    assert refusal(copied) == "/config.json: expected a JSON object"
    (copied / "config.json").unlink()
    assert refusal(copied) == "/config.json: No such file or directory"


def test_without_transformers(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = "expected 5.3 or newer, from: pip install 'esm1b[esm2]'"
    monkeypatch.setattr(transformers_network, "version", lambda name: "5.2.9")
    assert refusal(directory) == f": ESM-2 runs through transformers, which is 5.2.9; {remedy}"
    monkeypatch.setattr(transformers_network, "version", lambda name: "5.10.0.dev0")
    load_transformers(ModelDirectory(directory), CPU, torch.float32)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refusal(directory) == (
        f": ESM-2 runs through transformers, which is not installed; {remedy}"
    )


def test_an_evaluation_of_an_esm2_names_it(directory: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.parquet", examples({"fit": 3, "test": 2}))
    evaluate_secondary_structure(
        directory, table, tmp_path / "out", untrained=1, layer=1, batch_tokens=50, precision="bf16"
    )
    content = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert content["model"] == {}  # it has no esm1b.json
    digest = ModelDirectory(directory).digest()
    assert content["inputs"]["model"] == {"name": directory.name, "sha256": digest}
    assert content["protocol"]["layer"] == 1
