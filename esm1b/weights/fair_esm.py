"""Released files of fair-esm: `NAME.pt` with `NAME-contact-regression.pt` beside it.

Reference: facebookresearch/esm, `esm/pretrained.py`. The names of our tensors are fair-esm's own;
in the file they have the prefixes that fairseq gave them.
"""

import json
import logging
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from esm1b.errors import UserError
from esm1b.files import atomic_file
from esm1b.model.contact_head import ContactHead
from esm1b.model.encoder import Encoder
from esm1b.model.shape import EncoderShape
from esm1b.weights.provenance import Provenance
from esm1b.weights.state import (
    check_tied,
    contact_head_from_state,
    encoder_from_state,
    released_state,
    verify_copy,
)
from esm1b.weights.torch_file import read_torch_file

_log = logging.getLogger(__name__)

_ARCHITECTURE: Final = "roberta_large"
_OTHER_ARCHITECTURES: Final = {
    "protein_bert_base": "ESM-1",
    "msa_transformer": "MSA Transformer",
    "vt_medium_with_invariant_gvp": "ESM-IF1",
}
_EXPECTED: Final = f'expected ESM-1b or ESM-1v (args.arch "{_ARCHITECTURE}")'

_PREFIX: Final = "encoder.sentence_encoder."
_PROJECTION: Final = "lm_head.weight"
_REGRESSION: Final = "contact_head.regression"
_REGRESSION_NAMES: Final = (f"{_REGRESSION}.weight", f"{_REGRESSION}.bias")
_LARGEST: Final = 1_000_000  # of any size: beyond it, sizes of tensors may overflow
# Our own entry among the arguments, which fair-esm passes by: what `esm1b.json` says, as JSON.
_PROVENANCE: Final = "esm1b"


@dataclass(frozen=True, kw_only=True, eq=False)
class FairEsmModel:
    """What a released file holds; `contact_head` is None where there is none or it is zero."""

    encoder: Encoder
    contact_head: ContactHead | None
    provenance: Provenance


def read_fair_esm(path: Path) -> FairEsmModel:
    """Read a released ESM-1b or ESM-1v, float32, in evaluation mode, `<mask>`'s row zero.

    The contact head comes from `NAME-contact-regression.pt` where that file is.

    Raises:
        UserError: a file is missing or damaged, is of another model, holds anything besides tensors
            and arguments (none of which is run), or its tensors are not those of its arguments.
    """
    return _read(path, _regression_file(path))


def write_fair_esm(
    path: Path, encoder: Encoder, provenance: Provenance, contact_head: ContactHead | None
) -> None:
    """Write `NAME.pt` and `NAME-contact-regression.pt`, which fair-esm loads strictly.

    fair-esm insists on the second file, so without a contact head its regression is zero. Both are
    read back and compared before they get their names. The same input gives the same bytes.

    Raises:
        UserError: fair-esm would not take a file of this name for an ESM-1b.
        RuntimeError: what was read back differs.
    """
    _check_name(path)
    fitted = contact_head is not None and contact_head.is_fitted
    if not fitted:
        _log.info(
            "%s: no contact head is fitted, so the regression is zero", _regression_file(path)
        )
    elif "esm1v" in path.name:
        _log.info("%s: fair-esm reads no regression for names with esm1v", path)
    # Left in the reverse order: the regression has its name before the model that goes with it.
    with atomic_file(path) as model_file, atomic_file(_regression_file(path)) as regression_file:
        _save(
            {"args": _arguments(encoder.shape, provenance), "model": _state(encoder, provenance)},
            model_file,
        )
        _save({"model": _regression(encoder.shape, contact_head)}, regression_file)
        copy = _read(model_file, regression_file)
        if _provenance_text(copy.provenance) != _provenance_text(provenance):
            raise RuntimeError(f"{path}: read back, the provenance differs from what was written")
        verify_copy(
            copy.encoder,
            copy.contact_head,
            encoder=encoder,
            provenance=provenance,
            contact_head=contact_head,
            path=path,
        )


def _regression_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}-contact-regression.pt")


def _read(path: Path, regression_file: Path) -> FairEsmModel:
    arguments, tensors = _sections(path)
    prefixed = any(name.startswith(_PREFIX) for name in tensors)

    def in_file(name: str) -> str:
        return _raw_name(name) if prefixed else name

    shape = _shape(path, arguments, [name.removeprefix(_PREFIX) for name in tensors])
    encoder = encoder_from_state(shape, tensors, in_file, source=path, described_by="args")
    check_tied(
        tensors,
        in_file(_PROJECTION),
        in_file("embed_tokens.weight"),
        source=path,
        described_by="args",
    )
    known = {in_file(name) for name in (*encoder.state_dict(), _PROJECTION)}
    return FairEsmModel(
        encoder=encoder,
        contact_head=_contact_head(
            shape,
            {name: tensor for name, tensor in tensors.items() if name not in known},
            path,
            regression_file,
        ),
        provenance=_provenance(path, arguments),
    )


def _contact_head(
    shape: EncoderShape, others: Mapping[str, Any], path: Path, regression_file: Path
) -> ContactHead | None:
    """Return the regression of its own file, or of `others`, the other tensors of the model's."""
    if unknown := [name for name in others if name not in _REGRESSION_NAMES]:
        raise UserError(
            f"{path}: has the tensor {unknown[0]!r}, which is none of its args; {_EXPECTED}"
        )
    if regression_file.exists():  # first, as in fair-esm
        path, others = regression_file, _tensors(regression_file, read_torch_file(regression_file))
    elif not others:
        return None
    return contact_head_from_state(
        shape, others, _REGRESSION, source=path, described_by="the model's args"
    )


def _sections(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments and the tensors by their names in the file."""
    content = read_torch_file(path, allowed=[Namespace])
    if isinstance(content, dict) and content.get("args") is None and "cfg" in content:
        raise UserError(f"{path}: has cfg instead of args, as ESM-2 does; {_EXPECTED}")
    tensors = _tensors(path, content)
    arguments = content.get("args")
    if not isinstance(arguments, Namespace):
        found = "missing" if arguments is None else f"a {type(arguments).__name__}"
        raise UserError(f"{path}: args is {found}; expected an argparse.Namespace")
    architecture = vars(arguments).get("arch")
    if architecture != _ARCHITECTURE:
        other = _OTHER_ARCHITECTURES.get(str(architecture))
        raise UserError(
            f"{path}: args.arch is {architecture!r}{f' ({other})' if other else ''}; {_EXPECTED}"
        )
    return vars(arguments), tensors


def _tensors(path: Path, content: Any) -> dict[str, Any]:
    tensors = content.get("model") if isinstance(content, dict) else None
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise UserError(f"{path}: has no tensors by name under model; expected a file of fair-esm")
    return dict(tensors)


def _shape(path: Path, arguments: Mapping[str, Any], names: Sequence[str]) -> EncoderShape:
    """Return the shape that the arguments tell; `names` are the tensors', without a prefix."""

    def key_of(name: str) -> str:
        return f"encoder_{name}" if f"encoder_{name}" in arguments else name

    def size(name: str, least: int = 1) -> int:
        found = arguments.get(key_of(name))
        if type(found) is not int or not least <= found <= _LARGEST:
            raise UserError(
                f"{path}: args.{key_of(name)} is {found!r}; "
                f"expected an integer from {least} to {_LARGEST}"
            )
        return found

    if arguments.get("token_dropout") is not True:
        raise UserError(
            f"{path}: args.token_dropout is {arguments.get('token_dropout')!r}; expected True"
        )
    shape = EncoderShape(
        layers=size("layers"),
        width=size("embed_dim"),
        heads=size("attention_heads"),
        feed_forward=size("ffn_embed_dim"),
        maximum_tokens=size("max_positions", 3),
        layer_norm_before=any(name.startswith("emb_layer_norm_before.") for name in names),
    )
    if shape.width % shape.heads:
        raise UserError(
            f"{path}: args.{key_of('attention_heads')} {shape.heads} does not divide "
            f"{key_of('embed_dim')} {shape.width}"
        )
    layers = len({name.split(".")[1] for name in names if name.startswith("layers.")})
    if layers != shape.layers:
        raise UserError(
            f"{path}: has the tensors of {layers} layers; "
            f"expected {shape.layers} from args.{key_of('layers')}"
        )
    return shape


def _provenance(path: Path, arguments: Mapping[str, Any]) -> Provenance:
    text = arguments.get(_PROVENANCE)
    if text is None:
        return Provenance()
    try:
        content = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or content.get("rare_residues") not in ("keep", "replace"):
        raise UserError(
            f"{path}: args.{_PROVENANCE} is {str(text)[:60]!r}; "
            "expected the JSON text that export writes"
        )
    return Provenance(rare_residues=content.pop("rare_residues"), details=content)


def _check_name(path: Path) -> None:
    if path.suffix != ".pt" or path.name.startswith("esm2"):
        raise UserError(
            f"{path}: is no name that fair-esm takes for an ESM-1b's; "
            "expected one that ends in .pt and does not begin with esm2"
        )
    if path.is_dir():
        raise UserError(f"{path}: is a directory; expected a file to write to")


def _raw_name(name: str) -> str:
    return f"encoder.{name}" if name.startswith("lm_head.") else f"{_PREFIX}{name}"


def _arguments(shape: EncoderShape, provenance: Provenance) -> Namespace:
    return Namespace(
        arch=_ARCHITECTURE,
        encoder_layers=shape.layers,
        encoder_embed_dim=shape.width,
        encoder_ffn_embed_dim=shape.feed_forward,
        encoder_attention_heads=shape.heads,
        max_positions=shape.maximum_tokens,
        token_dropout=True,
        **{_PROVENANCE: _provenance_text(provenance)},
    )


def _provenance_text(provenance: Provenance) -> str:
    content = {"rare_residues": provenance.rare_residues, **provenance.details}
    return json.dumps(content, ensure_ascii=False)


def _state(encoder: Encoder, provenance: Provenance) -> dict[str, Tensor]:
    state = released_state(encoder, provenance)
    state[_PROJECTION] = state["embed_tokens.weight"]  # tied: stored once
    return {_raw_name(name): tensor for name, tensor in state.items()}


def _regression(shape: EncoderShape, contact_head: ContactHead | None) -> dict[str, Tensor]:
    channels = shape.layers * shape.heads
    weight, bias = torch.zeros(1, channels), torch.zeros(1)
    if contact_head is not None and contact_head.is_fitted:
        weight = contact_head.coefficients.reshape(1, channels).clone()
        bias = contact_head.intercept.reshape(1).clone()
    return dict(zip(_REGRESSION_NAMES, (weight, bias), strict=True))


def _save(content: dict[str, Any], path: Path) -> None:
    # To a stream: given a path, torch.save writes its name into the file.
    with path.open("wb") as stream:
        torch.save(content, stream)
