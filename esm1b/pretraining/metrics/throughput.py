"""How fast a run is, and what of the machine it uses."""

import resource
import time
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from esm1b.config import Config
from esm1b.pretraining.planning.data import length_statistics
from esm1b.pretraining.planning.gpus import model_flops_utilisation

# Lengths that count for their weighted mean; shards hold random shares of the corpus.
_SAMPLE = 1_000_000


class Throughput:
    """Counts tokens and seconds since the last question or restart.

    `lengths` are the residues of the training sequences, int32 `[sequences]`.
    """

    def __init__(
        self, config: Config, lengths: NDArray[np.int32], device: torch.device, processes: int
    ) -> None:
        self._device = device
        self._gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        crop = config.pretraining.crop_residues
        statistics = length_statistics(lengths[:_SAMPLE], crop_residues=crop)
        self._utilisation = partial(
            model_flops_utilisation,
            config.model.shape(),
            weighted_mean_length=statistics.weighted_mean_length,
            gpu_name=self._gpu,
            gpus=processes,
            precision=config.pretraining.precision,
        )
        self.restart()

    def restart(self) -> None:
        """Forget what was counted, after work other than training."""
        self._started = time.perf_counter()
        self._tokens = self._padded = 0

    def add(self, *, tokens: int, padded: int) -> None:
        """Count the tokens of an update over all processes, without and with fillers."""
        self._tokens += tokens
        self._padded += padded

    def values(self) -> dict[str, float | int | None]:
        """Return the rates, and the utilisation of the GPUs; restart."""
        seconds = time.perf_counter() - self._started
        rate, padded_rate = self._tokens / seconds, self._padded / seconds
        self.restart()
        return {
            "tokens_per_second": rate,
            "padded_tokens_per_second": padded_rate,
            "model_flops_utilisation": self._utilisation(tokens_per_second=rate),
        }

    def memory_gib(self) -> float:
        """Return the peak memory of this process: on its GPU, or resident without one."""
        if self._gpu is not None:
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # given in KiB
