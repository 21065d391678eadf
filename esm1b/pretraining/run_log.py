"""What a run says, kept beside its checkpoints.

A scheduler or Snakemake may delete the log of a job when it starts again; this one only grows.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from esm1b.errors import Ending

LOG_FILE: Final = "log.txt"
"""Name in the directory of the checkpoints."""


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append what is logged within the block to a file as well, and the error that ends it."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except BaseException as error:
        trace = None if isinstance(error, Ending) else (type(error), error, error.__traceback__)
        text = str(error) or type(error).__name__
        handler.handle(
            root.makeRecord(root.name, logging.ERROR, __file__, 0, text, (), exc_info=trace)
        )
        raise
    finally:
        root.removeHandler(handler)
        handler.close()
