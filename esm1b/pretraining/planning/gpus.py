"""GPUs by name: how fast they multiply, and how much memory they have.

Peaks are dense, without sparsity, as the vendor states them; where a data sheet gives the number
with sparsity, it is halved. Only GPUs whose figures are published by NVIDIA are listed.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from esm1b.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: what `--gpu` takes.
        tensor_flops: operations a second of the tensor cores in fp16 and bf16, summed in fp32.
        fp32_flops: operations a second in float32, without TF32; None where it is not listed.
        memory_gib: memory in GiB, about, as CUDA reports it: below the rounded figure of the data
            sheet, and without what error correction takes.
        device: regular expression of the whole name that CUDA reports; a part of a GPU, or its
            relative of another size, does not match.
        source: of `tensor_flops`.
        has_bf16: whether the tensor cores take bf16.
    """

    name: str
    tensor_flops: float
    fp32_flops: float | None
    memory_gib: float
    device: str
    source: str
    has_bf16: bool = True

    def peak_flops(self, precision: Precision) -> float | None:
        """Return operations a second; bf16 counts as fp16 where there is no bf16."""
        return self.fp32_flops if precision == "fp32" else self.tensor_flops

    @property
    def memory_bytes(self) -> int:
        """Memory in bytes."""
        return int(self.memory_gib * 2**30)


GPUS: Final = (
    Gpu(
        name="V100",
        tensor_flops=125e12,
        fp32_flops=15.7e12,
        memory_gib=31.7,
        device=r"Tesla V100-SXM[23]-32GB(-LS)?",
        source="NVIDIA V100 data sheet, SXM2: 125 TFLOPS, fp16",
        has_bf16=False,
    ),
    Gpu(
        name="V100-16GB",
        tensor_flops=125e12,
        fp32_flops=15.7e12,
        memory_gib=15.7,
        device=r"Tesla V100-SXM2-16GB",
        source="NVIDIA V100 data sheet, SXM2: 125 TFLOPS, fp16",
        has_bf16=False,
    ),
    Gpu(
        name="A10",
        tensor_flops=125e12,
        fp32_flops=31.2e12,
        memory_gib=22.0,
        device=r"NVIDIA A10",
        source="NVIDIA A10 data sheet: 125 TFLOPS",
    ),
    Gpu(
        name="A40",
        tensor_flops=149.7e12,
        fp32_flops=37.4e12,
        memory_gib=44.3,
        device=r"NVIDIA A40",
        source="NVIDIA A40 data sheet: 149.7 TFLOPS",
    ),
    Gpu(
        name="A100",
        tensor_flops=312e12,
        fp32_flops=19.5e12,
        memory_gib=79.1,
        device=r"NVIDIA A100(-SXM4-80GB| 80GB PCIe)",
        source="NVIDIA A100 data sheet: 312 TFLOPS",
    ),
    Gpu(
        name="A100-40GB",
        tensor_flops=312e12,
        fp32_flops=19.5e12,
        memory_gib=39.3,
        device=r"(NVIDIA )?A100-(SXM4|PCIE)-40GB",
        source="NVIDIA A100 data sheet: 312 TFLOPS",
    ),
    Gpu(
        name="L4",
        tensor_flops=121e12,
        fp32_flops=30.3e12,
        memory_gib=22.0,
        device=r"NVIDIA L4",
        source="NVIDIA L4 data sheet: 242 TFLOPS with sparsity",
    ),
    Gpu(
        name="L40S",
        tensor_flops=362.05e12,
        fp32_flops=91.6e12,
        memory_gib=44.3,
        device=r"NVIDIA L40S",
        source="NVIDIA L40S data sheet: 362.05 TFLOPS",
    ),
    Gpu(
        name="RTX3090",
        tensor_flops=71e12,
        fp32_flops=35.6e12,
        memory_gib=23.6,
        device=r"NVIDIA GeForce RTX 3090",
        source="NVIDIA Ampere GA102 white paper: 71 TFLOPS, sums in fp32",
    ),
    Gpu(
        name="RTX4090",
        tensor_flops=165.2e12,
        fp32_flops=82.6e12,
        memory_gib=23.5,
        device=r"NVIDIA GeForce RTX 4090",
        source="NVIDIA Ada white paper: 165.2 TFLOPS, sums in fp32",
    ),
    Gpu(
        name="H100",
        tensor_flops=989e12,
        fp32_flops=67e12,
        memory_gib=79.1,
        device=r"NVIDIA H100 80GB HBM3",
        source="NVIDIA H100 data sheet, SXM: 1,979 TFLOPS with sparsity",
    ),
    Gpu(
        name="H100-PCIe",
        tensor_flops=756e12,
        fp32_flops=51e12,
        memory_gib=79.1,
        device=r"NVIDIA H100 PCIe",
        source="NVIDIA H100 PCIe data sheet: 1,513 TFLOPS with sparsity",
    ),
    Gpu(
        name="H100-NVL",
        tensor_flops=835e12,
        fp32_flops=60e12,
        memory_gib=93.1,
        device=r"NVIDIA H100 NVL",
        source="NVIDIA H100 data sheet, NVL: 1,671 TFLOPS with sparsity",
    ),
    Gpu(
        name="H200",
        tensor_flops=989e12,
        fp32_flops=67e12,
        memory_gib=139.8,
        device=r"NVIDIA H200",
        source="NVIDIA H200 data sheet, SXM: 1,979 TFLOPS with sparsity",
    ),
    Gpu(
        name="B200",
        tensor_flops=2250e12,
        fp32_flops=None,
        memory_gib=178.3,
        device=r"NVIDIA B200",
        source="NVIDIA HGX B200 data sheet: 36 PFLOPS with sparsity for 8",
    ),
)


def find_gpu(name: str) -> Gpu:
    """Return the GPU that a user calls `name`; small and capital letters are the same.

    Raises:
        UserError: none is called so; with the names.
    """
    for gpu in GPUS:
        if gpu.name.lower() == name.lower():
            return gpu
    raise UserError(f"--gpu: {name!r}; expected one of {', '.join(gpu.name for gpu in GPUS)}")


def gpu_of_device(device_name: str) -> Gpu | None:
    """Return the GPU that CUDA calls `device_name`, None where its figures are not listed."""
    return next((gpu for gpu in GPUS if re.fullmatch(gpu.device, device_name)), None)
