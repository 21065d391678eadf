"""Floating point operations: how many training takes, and how many a GPU can do, by its name.

Peaks are dense, without sparsity, as the vendor states them; where a data sheet gives the number
with sparsity, it is halved. Only GPUs whose figures are published by NVIDIA are listed.
"""

import re
from dataclasses import dataclass
from typing import Final

from esm1b.alphabet import TOKENS
from esm1b.config import TrainingPrecision
from esm1b.errors import UserError
from esm1b.model.shape import EncoderShape


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: value of `--gpu`.
        tensor_flops: operations a second of the tensor cores in fp16 and bf16, summed in fp32.
        fp32_flops: operations a second in float32, without TF32; None where it is not listed.
        memory_bytes: memory, about, as CUDA reports it: less than the data sheet says.
        device: regular expression for the whole name that CUDA reports; a part of a GPU, or its
            relative of another size, does not match.
        nvlink_bytes: bytes a second in each direction between any two of a node, by NVLink; None
            where there is none, or only bridges between pairs.
        source: publication that states `tensor_flops` and the rate of NVLink.
    """

    name: str
    tensor_flops: float
    fp32_flops: float | None
    memory_bytes: int
    device: str
    nvlink_bytes: float | None
    source: str

    def peak_flops(self, precision: TrainingPrecision) -> float | None:
        """Return operations a second; on a GPU without bf16, fp16 is counted instead."""
        return self.fp32_flops if precision == "fp32" else self.tensor_flops


# name: tensor_flops, fp32_flops, memory in GiB, device
_FIGURES: Final[dict[str, tuple[float, float | None, float, str]]] = {
    "V100": (125e12, 15.7e12, 31.7, r"Tesla V100-SXM[23]-32GB(-LS)?"),
    "V100-16GB": (125e12, 15.7e12, 15.7, r"Tesla V100-SXM2-16GB"),
    "A10": (125e12, 31.2e12, 22.0, r"NVIDIA A10"),
    "A40": (149.7e12, 37.4e12, 44.3, r"NVIDIA A40"),
    "A100": (312e12, 19.5e12, 79.1, r"NVIDIA A100(-SXM4-80GB| 80GB PCIe)"),
    "A100-40GB": (312e12, 19.5e12, 39.3, r"(NVIDIA )?A100-(SXM4|PCIE)-40GB"),
    "L4": (121e12, 30.3e12, 22.0, r"NVIDIA L4"),
    "L40S": (362.05e12, 91.6e12, 44.3, r"NVIDIA L40S"),
    "RTX3090": (71e12, 35.6e12, 23.6, r"NVIDIA GeForce RTX 3090"),
    "RTX4090": (165.2e12, 82.6e12, 23.5, r"NVIDIA GeForce RTX 4090"),
    "H100": (989e12, 67e12, 79.1, r"NVIDIA H100 80GB HBM3"),
    "H100-PCIe": (756e12, 51e12, 79.1, r"NVIDIA H100 PCIe"),
    "H100-NVL": (835e12, 60e12, 93.1, r"NVIDIA H100 NVL"),
    "H200": (989e12, 67e12, 139.8, r"NVIDIA H200"),
    "B200": (2250e12, None, 178.3, r"NVIDIA B200"),
}
_SOURCES: Final = {
    "V100": "NVIDIA V100 data sheet, SXM2: 125 TFLOPS, fp16",
    "V100-16GB": "NVIDIA V100 data sheet, SXM2: 125 TFLOPS, fp16",
    "A10": "NVIDIA A10 data sheet: 125 TFLOPS",
    "A40": "NVIDIA A40 data sheet: 149.7 TFLOPS",
    "A100": "NVIDIA A100 data sheet: 312 TFLOPS",
    "A100-40GB": "NVIDIA A100 data sheet: 312 TFLOPS",
    "L4": "NVIDIA L4 data sheet: 242 TFLOPS with sparsity",
    "L40S": "NVIDIA L40S data sheet: 362.05 TFLOPS",
    "RTX3090": "NVIDIA Ampere GA102 white paper: 71 TFLOPS, sums in fp32",
    "RTX4090": "NVIDIA Ada white paper: 165.2 TFLOPS, sums in fp32",
    "H100": "NVIDIA H100 data sheet, SXM: 1,979 TFLOPS with sparsity",
    "H100-PCIe": "NVIDIA H100 PCIe data sheet: 1,513 TFLOPS with sparsity",
    "H100-NVL": "NVIDIA H100 data sheet, NVL: 1,671 TFLOPS with sparsity",
    "H200": "NVIDIA H200 data sheet, SXM: 1,979 TFLOPS with sparsity",
    "B200": "NVIDIA HGX B200 data sheet: 36 PFLOPS with sparsity for 8",
}

# Half of what the data sheets say, which counts both directions.
_NVLINK: Final = {
    **dict.fromkeys(("V100", "V100-16GB"), 150e9),
    **dict.fromkeys(("A100", "A100-40GB"), 300e9),
    **dict.fromkeys(("H100", "H200"), 450e9),
    "B200": 900e9,
}

GPUS: Final = tuple(
    Gpu(
        name=name,
        tensor_flops=tensor,
        fp32_flops=fp32,
        memory_bytes=int(gib * 2**30),
        device=device,
        nvlink_bytes=_NVLINK.get(name),
        source=_SOURCES[name],
    )
    for name, (tensor, fp32, gib, device) in _FIGURES.items()
)


def find_gpu(name: str) -> Gpu:
    """Return the GPU of a name, in small or capital letters.

    Raises:
        UserError: no GPU of this name is listed; the message has the names.
    """
    for gpu in GPUS:
        if gpu.name.lower() == name.lower():
            return gpu
    raise UserError(f"--gpu: {name!r}; expected one of {', '.join(gpu.name for gpu in GPUS)}")


def gpu_of_device(device_name: str) -> Gpu | None:
    """Return the GPU that CUDA calls `device_name`, None where its figures are not listed."""
    return next((gpu for gpu in GPUS if re.fullmatch(gpu.device, device_name)), None)


def flops_per_token(shape: EncoderShape, weighted_mean_length: float) -> float:
    """Return the operations of a forward and backward pass for a token.

    6 for each weight of the matrices (2 forward, 4 backward; multiply and add counted apart) and
    12 layers width s for attention scores and contexts, s being the length that a token sees on
    average: the sum of squared lengths over the sum of lengths. Embedding tables are looked up,
    not multiplied; the head is counted for every token, and nothing that is computed twice.

    esm1b_t33_650M_UR50S: 6 x 651.0 M + 12 x 33 x 1280 s, so 4.43 GFLOP at s = 1024 and 4.13 at 450.
    """
    tables = (len(TOKENS) + shape.position_rows) * shape.width
    projection = len(TOKENS) * shape.width  # the token table again, as the last matrix
    multiplied = shape.parameters() - tables + projection
    return 6 * multiplied + 12 * shape.layers * shape.width * weighted_mean_length


def model_flops_utilisation(
    shape: EncoderShape,
    *,
    tokens_per_second: float,
    weighted_mean_length: float,
    gpu_name: str | None,
    gpus: int,
    precision: TrainingPrecision = "bf16",
) -> float | None:
    """Return the share of the GPUs' peak that training used, None where the peak is not known.

    `tokens_per_second` is the rate of all GPUs together, without padding and filler; `gpu_name` the
    device name that CUDA reports, None on CPU. For `weighted_mean_length` see `flops_per_token`.
    """
    gpu = gpu_of_device(gpu_name or "")
    if gpu is None or (peak := gpu.peak_flops(precision)) is None:
        return None
    return tokens_per_second * flops_per_token(shape, weighted_mean_length) / (gpus * peak)
