"""What bf16 would gain on this CPU."""

import logging
from typing import Final

import torch

_log = logging.getLogger(__name__)

# Instructions that multiply in bf16, by what tells them, and what they gain. That of AMX was
# measured on an Intel Xeon, from 6 layers x 320 to 33 x 1280.
_INSTRUCTIONS: Final = {
    "_is_amx_tile_supported": ("AMX", "2.3 to 4.3 x as fast"),
    "_is_avx512_bf16_supported": ("AVX512-BF16", "faster"),
}


def tell_gain_of_bf16() -> None:
    """Log, where this CPU multiplies in bf16, that a network in fp32 would gain from that."""
    for name, (instructions, gain) in _INSTRUCTIONS.items():
        if getattr(torch.cpu, name, bool)():  # private: a release of PyTorch may lack it
            _log.info(
                "precision: fp32; this CPU has %s, with which --precision bf16 is %s",
                instructions,
                gain,
            )
            return
