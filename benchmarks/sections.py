"""Division of the trainer's time: network, DeepSpeed, data, agreement, logging."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import wraps
from time import perf_counter, process_time
from typing import Any, Final, ParamSpec, TypeVar
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

from esm1b.batches.micro_batch import MicroBatch
from esm1b.batches.stream import UpdateStream
from esm1b.model.encoder import Encoder
from esm1b.pretraining.distributed.collectives import Agreement
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.losses import masked_losses
from esm1b.pretraining.metrics.monitor import Monitor

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

NETWORK: Final = ("forward", "backward", "adam")
"""Sections that training needs with any trainer."""


class Sections:
    """Time of a thread by section; outside of all sections it counts as `loop`.

    In nested sections, time counts in the innermost one alone.

    Attributes:
        seconds: elapsed seconds by section.
        cpu_seconds: processor seconds of all threads of the process, by section.
    """

    def __init__(self) -> None:
        self._open = ["loop"]
        self.restart()

    def restart(self) -> None:
        """Set all times to zero and start counting now."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cpu_seconds: defaultdict[str, float] = defaultdict(float)
        self.skip()

    def skip(self) -> None:
        """Discard the time since the last count."""
        self._since = (perf_counter(), process_time())

    def count(self) -> None:
        """Add the time since the last count to the current section."""
        now = (perf_counter(), process_time())
        self.seconds[self._open[-1]] += now[0] - self._since[0]
        self.cpu_seconds[self._open[-1]] += now[1] - self._since[1]
        self._since = now

    def within(
        self, name: str, function: Callable[_Arguments, _Result]
    ) -> Callable[_Arguments, _Result]:
        """Return `function` timed as the section `name`."""

        @wraps(function)
        def timed(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
            self.count()
            self._open.append(name)
            try:
                return function(*arguments, **options)
            finally:
                self.count()
                self._open.pop()

        return timed


def divide_trainer(sections: Sections) -> None:
    """Patch the trainer's functions in this process, permanently, so that sections time them.

    Call this before the trainer is built. The network's sections are `forward` (the encoder and the
    cross-entropy), `backward` (autograd) and `adam` (the step of torch's AdamW). The others:

    - `deepspeed`: rest of its engine's forward, backward and step;
    - `deepspeed_in_backward`: DeepSpeed's hook for each gradient that autograd produces;
    - `layout`: conversion of arrays to packed tokens, and the count of correct predictions;
    - `engine`: norm of the gradient, and sums of losses;
    - `data_wait`: wait for the next update's batches;
    - `agreement`: start and end of the sums over processes;
    - `monitor`: metrics.jsonl, TensorBoard, log lines, and the progress bar.
    """
    from deepspeed.runtime.engine import DeepSpeedEngine

    functions: dict[str, list[tuple[Any, str]]] = {
        "forward": [(Encoder, "forward"), (functional, "cross_entropy")],
        "backward": [(Tensor, "backward")],
        "adam": [(torch.optim.AdamW, "step")],
        "deepspeed": [(DeepSpeedEngine, name) for name in ("forward", "backward", "step")],
        "engine": [(Engine, "update")],
        "agreement": [(Agreement, "start"), (Agreement, "finish")],
        "monitor": [(Monitor, "advance"), (Monitor, "write")],
    }
    for section, members in functions.items():
        for owner, name in members:
            patch.object(owner, name, sections.within(section, getattr(owner, name))).start()
    layout = sections.within("layout", masked_losses)
    patch("esm1b.pretraining.engine.deepspeed_engine.masked_losses", layout).start()

    updates = UpdateStream.updates

    def following(prepared: Iterator[list[MicroBatch]]) -> list[MicroBatch] | None:
        return next(prepared, None)

    timed_following = sections.within("data_wait", following)

    def timed_updates(stream: UpdateStream, first: int, last: int) -> Iterator[list[MicroBatch]]:
        prepared = updates(stream, first, last)
        while (batches := timed_following(prepared)) is not None:
            yield batches

    patch.object(UpdateStream, "updates", timed_updates).start()

    add_hook: Callable[..., Any] = Tensor.register_post_accumulate_grad_hook

    def add_timed_hook(tensor: Tensor, hook: Callable[[Tensor], None]) -> Any:
        return add_hook(tensor, sections.within("deepspeed_in_backward", hook))

    patch.object(Tensor, "register_post_accumulate_grad_hook", add_timed_hook).start()
