"""The weights that a run starts from."""

from pathlib import Path

from esm1b.config import Config
from esm1b.errors import UserError
from esm1b.model.encoder import Encoder, initialise
from esm1b.weights.model_directory import ModelDirectory


def set_initial_weights(encoder: Encoder, config: Config) -> None:
    """Give `encoder` the weights of `pretraining.init_from`, or those that the seed draws.

    Raises:
        UserError: the model directory cannot be read or is of another shape.
    """
    source = config.pretraining.init_from
    if source is None:
        initialise(encoder, config.seed)
        return
    trained = ModelDirectory(Path(source)).read().encoder
    if trained.shape != encoder.shape:
        raise UserError(
            f"pretraining.init_from: {source} has {trained.shape}; expected {encoder.shape}, as "
            "in the configuration's model"
        )
    encoder.load_state_dict(trained.state_dict())
