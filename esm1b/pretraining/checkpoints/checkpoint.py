"""Loading a checkpoint, whole or not at all, under any number of processes.

One that fails its digests is passed over for the one before. On disk: see `files`; saving: `save`.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Final

from safetensors import safe_open

from esm1b.batches.packing import balance
from esm1b.errors import SharedUserError, UserError
from esm1b.pretraining.checkpoints.files import (
    StoredState,
    check_file,
    read_state,
    remove_leftovers,
    saved_checkpoints,
)
from esm1b.pretraining.checkpoints.run_identity import check_same_run, recorded_fingerprint
from esm1b.pretraining.distributed.collectives import ActionError, everywhere, on_first
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.engine.deepspeed_engine import Engine
from esm1b.pretraining.engine.zero_state import PARTS

# Files that a process checks at the same time; digests take most of the time.
_THREADS: Final = 4

_log = logging.getLogger(__name__)


def load_newest(directory: Path, engine: Engine, *, place: Place) -> StoredState | None:
    """Load the newest whole checkpoint and return its state; None if there is no checkpoint.

    Collective. A damaged one is passed over with a warning.

    Raises:
        UserError: all checkpoints are damaged, or the newest whole one belongs to another run.
    """
    on_first(lambda: remove_leftovers(directory), place)
    paths = on_first(lambda: list(saved_checkpoints(directory).values()), place)
    for path in reversed(paths):
        try:
            state = verified(path, engine, place)
        except (UserError, ActionError) as error:
            if place.rank == 0:
                _log.warning("%s: damaged, so the checkpoint before it is tried: %s", path, error)
            continue
        on_first(partial(_check_run, path, state), place)
        _load(path, state, engine)
        return state
    if paths:
        raise SharedUserError(
            f"{directory}: all {len(paths)} checkpoints are damaged; expected a whole one, or none "
            "to start from the beginning"
        )
    return None


def verified(path: Path, engine: Engine, place: Place) -> StoredState:
    """Return the state of a checkpoint after checking all its files, each in one process.

    Raises:
        UserError: some process found damage.
        ActionError: some process could not check its files.
    """
    state = on_first(lambda: _checked_state(path, engine), place)
    sizes = {file: stored.size for file, stored in state.files.items()}
    mine = shares(sizes, place.processes)[place.rank]

    def check_share() -> None:
        with ThreadPoolExecutor(max_workers=_THREADS) as executor:
            list(executor.map(lambda f: check_file(path / f, state.files[f], engine.shapes), mine))

    everywhere(check_share, place)
    return state


def shares(sizes: Mapping[str, int], count: int) -> list[list[str]]:
    """Return the names divided into `count` lists of about equal total size.

    The division depends on the sizes alone. Some lists are empty when there are fewer names.
    """
    names = sorted(sizes)
    return [[names[item] for item in group] for group in balance([sizes[n] for n in names], count)]


def _checked_state(path: Path, engine: Engine) -> StoredState:
    state = read_state(path)
    found = sorted((stored.part, name) for stored in state.files.values() for name in stored.names)
    expected = sorted((part, name) for part in PARTS for name in engine.shapes)
    if found != expected:
        part, name = (sorted(set(found) ^ set(expected)) or found)[0]
        raise UserError(
            f"{path}: {name} of {part} is missing, unknown or there twice; expected each of "
            f"{len(engine.shapes)} parameters once in each part"
        )
    return state


def _check_run(path: Path, state: StoredState) -> None:
    recorded = recorded_fingerprint(path.parent)
    if recorded is not None and state.run is not None:
        check_same_run(path, state.run, recorded)


def _load(path: Path, state: StoredState, engine: Engine) -> None:
    files = {
        (stored.part, name): path / file
        for file, stored in state.files.items()
        for name in stored.names
    }
    with ExitStack() as opened:
        open_once = cache(lambda file: opened.enter_context(safe_open(file, framework="pt")))
        engine.load(
            lambda part, name: open_once(files[part, name]).get_tensor(name),
            adam_steps=state.adam_steps,
            scaler=state.scaler,
        )
