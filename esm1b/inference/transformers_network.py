"""ESM-2 through `transformers`, with the methods of our `Encoder`.

ESM-2 has rotary positions, which our encoder does not compute; its tokens are those of ESM-1b.
"""

import copy
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, Final

import torch
from torch import Tensor, nn

from esm1b.alphabet import MASK, PAD, TOKENS
from esm1b.errors import UserError
from esm1b.model.layers import ContactHead
from esm1b.model.packed import PackedTokens
from esm1b.model.shape import EncoderShape
from esm1b.weights.model_directory import ModelDirectory
from esm1b.weights.save_model import CONFIG, CONTACT_HEAD
from esm1b.weights.state import FileTensors

# Up to 5.2, the masked share of a sequence was computed from its padded length, so that its logits
# depended on its neighbours in the batch.
_OLDEST: Final = (5, 3)

_EXPECTED: Final = {
    "model_type": "esm",
    "position_embedding_type": "rotary",
    "vocab_size": len(TOKENS),
    "mask_token_id": MASK,
    "pad_token_id": PAD,
}


class TransformersNetwork:
    """A network of size `shape` that `transformers` runs, on padded batches.

    `model` is an `EsmForMaskedLM` in evaluation mode, on its device and in its precision.
    """

    def __init__(self, model: Any, shape: EncoderShape) -> None:
        self.model = model
        self.shape = shape
        self.device: torch.device = model.lm_head.bias.device

    def __call__(self, packed: PackedTokens, positions: Tensor | None = None) -> Tensor:
        """Return logits; see `Encoder`."""
        last = self.shape.layers
        final = self.representations(packed, [last])[last]
        logits: Tensor = self.model.lm_head(final if positions is None else final[positions])
        return logits

    def representations(self, packed: PackedTokens, layers: Collection[int]) -> dict[int, Tensor]:
        """Return representations; see `Encoder`."""
        tokens = packed.to_padded(packed.tokens, PAD)
        stack = dict(enumerate(self.model.esm.encoder.layer))
        with _recorded({number: stack[number] for number in layers if number in stack}) as calls:
            output = self.model.esm(tokens, attention_mask=(tokens != PAD).long())
        padded = {number: arguments[0] for number, (arguments, _) in calls.items()}
        # What leaves the last layer norm, which is also the last of transformers' hidden states.
        padded[len(stack)] = output.last_hidden_state
        return {number: padded[number][packed.sequence_index, packed.offsets] for number in layers}

    def attention_maps(self, packed: PackedTokens) -> Iterator[list[Tensor]]:
        """Yield the attention maps of `packed`, which is one sequence; see `Encoder`.

        Each layer's attention is called a second time, explicitly, which alone gives maps, so that
        they need not be held all at once.
        """
        layers = enumerate(self.model.esm.encoder.layer)
        attentions = {number: layer.attention.self for number, layer in layers}
        with _recorded(attentions) as calls:
            self.model.esm(packed.tokens[None])
        usual = self.model.config._attn_implementation
        for number, attention in attentions.items():
            arguments, keywords = calls.pop(number)
            with ExitStack() as stack:
                stack.callback(self.model.set_attn_implementation, usual)
                self.model.set_attn_implementation("eager")
                maps: Tensor = attention(*arguments, **keywords)[1]
            yield [maps[0].float()]

    def untrained(self, seed: int) -> "TransformersNetwork":
        """Return a network of the same shape as `transformers` initialises it."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the one that is forked, of the CPU
            model = type(self.model)(copy.deepcopy(self.model.config))
        model = _placed(model, self.device, self.model.lm_head.bias.dtype)
        return TransformersNetwork(model, self.shape)


def load_transformers(
    directory: ModelDirectory, device: torch.device, dtype: torch.dtype
) -> tuple[TransformersNetwork, ContactHead | None]:
    """Read the directory of an ESM-2: its network, and its contact head if that is fitted.

    Nothing is downloaded, no code of the directory runs, and pickled weights are not read.

    Raises:
        UserError: `transformers` is not installed; a file is missing or damaged, or does not
            describe an ESM-2.
    """
    shape = _checked_shape(directory)
    loader = _masked_language_model(directory)
    try:
        with _quiet():
            model, report = loader.from_pretrained(
                directory.path,
                dtype=torch.float32,
                attn_implementation="sdpa",
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # reported below
                output_loading_info=True,
            )
    except Exception as error:  # many kinds, from the readers of several libraries
        raise UserError(f"{directory.path}: {' '.join(str(error).split())}") from error
    # Weights that are missing would leave a part of the model as it was initialised.
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise UserError(
            f"{directory.path}: {name} has shape {tuple(found)}; "
            f"expected {tuple(expected)} from {CONFIG}"
        )
    missing = sorted(report["missing_keys"])
    for name in missing:
        if not name.startswith(CONTACT_HEAD):
            raise UserError(f"{directory.path}: has no tensor {name}; expected a whole ESM-2")
    file = FileTensors(tensors=model.state_dict(), source=directory.path, described_by=CONFIG)
    contact_head = None if missing else file.contact_head(shape, CONTACT_HEAD)
    return TransformersNetwork(_placed(model, device, dtype), shape), contact_head


def _checked_shape(directory: ModelDirectory) -> EncoderShape:
    """Refuse what `transformers` would load, but not as a language model with our tokens.

    Released ESM-2 says max_position_embeddings 1026, as if it had the position table of ESM-1b: two
    rows (up to <pad>) hold no position, and <cls> and <eos> take one each. Rotary positions have no
    table and are unlimited, but training saw 1,022 residues at most.
    """
    path, config = directory.path / CONFIG, directory.config
    shape = directory.checked_shape(_EXPECTED, "ESM-2")
    if config.get("is_folding_model"):
        raise UserError(f"{path}: is_folding_model is true; expected ESM-2, not ESMFold")
    vocabulary = directory.path / "vocab.txt"
    text = vocabulary.read_text(encoding="utf-8", errors="replace") if vocabulary.exists() else ""
    if text and tuple(text.split()) != TOKENS:
        raise UserError(f"{vocabulary}: expected the {len(TOKENS)} tokens of ESM-1b and ESM-2")
    return shape


def _masked_language_model(directory: ModelDirectory) -> Any:
    """Return `EsmForMaskedLM`, whose annotations lack the pair that `from_pretrained` gives."""
    try:
        from transformers import EsmForMaskedLM
    except ImportError:
        found = "is not installed"
    else:
        release = version("transformers")
        if tuple(int(number) for number in release.split(".")[:2]) >= _OLDEST:
            return EsmForMaskedLM
        found = f"is {release}"
    raise UserError(
        f"{directory.path}: ESM-2 runs through transformers, which {found}; "
        f"expected {_OLDEST[0]}.{_OLDEST[1]} or newer, from: pip install 'esm1b[esm2]'"
    )


def _placed(model: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Move a float32 model and cast its parameters.

    Its buffers stay in float32: rotary frequencies in bf16 would turn position 1,000 by radians.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model.to(device).eval()


@contextmanager
def _recorded(modules: Mapping[int, nn.Module]) -> Iterator[dict[int, tuple[Any, ...]]]:
    """Yield a dictionary that fills with arguments and keywords of each module's latest call."""
    calls: dict[int, tuple[Any, ...]] = {}

    def record(number: int, module: nn.Module, *call: Any) -> None:
        calls[number] = call

    with ExitStack() as stack:
        for number, module in modules.items():
            hook = module.register_forward_pre_hook(partial(record, number), with_kwargs=True)
            stack.callback(hook.remove)
        yield calls


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep `transformers` from drawing a progress bar and listing tensors that nobody needs."""
    from transformers.utils import logging

    settings: Any = logging  # some of it has no annotations
    with ExitStack() as stack:
        stack.callback(settings.set_verbosity, settings.get_verbosity())
        settings.set_verbosity_error()
        if settings.is_progress_bar_enabled():
            stack.callback(settings.enable_progress_bar)
            settings.disable_progress_bar()
        yield
