"""Files that `torch.save` wrote, read without running anything that is in them."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from zipfile import is_zipfile

import torch

from esm1b.errors import UserError

# A pickle can name any function of any module. PyTorch's own reader of weights knows tensors and
# plain containers, refuses the rest by name and says so in this form.
_REFUSED: Final = re.compile(r"GLOBAL (\S+)")


def read_torch_file(path: Path, *, allowed: Sequence[type] = ()) -> Any:
    """Return the content of a file, tensors on the CPU and mapped from the file where they can be.

    Args:
        path: what `torch.save` wrote: a zip archive, or the older plain pickle.
        allowed: classes that may occur in it beside tensors, numbers, texts and containers.

    Raises:
        UserError: the file is missing, damaged or no such file, or it names anything else, which
            is then neither imported nor run.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    others = torch.serialization.get_safe_globals()  # what libraries have allowed for themselves
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(list(allowed)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about old pickle protocols and storages
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # damaged bytes raise almost anything
        refused = _REFUSED.search(str(error))
        if refused is None:
            raise UserError(
                f"{path}: is cut short, damaged, or not of this kind; "
                "expected a file that torch.save wrote"
            ) from error
        names = ", ".join(["tensors", *(f"{kind.__module__}.{kind.__name__}" for kind in allowed)])
        raise UserError(
            f"{path}: its pickle names {refused[1].rstrip('.,')}, which was not run; "
            f"expected {names} and plain values only"
        ) from error
    finally:
        torch.serialization.add_safe_globals(others)
