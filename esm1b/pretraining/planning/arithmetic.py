"""What training costs in floating point operations, and what share of a GPU's peak it uses."""

from esm1b.alphabet import TOKENS
from esm1b.config import TrainingPrecision
from esm1b.model.shape import EncoderShape
from esm1b.pretraining.planning.gpus import gpu_of_device


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

    Args:
        shape: shape of the network.
        tokens_per_second: rate of all GPUs together, without padding and filler.
        weighted_mean_length: sum of squared lengths over the sum of lengths, in tokens.
        gpu_name: device name that CUDA reports; None on CPU.
        gpus: number of GPUs.
        precision: number format of the multiplications.
    """
    gpu = gpu_of_device(gpu_name or "")
    peak = None if gpu is None else gpu.peak_flops(precision)
    if peak is None:
        return None
    return tokens_per_second * flops_per_token(shape, weighted_mean_length) / (gpus * peak)
