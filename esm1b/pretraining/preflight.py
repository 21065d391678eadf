"""What is checked on every node before a run touches its checkpoints.

Nodes may have another source, other versions, other tokens under the same path, or another disk
there. Training would go on silently, and wrong. Every process reports what it has, and one message
names all that differ; see `distributed.reports`.
"""

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from torch.distributed import (  # type: ignore[attr-defined]  # not all are in __all__
    DistError,
    PrefixStore,
    Store,
)

from esm1b.config import Config
from esm1b.corpus.manifest import SPLITS
from esm1b.corpus.tokens.dataset import TokenDataset, open_tokens
from esm1b.errors import UserError, one_line
from esm1b.files import sha256_file
from esm1b.outputs import check_replaceable, check_writable
from esm1b.pretraining.checkpoints.files import MARK_PREFIX
from esm1b.pretraining.checkpoints.saver import check_free_space
from esm1b.pretraining.distributed.network import address_towards, gloo_interface
from esm1b.pretraining.distributed.place import Place
from esm1b.pretraining.distributed.reports import Report, exchange
from esm1b.pretraining.engine.deepspeed_settings import check_layout
from esm1b.pretraining.options import Layout
from esm1b.pretraining.start_processes import choose_device
from esm1b.scheduler import requested_gpus, unused_nodes
from esm1b.versions import versions

T = TypeVar("T")

_log = logging.getLogger(__name__)

# A file system may show another node's new entry a moment later.
_SIGHT_SECONDS: Final = 5.0
_TURN_SECONDS: Final = 0.05
_DIGITS: Final = 12
_LONGEST_VALUE: Final = 80


def preflight(
    config: Config,
    tokens: Path,
    directory: Path,
    output: Path,
    layout: Layout,
    place: Place,
    store: Store | None,
    *,
    limit_seconds: float,
    has_mirror: bool = False,
) -> tuple[TokenDataset, TokenDataset]:
    """Compare the nodes and return the training and validation sequences, as mapped files.

    Collective. `store` is where the processes met; None for a single one. It also leads gloo to the
    interface on which the nodes reach each other. With a mirror, a checkpoint more needs room.

    Raises:
        UserError: something is wrong with the input, the configuration or some nodes, all of which
            are named.
        RunFailure: some process did not report within `limit_seconds`.
    """
    checks = _Checks()
    if place.rank == 0:
        checks.run(lambda: check_replaceable(output, "model", [tokens, directory]))
        checks.run(lambda: check_writable(output))
    with _mark(directory, place, store, checks) as mark:
        facts = {"package source": source_digest(), **versions(), "torch": str(torch.__version__)}
        facts |= _settings(config, layout)
        checks.run(lambda: check_layout(config.pretraining.precision, layout))
        device = checks.run(lambda: _device(place, layout))
        if device is not None:
            facts["--device"] = device.type
        opened = checks.run(lambda: [open_tokens(tokens, split) for split in SPLITS])
        if opened is not None:
            facts["tokens"] = opened[0].fingerprint[:_DIGITS]
        if mark is not None:
            checks.run(lambda: _check_directory(mark, config, place, has_mirror))
        address = address_towards(place.address) if store is not None else None
        report = Report(facts=facts, problems=checks.problems, address=address)
        peer = exchange("nodes", report, place, store, limit_seconds=limit_seconds)
    if place.rank == 0 and (unused := unused_nodes(os.environ)) is not None:
        _log.warning(unused)
    for name, value in gloo_interface(address, peer).items():
        if os.environ.setdefault(name, value) == value:
            _log.info("%s=%s, as this host's own name leads to itself", name, value)
    assert opened is not None
    train, held_out = opened
    return train, held_out


def source_digest(package: Path = Path(__file__).parents[1]) -> str:
    """Return the beginning of the SHA-256 over the source files of this package."""
    files = {
        str(path.relative_to(package)): sha256_file(path) for path in sorted(package.rglob("*.py"))
    }
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:_DIGITS]


class _Checks:
    """The problems that this process has found so far."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def run(self, action: Callable[[], T]) -> T | None:
        """Return what `action` returns; None where it fails, which is a problem."""
        try:
            return action()
        except (UserError, OSError) as error:
            self.problems.append(one_line(error))
            return None


def _settings(config: Config, layout: Layout) -> dict[str, str]:
    """Return configuration and options, by the names that users know them by."""
    parts = config.model_dump(mode="json", include={"run", "seed", "model", "pretraining"})
    values: dict[str, Any] = {}
    for key, part in parts.items():
        if isinstance(part, dict):
            values |= {f"{key}.{name}": value for name, value in part.items()}
        else:
            values[key] = part
    options = {name: value for name, value in asdict(layout).items() if name != "device"}
    file = options.pop("deepspeed_file")
    if file is not None and file.is_file():
        values["--deepspeed"] = sha256_file(file)[:_DIGITS]
    values |= {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    return {name: str(value)[:_LONGEST_VALUE] for name, value in values.items()}


def _device(place: Place, layout: Layout) -> torch.device:
    device = choose_device(place, layout)
    gpus = requested_gpus(os.environ)
    if device.type == "cpu" and layout.device == "auto" and gpus is not None:
        raise UserError(
            f"--device auto: the job has GPUs ({gpus}), but torch {torch.__version__} sees none; "
            "expected a driver and a torch that fits it, or --device cpu"
        )
    return device


@contextmanager
def _mark(
    directory: Path, place: Place, store: Store | None, checks: _Checks
) -> Iterator[Path | None]:
    """Yield an entry that rank 0 has made in the checkpoint directory for the others to find.

    None where it could not or has found problems before, which it reports. The numbers of the
    device and the directory would not do: they differ between the clients of one file system.
    """
    name = f"{MARK_PREFIX}{secrets.token_hex(8)}"
    store = None if store is None else PrefixStore("mark", store)
    if place.rank > 0 and store is not None:
        name = ""
        with suppress(DistError):  # `exchange` says that rank 0 is gone
            name = store.get("name").decode()
        yield directory / name if name else None
        return

    def make() -> Path:
        if directory.is_file():
            raise UserError(f"{directory}: is a file; expected a directory")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).mkdir()
        return directory / name

    made = None if checks.problems else checks.run(make)
    try:
        if store is not None:
            store.set("name", name if made else "")
        yield made
    finally:
        if made is not None:
            made.rmdir()


def _check_directory(mark: Path, config: Config, place: Place, has_mirror: bool) -> None:
    """Check that this process sees the checkpoint directory of rank 0, and has room in it."""
    directory = mark.parent
    until = time.monotonic() + _SIGHT_SECONDS
    while not mark.exists():
        if time.monotonic() > until:
            raise UserError(
                f"{directory}: not the directory that rank 0 has there; expected a shared one"
            )
        time.sleep(_TURN_SECONDS)
    if not os.access(directory, os.W_OK):
        raise UserError(f"{directory}: not writable; expected a writable directory")
    if place.rank == 0:
        parameters = config.model.shape().parameters()
        check_free_space(
            directory, config.pretraining, parameters=parameters, has_mirror=has_mirror
        )
