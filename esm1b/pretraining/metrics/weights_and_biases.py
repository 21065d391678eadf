"""Metrics on Weights & Biases, where the user asks for it: one run there for all attempts."""

import importlib
import importlib.util
import json
import logging
import secrets
from collections.abc import Mapping
from concurrent.futures import wait
from pathlib import Path
from typing import Any, Final

from esm1b.errors import UserError, one_line
from esm1b.files import write_json
from esm1b.pretraining.distributed.rendezvous import in_thread

_log = logging.getLogger(__name__)

# The other processes wait meanwhile, but not forever.
_START_SECONDS: Final = 30
# Without a network the package would try for hours, and schedulers give a run that is to stop less.
_FINISH_SECONDS: Final = 10.0


def check_installed(project: str) -> None:
    """Check that the package is installed.

    Raises:
        UserError: the package is missing.
    """
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"Weights & Biases project {project!r}: the package wandb is not installed; expected "
            "the extra: pip install 'esm1b[wandb]'"
        )


class WeightsAndBiases:
    """A run on Weights & Biases.

    The run's id is kept in `wandb.json`, so that later attempts continue the same run. Updates that
    an attempt repeats appear twice: the axis is the update, not the order of arrival. The
    account, the server and whether to be offline follow from wandb's own settings. All methods may
    raise anything that wandb raises.

    Raises:
        UserError: the package is not installed, or nobody is logged in.
    """

    def __init__(self, directory: Path, project: str) -> None:
        check_installed(project)
        wandb: Any = importlib.import_module("wandb")
        try:
            self._run: Any = wandb.init(
                project=project,
                id=_run_id(directory / "wandb.json", project),
                name=directory.name,
                dir=str(directory),
                resume="allow",
                settings={"init_timeout": _START_SECONDS},
            )
            self._run.define_metric("*", step_metric="update")
        except wandb.errors.UsageError as error:
            raise UserError(f"Weights & Biases project {project!r}: {one_line(error)}") from error

    def write(self, update: int, values: Mapping[str, float | int]) -> None:
        """Send the values of an update."""
        self._run.log({"update": update, **values})

    def close(self) -> None:
        """End this attempt's part of the run; wait a little for values that are not sent yet."""
        finishing = in_thread(self._run.finish)
        if wait([finishing], timeout=_FINISH_SECONDS).done:
            finishing.result()
        else:
            _log.warning("Weights & Biases: not all is sent; wandb sync sends what is missing")


def _run_id(path: Path, project: str) -> str:
    """Return the id kept at `path`, or a new one where there is none for this project."""
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        kept = {}
    if kept.get("project") != project:
        kept = {"project": project, "id": secrets.token_hex(8)}
        write_json(path, kept)
    return str(kept["id"])
