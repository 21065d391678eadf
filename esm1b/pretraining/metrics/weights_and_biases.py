"""Metrics on Weights & Biases, where the user asks for it: one run there for all attempts."""

import importlib
import importlib.util
import json
import logging
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from esm1b.errors import UserError
from esm1b.files import write_json

_log = logging.getLogger(__name__)

# The other processes wait meanwhile, which they do not for ever.
_MOST_SECONDS_TO_BEGIN: Final = 30
# Without a network the package would try for hours, and schedulers give a run that is to stop less.
_MOST_SECONDS_TO_FINISH: Final = 10.0


def check_installed(project: str) -> None:
    """Check that the package is there.

    Raises:
        UserError: it is not.
    """
    if importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"Weights & Biases project {project!r}: the package wandb is not installed; expected "
            "the extra: pip install 'esm1b[wandb]'"
        )


class WeightsAndBiases:
    """A run on Weights & Biases; what goes wrong there, or on the way, ends no training.

    The number of the run is kept in `wandb.json`, so that later attempts go on with it. Updates
    that an attempt repeats are there twice: the axis is the update, not the order of arrival.

    Args:
        directory: of the checkpoints.
        project: there; the account, the server and whether to be offline follow from wandb's own
            settings.

    Raises:
        UserError: the package is not installed, or nobody is logged in.
    """

    def __init__(self, directory: Path, project: str) -> None:
        check_installed(project)
        wandb: Any = importlib.import_module("wandb")
        self._run: Any = None
        try:
            self._run = wandb.init(
                project=project,
                id=_run_id(directory / "wandb.json", project),
                name=directory.name,
                dir=str(directory),
                resume="allow",
                settings={"init_timeout": _MOST_SECONDS_TO_BEGIN},
            )
            self._run.define_metric("*", step_metric="update")
        except wandb.errors.UsageError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"Weights & Biases project {project!r}: {reason}") from error
        except Exception as error:  # whatever it is, the run is worth more than its picture
            self._give_up(error)

    def write(self, update: int, values: Mapping[str, float | int | None]) -> None:
        """Send the values of an update; those that are None are left out."""
        if self._run is None:
            return
        shown = {name: value for name, value in values.items() if value is not None}
        try:
            self._run.log({"update": update, **shown})
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """End this attempt's part of the run; wait a little for what is not sent yet."""
        if self._run is None:
            return
        ending = threading.Thread(target=self._finish, daemon=True)
        ending.start()
        ending.join(_MOST_SECONDS_TO_FINISH)
        if ending.is_alive():
            _log.warning("Weights & Biases: not all is sent; wandb sync sends what is missing")

    def _finish(self) -> None:
        try:
            self._run.finish()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        _log.warning("Weights & Biases: %s; this attempt goes on without", error)


def _run_id(path: Path, project: str) -> str:
    """Return the number kept at `path`, or a new one where there is none for this project."""
    try:
        kept = json.loads(path.read_text())
    except (OSError, ValueError):
        kept = {}
    if kept.get("project") != project:
        kept = {"project": project, "id": secrets.token_hex(8)}
        write_json(path, kept)
    return str(kept["id"])
