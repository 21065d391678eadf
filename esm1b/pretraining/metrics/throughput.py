"""How fast a run is, and what of the machine it uses."""

import resource
import time

import numpy as np
import torch
from numpy.typing import NDArray

from esm1b.config import Config
from esm1b.pretraining.planning.arithmetic import model_flops_utilisation
from esm1b.pretraining.planning.data import length_statistics

# Lengths looked at for their weighted mean; shards hold random shares of the corpus.
_SAMPLE = 1_000_000


class Throughput:
    """Counts tokens and seconds since it was last asked or started anew.

    Args:
        config: of the run.
        lengths: int32 `[sequences]`, residues of the training sequences.
        device: of this process.
        processes: of the run.
    """

    def __init__(
        self, config: Config, lengths: NDArray[np.int32], device: torch.device, processes: int
    ) -> None:
        self._shape = config.model.shape()
        self._precision = config.pretraining.precision
        self._weighted_mean_length = length_statistics(
            lengths[:_SAMPLE], crop_residues=config.pretraining.crop_residues
        ).weighted_mean_length
        self._device = device
        self._gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        self._processes = processes
        self.restart()

    def restart(self) -> None:
        """Forget what was counted, after work that is no training."""
        self._started = time.perf_counter()
        self._tokens = self._padded = 0

    def add(self, *, tokens: int, padded: int) -> None:
        """Count the tokens of an update over all processes, without and with fillers."""
        self._tokens += tokens
        self._padded += padded

    def values(self) -> dict[str, float | int | None]:
        """Return the rates, and the utilisation of the GPUs."""
        seconds = time.perf_counter() - self._started
        tokens_per_second = self._tokens / seconds
        utilisation = None
        if self._gpu is not None:
            utilisation = model_flops_utilisation(
                self._shape,
                tokens_per_second=tokens_per_second,
                weighted_mean_length=self._weighted_mean_length,
                gpu_name=self._gpu,
                gpus=self._processes,
                precision=self._precision,
            )
        values = {
            "tokens_per_second": tokens_per_second,
            "padded_tokens_per_second": self._padded / seconds,
            "model_flops_utilisation": utilisation,
        }
        self.restart()
        return values

    def memory_gib(self) -> float:
        """Return the most that this process took so far: of its GPU, or resident without one."""
        if self._gpu is not None:
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # given in KiB
