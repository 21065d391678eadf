"""What the configuration decides about every update: order, batches, weights, learning rate."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from esm1b.batches.micro_batch import BatchRecipe
from esm1b.batches.order import SequenceOrder
from esm1b.config import Config, PretrainingConfig
from esm1b.errors import UserError
from esm1b.model.encoder import Encoder, initialise
from esm1b.weights.model_directory import ModelDirectory


def sequence_order(config: Config, lengths: NDArray[np.int32]) -> SequenceOrder:
    """Return the order of the training sequences; `lengths` `[sequences]` counts residues."""
    return SequenceOrder(
        lengths,
        crop_residues=config.pretraining.crop_residues,
        tokens_per_update=config.pretraining.tokens_per_update,
        seed=config.seed,
    )


def batch_recipe(config: Config) -> BatchRecipe:
    """Return how sequences become training batches."""
    return BatchRecipe(
        crop_residues=config.pretraining.crop_residues,
        append_eos=config.pretraining.append_eos,
        rare_residues=config.model.rare_residues,
        seed=config.seed,
    )


def set_initial_weights(encoder: Encoder, config: Config) -> None:
    """Give `encoder` the weights of `pretraining.init_from`, or else random ones.

    Raises:
        UserError: the model directory cannot be read, or its model has another shape.
    """
    source = config.pretraining.init_from
    if source is None:
        initialise(encoder, config.seed)
        return
    trained = ModelDirectory(Path(source)).read().encoder
    if trained.shape != encoder.shape:
        raise UserError(
            f"pretraining.init_from: {source} has {trained.shape}; expected {encoder.shape}, the "
            "shape of the configuration's model"
        )
    encoder.load_state_dict(trained.state_dict())


def learning_rate(recipe: PretrainingConfig, update: int) -> float:
    """Return the learning rate of `update`, counted from 1.

    Linear from 0 to the peak over the warmup, then peak x sqrt(warmup / update) (fairseq
    `optim/lr_scheduler/inverse_square_root_schedule.py`), or linear to a tenth of the peak at 90 %
    of the updates (Lin et al. 2023, supplement).
    """
    peak, warmup = recipe.learning_rate, recipe.warmup_updates
    if update <= warmup:
        return peak * update / warmup
    if recipe.learning_rate_decay == "linear":
        left = (0.9 * recipe.updates - update) / (0.9 * recipe.updates - warmup)
        return peak * (0.1 + 0.9 * max(left, 0.0))
    return peak * math.sqrt(warmup / update)
