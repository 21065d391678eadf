from dataclasses import replace

import pytest

from esm1b.errors import UserError
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.planning.gpus import (
    GPUS,
    find_gpu,
    flops_per_token,
    gpu_of_device,
    model_flops_utilisation,
)

ESM1B = EncoderShape()
SMALL = EncoderShape(layers=2, width=16, heads=2, feed_forward=32, maximum_tokens=64)


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
    assert len({gpu.name.lower() for gpu in GPUS}) == len(GPUS)
    with pytest.raises(UserError, match=r"^--gpu: 'TPU'; expected one of V100, .*H200, B200$"):
        find_gpu("TPU")


def test_operations_of_a_token() -> None:
    # 652,358,433 parameters, less tables of (33 + 1026) x 1280, and once more 33 x 1280 of the
    # projection: 651,045,153 weights, each 6 times; attention 12 x 33 x 1280 = 506,880 a position.
    assert flops_per_token(ESM1B, 0) == 6 * 651_045_153
    assert flops_per_token(ESM1B, 1024) == 3_906_270_918 + 506_880 * 1024
    assert flops_per_token(ESM1B, 1024) / 1e9 == pytest.approx(4.43, abs=0.005)
    assert flops_per_token(ESM1B, 450) / 1e9 == pytest.approx(4.13, abs=0.005)
    # without the table of positions and the layer norm before the layers
    esm2 = replace(ESM1B, positions="rotary", layer_norm_before=False)
    assert flops_per_token(esm2, 1024) == flops_per_token(ESM1B, 1024) - 6 * 2 * 1280
    # 6,433 parameters, tables (33 + 66) x 16 = 1,584, projection 528: 5,377 weights.
    assert flops_per_token(SMALL, 10) == 6 * 5377 + 12 * 2 * 16 * 10


def test_utilisation_is_against_the_peak_of_all_gpus() -> None:
    def of(gpu_name: str, gpus: int, **changed: object) -> float | None:
        return model_flops_utilisation(
            ESM1B,
            tokens_per_second=120_000,
            weighted_mean_length=450,
            gpu_name=gpu_name,
            gpus=gpus,
            **changed,  # type: ignore[arg-type]
        )

    # 120,000 x 4,134,366,918 = 4.961e14 operations a second
    assert of("NVIDIA H200", 1) == pytest.approx(4.96124e14 / 989e12, rel=1e-5)
    assert of("NVIDIA H200", 4) == pytest.approx(4.96124e14 / 4 / 989e12, rel=1e-5)
    assert of("NVIDIA A100-SXM4-80GB", 8) == pytest.approx(4.96124e14 / 8 / 312e12, rel=1e-5)
    assert of("NVIDIA H200", 1, precision="fp32") == pytest.approx(4.96124e14 / 67e12, rel=1e-5)
    assert of("NVIDIA B200", 1, precision="fp32") is None
    assert of("Some new GPU", 1) is None
