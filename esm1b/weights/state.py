"""The tensors of an encoder: taken out for a release, checked and put in again."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from esm1b.alphabet import FIRST_AMINO_ACID, MASK, RESIDUES, X
from esm1b.errors import UserError
from esm1b.model.contact_head import ContactHead
from esm1b.model.encoder import Encoder
from esm1b.model.shape import EncoderShape
from esm1b.weights.provenance import Provenance

_RARE: Final = slice(X + 1, FIRST_AMINO_ACID + len(RESIDUES))


def released_state(encoder: Encoder, provenance: Provenance) -> dict[str, Tensor]:
    """Return the tensors by our names as a release holds them: float32, on the CPU.

    The row of `<mask>` is zero. Where B, U, Z and O were X in training they get X's embedding and
    output bias, so that they are X in any library. What need not change shares the memory of
    `encoder`.
    """
    state = {name: _alone(tensor.detach()) for name, tensor in encoder.state_dict().items()}
    embedding, bias = state["embed_tokens.weight"].clone(), state["lm_head.bias"].clone()
    embedding[MASK] = 0.0
    if provenance.rare_residues == "replace":
        embedding[_RARE], bias[_RARE] = embedding[X], bias[X]
    return {**state, "embed_tokens.weight": embedding, "lm_head.bias": bias}


def encoder_from_state(
    shape: EncoderShape,
    tensors: Mapping[str, Any],
    name_of: Callable[[str], str],
    *,
    source: Path,
    described_by: str,
) -> Encoder:
    """Return an encoder with these weights, float32, in evaluation mode, `<mask>`'s row zero.

    Args:
        shape: of the network.
        tensors: by the names of the file.
        name_of: what the file calls each of our names.
        source: the file, for messages.
        described_by: what of the file tells the shape, for messages.

    Raises:
        UserError: a tensor is missing or does not fit.
    """
    with torch.device("meta"):  # no memory: a wrong shape may be huge
        expected = Encoder(shape).state_dict()
    state = {
        ours: _checked(
            tensors, name_of(ours), tensor.shape, source=source, described_by=described_by
        )
        for ours, tensor in expected.items()
    }
    encoder = Encoder(shape)
    encoder.load_state_dict(state)  # copies, and converts half precision to float32
    with torch.no_grad():
        encoder.embed_tokens.weight[MASK] = 0.0
    return encoder.eval()


def contact_head_from_state(
    shape: EncoderShape,
    tensors: Mapping[str, Any],
    name: str,
    *,
    source: Path,
    described_by: str,
) -> ContactHead | None:
    """Return the regression `name`.weight and `name`.bias, float32; None where it is zero.

    Raises:
        UserError: a tensor is missing or does not fit.
    """
    weight, bias = (
        _checked(
            tensors, f"{name}.{kind}", torch.Size(size), source=source, described_by=described_by
        )
        for kind, size in (("weight", (1, shape.layers * shape.heads)), ("bias", (1,)))
    )
    head = ContactHead(
        coefficients=weight[0].detach().to(torch.float32, copy=True),
        intercept=bias[0].detach().to(torch.float32, copy=True),
    )
    return head if head.is_fitted else None


def check_tied(
    tensors: Mapping[str, Any], projection: str, embedding: str, *, source: Path, described_by: str
) -> None:
    """Check that the projection of the language-model head is the token embedding.

    Loading zeroes the row of `<mask>`, so it may differ.

    Raises:
        UserError: it is missing or another matrix.
    """
    matrix = tensors[embedding]
    again = _checked(tensors, projection, matrix.shape, source=source, described_by=described_by)
    if not torch.equal(matrix[:MASK].float(), again[:MASK].float()):
        raise UserError(
            f"{source}: {projection} differs from {embedding}; expected the same matrix (tied)"
        )


def verify_copy(
    copy: Encoder,
    copied_head: ContactHead | None,
    *,
    encoder: Encoder,
    provenance: Provenance,
    contact_head: ContactHead | None,
    path: Path,
) -> None:
    """Check that what was read back from `path` is, bit for bit, what was written there.

    Raises:
        RuntimeError: it is not.
    """
    expected, found = (
        _named(encoder, provenance, contact_head),
        _named(copy, provenance, copied_head),
    )
    if copy.shape != encoder.shape or expected.keys() != found.keys():
        raise RuntimeError(f"{path}: read back, the tensors are not those that were written")
    for name, tensor in expected.items():
        # as integers, because 0.0 equals -0.0 and no NaN equals itself
        if not torch.equal(tensor.view(torch.int32), found[name].view(torch.int32)):
            raise RuntimeError(f"{path}: read back, {name} differs from what was written")


def _alone(tensor: Tensor) -> Tensor:
    """Return float32 on the CPU, not as a part of a larger memory, which would be saved with it."""
    tensor = tensor.cpu().float().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _named(
    encoder: Encoder, provenance: Provenance, contact_head: ContactHead | None
) -> dict[str, Tensor]:
    tensors = released_state(encoder, provenance)
    if contact_head is not None and contact_head.is_fitted:
        tensors["contact_head.coefficients"] = _alone(contact_head.coefficients)
        tensors["contact_head.intercept"] = _alone(contact_head.intercept)
    return tensors


def _checked(
    tensors: Mapping[str, Any], name: str, size: torch.Size, *, source: Path, described_by: str
) -> Tensor:
    expected = f"{tuple(size)} from {described_by}"
    if name not in tensors:
        raise UserError(f"{source}: has no tensor {name}; expected one of shape {expected}")
    tensor = tensors[name]
    if not isinstance(tensor, Tensor):
        raise UserError(
            f"{source}: {name} is a {type(tensor).__name__}; expected a tensor of shape {expected}"
        )
    if tensor.layout is not torch.strided or tensor.is_meta:
        kind = "without values" if tensor.is_meta else str(tensor.layout)
        raise UserError(f"{source}: {name} is {kind}; expected a plain tensor")
    if not tensor.is_floating_point():
        raise UserError(f"{source}: {name} is {tensor.dtype}; expected floating-point numbers")
    if tensor.shape != size:
        raise UserError(f"{source}: {name} has shape {tuple(tensor.shape)}; expected {expected}")
    return tensor
