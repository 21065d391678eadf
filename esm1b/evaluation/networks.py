"""The networks of an evaluation: the trained one, and untrained ones to compare it with."""

from collections.abc import Iterator

from esm1b.inference.model import Model, untrained_model


def networks_of(model: Model, untrained: int, seed: int) -> Iterator[tuple[str, Model]]:
    """Yield `trained` and the model, then `untrained` and a network of its shape, several times.

    Untrained networks are made one at a time, to bound the memory, from `seed` and the numbers
    after it.
    """
    yield "trained", model
    for number in range(untrained):
        yield "untrained", untrained_model(model, seed + number)
