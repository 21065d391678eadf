import pytest

from esm1b.errors import UserError
from esm1b.pretraining.planning.gpus import GPUS, find_gpu, gpu_of_device


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("Tesla V100-SXM2-32GB", "V100"),
        ("Tesla V100-SXM2-16GB", "V100-16GB"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100-40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
        # relatives of another size, and parts of a GPU
        ("NVIDIA L40", None),
        ("NVIDIA A10G", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Tesla V100-PCIE-16GB", None),
    ],
)
def test_gpus_by_what_cuda_calls_them(device: str, name: str | None) -> None:
    gpu = gpu_of_device(device)
    assert (gpu.name if gpu else None) == name


def test_gpus_by_name() -> None:
    assert find_gpu("h200").tensor_flops == 989e12
    assert find_gpu("V100").has_bf16 is False
    assert len({gpu.name.lower() for gpu in GPUS}) == len(GPUS)
    with pytest.raises(UserError, match=r"^--gpu: 'TPU'; expected one of V100, .*H200, B200$"):
        find_gpu("TPU")
