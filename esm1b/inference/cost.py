"""What a job takes, told before it begins."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from tqdm import tqdm

_log = logging.getLogger(__name__)

# Fewer batches than this are soon done, and the estimate takes one.
_LEAST_TO_ESTIMATE: Final = 10


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Number of passes of a network, and of tokens in all of them."""

    passes: int
    tokens: int

    def tell(
        self,
        source: str,
        batch: Sequence[Any],
        tokens: int,
        run: Callable[[Sequence[Any]], object],
        *,
        done: int = 0,
    ) -> None:
        """Log the size of the work and, from the time of one batch, how long the rest takes.

        Args:
            source: name of the work for the message.
            batch: some of the passes.
            tokens: number of tokens in them.
            run: function that runs passes.
            done: number of passes that are finished.
        """
        time = ""
        if batch and self.tokens >= _LEAST_TO_ESTIMATE * tokens:
            run(batch[:1])  # the first call has other work to do
            began = perf_counter()
            run(batch)
            seconds = (perf_counter() - began) * self.tokens / tokens * (1 - done / self.passes)
            time = f"; about {tqdm.format_interval(seconds)}"
        _log.info(
            "%s: %s passes of the network, %s tokens%s",
            source,
            f"{self.passes:,}",
            f"{self.tokens:,}",
            time,
        )
