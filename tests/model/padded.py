"""The same network over a padded batch, written as other implementations do."""

import torch
from torch import Tensor
from torch.nn import functional

from esm1b.alphabet import MASK, PAD
from esm1b.model.encoder import Encoder
from esm1b.model.layers import EncoderLayer


def padded_logits(encoder: Encoder, tokens: Tensor) -> Tensor:
    """Return logits `[batch, length, 33]` of `tokens` `[batch, length]`, padded on the right."""
    inside, is_mask = tokens != PAD, tokens == MASK
    masked_share = is_mask.sum(1).double() / inside.sum(1)
    scale = (1 - 0.15 * 0.8) / (1 - masked_share)
    x = encoder.embed_tokens(tokens).masked_fill(is_mask[..., None], 0.0)
    x = x * scale.to(x.dtype)[:, None, None]
    places = torch.arange(tokens.shape[1])
    if encoder.embed_positions is not None:
        rows = (places + PAD + 1).clamp(max=encoder.shape.position_rows - 1)
        x = x + encoder.embed_positions(rows)
    x = encoder.emb_layer_norm_before(x)
    for layer in encoder.layers:
        assert isinstance(layer, EncoderLayer)
        attention, normed = layer.self_attn, layer.self_attn_layer_norm(x)
        query, key, value = (
            torch.unflatten(
                functional.linear(normed, projection.weight, projection.bias),
                -1,
                (encoder.shape.heads, -1),
            ).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        if encoder.shape.is_rotary:
            query, key = _turned(query, places), _turned(key, places)
        context = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=inside[:, None, None, :]
        )
        x = x + attention.out_proj(context.transpose(1, 2).flatten(2))
        x = x + layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(x))))
    logits: Tensor = encoder.lm_head(encoder.emb_layer_norm_after(x), encoder.embed_tokens.weight)
    return logits


def _turned(states: Tensor, places: Tensor) -> Tensor:
    """Return rotary `states` `[..., length, D]`, as complex numbers times e^(i angle)."""
    width = states.shape[-1]
    frequencies = 1.0 / 10_000 ** (torch.arange(0, width, 2).float() / width)
    angles = places[:, None].to(states.dtype) * frequencies.to(states.dtype)
    numbers = torch.complex(*states.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((numbers.real, numbers.imag), dim=-1)
