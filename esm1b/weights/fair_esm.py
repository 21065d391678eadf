"""Released files of fair-esm: `NAME.pt` with `NAME-contact-regression.pt` beside it.

ESM-1b and ESM-1v have their settings under `args`, ESM-2 under `cfg`, `model`.
Reference: facebookresearch/esm, `esm/pretrained.py`. The names of our tensors are fair-esm's own;
in the file they have the prefixes that fairseq gave them.
"""

import json
import logging
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from esm1b.errors import UserError
from esm1b.model.layers import ContactHead
from esm1b.model.shape import EncoderShape
from esm1b.outputs import atomic_files
from esm1b.weights.provenance import Provenance
from esm1b.weights.state import FileTensors, TrainedModel, read_shape, read_torch_file, verify_copy

_log = logging.getLogger(__name__)

_ARCHITECTURE: Final = "roberta_large"
_OTHER_ARCHITECTURES: Final = {
    "protein_bert_base": "ESM-1",
    "msa_transformer": "MSA Transformer",
    "vt_medium_with_invariant_gvp": "ESM-IF1",
}
_EXPECTED: Final = f'expected ESM-1b or ESM-1v (args.arch "{_ARCHITECTURE}"), or ESM-2 (cfg.model)'

_MODEL_CONFIG: Final = "cfg.model"
_PREFIX: Final = "encoder.sentence_encoder."
_EMBEDDING: Final = "embed_tokens.weight"
_PROJECTION: Final = "lm_head.weight"
_REGRESSION: Final = "contact_head.regression"
_FREQUENCIES: Final = f"{_PREFIX}layers.{{}}.self_attn.rot_emb.inv_freq"
# Arguments of the sizes as files have them; fair-esm drops the prefix when it loads one.
_SIZES: Final = {
    "layers": "encoder_layers",
    "width": "encoder_embed_dim",
    "feed_forward": "encoder_ffn_embed_dim",
    "heads": "encoder_attention_heads",
    "maximum_tokens": "max_positions",
}
# fair-esm asks no file of an ESM-2 for these two.
_FEED_FORWARD_WIDTHS: Final = 4
_MAXIMUM_TOKENS: Final = 1024
# Our own entry among the arguments, which fair-esm ignores: the provenance as JSON.
_PROVENANCE: Final = "esm1b"


def fair_esm_file(shape: EncoderShape) -> str | None:
    """Return a name from which fair-esm loads a network, None if it has none of this shape."""
    if not shape.is_rotary:
        return "model.pt"
    is_known = shape.feed_forward == _FEED_FORWARD_WIDTHS * shape.width
    return "esm2.pt" if is_known and not shape.layer_norm_before else None


def read_fair_esm(path: Path) -> TrainedModel:
    """Read a released ESM-1b, ESM-1v or ESM-2, float32, in evaluation mode.

    The contact head comes from `NAME-contact-regression.pt` if that file exists.

    Raises:
        UserError: a file is missing or damaged, is of another model, holds anything besides tensors
            and arguments (none of which is run), or its tensors do not fit its arguments.
    """
    return _read(path, _regression_file(path))


def write_fair_esm(path: Path, model: TrainedModel) -> None:
    """Write `NAME.pt` and `NAME-contact-regression.pt`, which fair-esm 2.0.0 loads strictly.

    fair-esm insists on the second file, so without a contact head its regression is zero. Both are
    read back and compared before they get their names. The same input gives the same bytes.
    Whoever calls this owns `path` (`esm1b.outputs`).

    Raises:
        UserError: fair-esm would not load the model, or not from a file of this name.
        RuntimeError: the copy that was read back differs.
    """
    shape = model.encoder.shape
    if path.suffix != ".pt" or path.name.startswith("esm2") != shape.is_rotary:
        raise UserError(
            f"{path}: fair-esm loads no {shape.name} from a file of this name; expected one that "
            f"ends in .pt and {'begins' if shape.is_rotary else 'does not begin'} with esm2"
        )
    if fair_esm_file(shape) is None:
        raise UserError(
            f"{path}: fair-esm has no ESM-2 of {shape}; expected a feed-forward width of "
            f"{_FEED_FORWARD_WIDTHS} x {shape.width} and no layer norm before the layers"
        )
    if path.is_dir():
        raise UserError(f"{path}: is a directory; expected a file to write to")
    regression = _regression_file(path)
    if model.contact_head is None:
        _log.info("%s: no contact head is fitted, so the regression is zero", regression)
    elif "esm1v" in path.name:
        _log.info("%s: fair-esm reads no regression for names with esm1v", path)
    state = model.state()
    state[_PROJECTION] = state[_EMBEDDING]  # tied: stored once
    # fair-esm asks for attributes. Of a Namespace, which released files have, torch.load allows
    # none; of this class it does.
    arguments: OrderedDict[str, Any] = OrderedDict()
    vars(arguments).update(
        **({} if shape.is_rotary else {"arch": _ARCHITECTURE}),
        **{key: getattr(shape, ours) for ours, key in _SIZES.items()},
        token_dropout=True,
        **{_PROVENANCE: model.provenance.as_json()},
    )
    described = {"cfg": {"model": arguments}} if shape.is_rotary else {"args": arguments}
    tensors = {_name_in_file(name): tensor for name, tensor in state.items()}
    tensors |= model.frequencies(_FREQUENCIES)
    with atomic_files(path, regression) as (model_file, regression_file):
        # To a stream: given a path, torch.save writes its name into the file.
        with model_file.open("wb") as stream:
            torch.save({**described, "model": tensors}, stream)
        with regression_file.open("wb") as stream:
            torch.save({"model": model.regression(_REGRESSION)}, stream)
        verify_copy(_read(model_file, regression_file), model, path)


def _regression_file(path: Path) -> Path:
    return path.with_name(f"{path.stem}-contact-regression.pt")


def _read(path: Path, regression_file: Path) -> TrainedModel:
    content = read_torch_file(path, allowed=[Namespace])
    tensors = _tensors(path, content)
    where, settings = _checked_arguments(path, content)
    shape = _shape(path, where, settings, {name.removeprefix(_PREFIX) for name in tensors})
    name_in_file = _name_in_file if any(name.startswith(_PREFIX) for name in tensors) else str
    file = FileTensors(tensors=tensors, source=path, described_by=where)
    encoder = file.encoder(file.with_positions(shape), name_in_file)
    file.check_tied(name_in_file(_PROJECTION), name_in_file(_EMBEDDING))
    known = {*map(name_in_file, encoder.state_dict()), name_in_file(_PROJECTION)}
    if shape.is_rotary:
        known |= file.frequencies()
    others = {name: tensor for name, tensor in tensors.items() if name not in known}
    return TrainedModel(
        encoder=encoder,
        contact_head=_contact_head(shape, others, path, regression_file),
        provenance=_provenance(f"{path}: {where}.{_PROVENANCE}", settings.get(_PROVENANCE)),
    )


def _contact_head(
    shape: EncoderShape, others: Mapping[str, Any], path: Path, regression_file: Path
) -> ContactHead | None:
    """Return the regression of its own file, or of `others`, the model's other tensors."""
    regression_names = {f"{_REGRESSION}.weight", f"{_REGRESSION}.bias"}
    if unknown := [name for name in others if name not in regression_names]:
        raise UserError(
            f"{path}: has the tensor {unknown[0]!r}, which is none of its args; {_EXPECTED}"
        )
    if regression_file.exists():  # first, as in fair-esm
        path, others = regression_file, _tensors(regression_file, read_torch_file(regression_file))
    elif not others:
        return None
    file = FileTensors(tensors=others, source=path, described_by="the model's args")
    return file.contact_head(shape, _REGRESSION)


def _tensors(path: Path, content: Any) -> dict[str, Any]:
    tensors = content.get("model") if isinstance(content, dict) else None
    if not isinstance(tensors, Mapping) or not all(isinstance(name, str) for name in tensors):
        raise UserError(f"{path}: has no tensors by name under model; expected a file of fair-esm")
    return dict(tensors)


def _checked_arguments(path: Path, content: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return where the settings are in the file, `args` or `cfg.model`, and the settings."""
    where, arguments = "args", content.get("args")
    config = content.get("cfg")
    if arguments is None and config is not None:
        where, arguments = _MODEL_CONFIG, config.get("model") if isinstance(config, dict) else None
    if not isinstance(arguments, Namespace | OrderedDict):
        found = "missing" if arguments is None else f"a {type(arguments).__name__}"
        raise UserError(f"{path}: {where} is {found}; expected an argparse.Namespace")
    settings = dict(vars(arguments))
    architecture, dropout = settings.get("arch"), settings.get("token_dropout")
    if where != _MODEL_CONFIG and architecture != _ARCHITECTURE:
        other = _OTHER_ARCHITECTURES.get(str(architecture))
        raise UserError(
            f"{path}: args.arch is {architecture!r}{f' ({other})' if other else ''}; {_EXPECTED}"
        )
    if dropout is not True:
        raise UserError(f"{path}: {where}.token_dropout is {dropout!r}; expected True")
    if where == _MODEL_CONFIG:
        settings.setdefault(_SIZES["maximum_tokens"], _MAXIMUM_TOKENS)
        if type(width := settings.get(_SIZES["width"])) is int:
            settings.setdefault(_SIZES["feed_forward"], _FEED_FORWARD_WIDTHS * width)
    return where, settings


def _shape(path: Path, where: str, settings: Mapping[str, Any], names: set[str]) -> EncoderShape:
    """Return the shape that the settings describe; `names` are the tensors', without a prefix."""
    keys = {
        ours: key if key in settings else key.removeprefix("encoder_")
        for ours, key in _SIZES.items()
    }
    is_rotary = where == _MODEL_CONFIG
    shape = read_shape(
        settings,
        keys,
        layer_norm_before=not is_rotary
        and any(name.startswith("emb_layer_norm_before.") for name in names),
        positions="rotary" if is_rotary else "learned",
        source=f"{path}: {where}.",
    )
    layers = len({name.split(".")[1] for name in names if name.startswith("layers.")})
    if layers != shape.layers:
        raise UserError(
            f"{path}: has the tensors of {layers} layers; "
            f"expected {shape.layers} from {where}.{keys['layers']}"
        )
    return shape


def _provenance(source: str, text: Any) -> Provenance:
    if text is None:
        return Provenance()
    try:
        content = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{source} is {str(text)[:60]!r}; expected the JSON text that export writes"
        ) from error
    return Provenance.parse(content, source)


def _name_in_file(name: str) -> str:
    return f"encoder.{name}" if name.startswith("lm_head.") else f"{_PREFIX}{name}"
