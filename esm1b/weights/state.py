"""The tensors of a model: as a release holds them, read from a file, compared bit by bit."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from zipfile import is_zipfile

import torch
from torch import Tensor

from esm1b.alphabet import FIRST_AMINO_ACID, MASK, RESIDUES, X
from esm1b.errors import UserError
from esm1b.model.encoder import Encoder
from esm1b.model.layers import ContactHead
from esm1b.model.rotary import positions_of, rotary_frequencies
from esm1b.model.shape import EncoderShape, Positions
from esm1b.weights.provenance import Provenance

_LARGEST: Final = 1_000_000  # beyond any size: larger ones may overflow those of tensors
# A pickle can name any function of any module. PyTorch's own reader of weights knows tensors and
# plain containers, refuses the rest by name and says so in this form.
_REFUSED: Final = re.compile(r"GLOBAL (\S+)")
_FREQUENCIES: Final = ".inv_freq"  # how names of rotary frequencies end in every library
_RARE: Final = slice(X + 1, FIRST_AMINO_ACID + len(RESIDUES))


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedModel:
    """A network, its contact head if it has a fitted one, and where they come from."""

    encoder: Encoder
    contact_head: ContactHead | None = None
    provenance: Provenance = field(default_factory=Provenance)

    def state(self) -> dict[str, Tensor]:
        """Return the encoder's tensors by our names as a release holds them: float32, on the CPU.

        The row of `<mask>` is zero, except in an ESM-2. Where B, U, Z and O were X in training they
        get X's embedding and output bias, so that they are X in any library. Unchanged tensors
        share the memory of `encoder`.
        """
        state = {
            name: _on_its_own(tensor.detach()) for name, tensor in self.encoder.state_dict().items()
        }
        embedding, bias = state["embed_tokens.weight"].clone(), state["lm_head.bias"].clone()
        if not self.encoder.shape.is_rotary:
            embedding[MASK] = 0.0
        if self.provenance.rare_residues == "replace":
            embedding[_RARE], bias[_RARE] = embedding[X], bias[X]
        return {**state, "embed_tokens.weight": embedding, "lm_head.bias": bias}

    def frequencies(self, name: str) -> dict[str, Tensor]:
        """Return the rotary frequencies of each layer; `name` is theirs, with `{}` for the layer.

        Other libraries repeat them in every layer. Without rotary positions there are none.
        """
        shape = self.encoder.shape
        if not shape.is_rotary:
            return {}
        return {
            name.format(layer): rotary_frequencies(shape.positions, shape.head_width)
            for layer in range(shape.layers)
        }

    def regression(self, prefix: str) -> dict[str, Tensor]:
        """Return weight `[1, layers * heads]` and bias `[1]` of the contact head, else zeros."""
        channels = self.encoder.shape.layers * self.encoder.shape.heads
        weight, bias = torch.zeros(channels), torch.zeros(1)
        if head := self.contact_head:
            weight, bias = head.coefficients, head.intercept
        return {
            f"{prefix}.weight": _on_its_own(weight).reshape(1, channels).clone(),
            f"{prefix}.bias": _on_its_own(bias).reshape(1).clone(),
        }


def read_shape(
    settings: Mapping[str, Any],
    keys: Mapping[str, str],
    *,
    layer_norm_before: bool,
    positions: Positions,
    source: str,
    rows_of_no_position: int = 0,
) -> EncoderShape:
    """Return the size of the network that the settings of a file describe.

    `keys` has the key of each of our sizes, and error messages begin with `source`. The file may
    count `rows_of_no_position` in its position table as positions.
    """
    sizes = {}
    for ours, key in keys.items():
        found, least = settings.get(key), 1
        if ours == "maximum_tokens":
            least = 3 + rows_of_no_position  # <cls>, one residue and <eos>
        if type(found) is not int or not least <= found <= _LARGEST:
            raise UserError(
                f"{source}{key} is {found!r}; expected an integer from {least} to {_LARGEST}"
            )
        sizes[ours] = found
    sizes["maximum_tokens"] -= rows_of_no_position
    shape = EncoderShape(**sizes, layer_norm_before=layer_norm_before, positions=positions)
    if shape.width % shape.heads:
        raise UserError(
            f"{source}{keys['heads']} {shape.heads} does not divide {keys['width']} {shape.width}"
        )
    if shape.is_rotary and shape.head_width % 2:
        raise UserError(
            f"{source}{keys['heads']} {shape.heads} makes heads of width {shape.head_width}; "
            "expected an even number for rotary positions"
        )
    return shape


def read_torch_file(path: Path, *, allowed: Sequence[type] = ()) -> Any:
    """Return the content of a file, tensors on the CPU and mapped from the file where they can be.

    `path` is a zip archive or the older plain pickle. Classes in `allowed` may occur in it beside
    tensors, numbers, texts and containers.

    Raises:
        UserError: the file is missing, damaged or no such file, or it names anything else, which
            is then neither imported nor run.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    others = torch.serialization.get_safe_globals()  # what libraries have allowed for themselves
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols and storages
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # damaged bytes raise almost anything
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise UserError(
                f"{path}: is cut short, damaged, or not of this kind; "
                "expected a file that torch.save wrote"
            ) from error
        names = ", ".join(["tensors", *(f"{kind.__module__}.{kind.__name__}" for kind in allowed)])
        raise UserError(
            f"{path}: its pickle names {refused[1].rstrip('.,')}, which was not run; "
            f"expected {names} and plain values only"
        ) from error
    finally:
        torch.serialization.add_safe_globals(others)


@dataclass(frozen=True, kw_only=True)
class FileTensors:
    """The tensors of a file, by its names, unchecked; a bad one raises a `UserError`.

    Messages name the file, `source`, and the origin of the expected shapes, `described_by`.
    """

    tensors: Mapping[str, Any]
    source: Path
    described_by: str

    def frequencies(self) -> set[str]:
        """Return the names of rotary frequencies: one for all layers, or one for each."""
        return {name for name in self.tensors if name.endswith(_FREQUENCIES)}

    def with_positions(self, shape: EncoderShape) -> EncoderShape:
        """Return the shape with the rotary positions whose frequencies the file has, if it has."""
        if not shape.is_rotary:
            return shape
        size = torch.Size((shape.head_width // 2,))
        tensors = {name: self.tensor(name, size).float() for name in sorted(self.frequencies())}
        for name, frequencies in tensors.items():
            positions = positions_of(frequencies)
            if positions is None or not torch.equal(frequencies, next(iter(tensors.values()))):
                raise UserError(
                    f"{self.source}: {name}: expected, as in all layers, 10,000^(-2 i / "
                    f"{shape.head_width}) in float32, or rounded to fp16, or then to bf16"
                )
            shape = replace(shape, positions=positions)
        return shape

    def encoder(self, shape: EncoderShape, name_of: Callable[[str], str]) -> Encoder:
        """Return an encoder with these weights, float32, in evaluation mode.

        The row of `<mask>` is zero, except in an ESM-2: fair-esm zeroes it in ESM-1b and ESM-1v
        alone. `name_of` translates our names to those of the file.
        """
        with torch.device("meta"):  # no memory: a wrong shape may be huge
            expected = Encoder(shape).state_dict()
        state = {
            ours: self.tensor(name_of(ours), tensor.shape) for ours, tensor in expected.items()
        }
        encoder = Encoder(shape)
        encoder.load_state_dict(state)  # copies, and converts half precision to float32
        if not shape.is_rotary:
            with torch.no_grad():
                encoder.embed_tokens.weight[MASK] = 0.0
        return encoder.eval()

    def contact_head(self, shape: EncoderShape, prefix: str) -> ContactHead | None:
        """Return the regression `prefix`.weight and `prefix`.bias, float32; None if it is zero."""
        weight = self.tensor(f"{prefix}.weight", torch.Size((1, shape.layers * shape.heads)))
        bias = self.tensor(f"{prefix}.bias", torch.Size((1,)))
        head = ContactHead(
            coefficients=weight[0].detach().to(torch.float32, copy=True),
            intercept=bias[0].detach().to(torch.float32, copy=True),
        )
        return head if head.is_fitted else None

    def check_tied(self, again: str, first: str) -> None:
        """Check that one tensor repeats another, but for a matrix's row of `<mask>`.

        Loading zeroes that row of the token embedding.
        """
        expected = self.tensors[first]
        found = self.tensor(again, expected.shape)
        rows = slice(MASK) if found.dim() == 2 else slice(None)
        if not torch.equal(found[rows].float(), expected[rows].float()):
            raise UserError(
                f"{self.source}: {again} differs from {first}; expected the same values (tied)"
            )

    def tensor(self, name: str, size: torch.Size) -> Tensor:
        """Return a tensor of floating-point numbers with this name and size."""
        expected = f"{tuple(size)} from {self.described_by}"
        if name not in self.tensors:
            raise UserError(
                f"{self.source}: has no tensor {name}; expected one of shape {expected}"
            )
        tensor = self.tensors[name]
        problem = None
        if not isinstance(tensor, Tensor):
            problem = f"is a {type(tensor).__name__}; expected a tensor of shape {expected}"
        elif tensor.is_meta:
            problem = "is without values; expected a plain tensor"
        elif tensor.layout is not torch.strided:
            problem = f"is {tensor.layout}; expected a plain tensor"
        elif not tensor.is_floating_point():
            problem = f"is {tensor.dtype}; expected floating-point numbers"
        elif tensor.shape != size:
            problem = f"has shape {tuple(tensor.shape)}; expected {expected}"
        if problem is not None:
            raise UserError(f"{self.source}: {name} {problem}")
        assert isinstance(tensor, Tensor)
        return tensor


def verify_copy(copy: TrainedModel, original: TrainedModel, path: Path) -> None:
    """Check that a model read back from `path` is, bit for bit, the one that was written there.

    Raises:
        RuntimeError: it is not.
    """
    if copy.provenance.as_json() != original.provenance.as_json():
        raise RuntimeError(f"{path}: read back, the provenance differs from what was written")
    expected, found = (
        {**model.state(), **(model.regression("contact_head") if model.contact_head else {})}
        for model in (original, copy)
    )
    if copy.encoder.shape != original.encoder.shape or expected.keys() != found.keys():
        raise RuntimeError(f"{path}: read back, the tensors are not those that were written")
    for name, tensor in expected.items():
        # as integers, because 0.0 equals -0.0 and no NaN equals itself
        if not torch.equal(tensor.view(torch.int32), found[name].view(torch.int32)):
            raise RuntimeError(f"{path}: read back, {name} differs from what was written")


def _on_its_own(tensor: Tensor) -> Tensor:
    """Return float32 on the CPU, not as a part of a larger memory, which would be saved with it."""
    tensor = tensor.cpu().float().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
