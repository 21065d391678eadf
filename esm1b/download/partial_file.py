"""A file that is still on its way: what has come, where from, and whether to trust it."""

import hashlib
import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from esm1b.download.mirrors import FileChangedError, MirroredFile, Validator
from esm1b.errors import UserError
from esm1b.files import fsync, read_json, write_json

_log = logging.getLogger(__name__)

_BUFFER_BYTES: Final = 1 << 20
_LOGGED_SHARE: Final = 0.1  # of a file, between lines of the log where no bar shows


class PartialFile:
    """NAME.partial, the first bytes of NAME, and NAME.partial.json, what they are of.

    The bytes count only together with the account of what they are of, so that those of another
    release, or of a file that has changed since, are never continued.

    Attributes:
        path: of NAME.partial.
        final: of NAME.
        validators: of each URL that bytes came from.
        url: where the last bytes came from, or None.
    """

    def __init__(self, final: Path, identity: Mapping[str, Any]) -> None:
        """Take up what an earlier process left of the same file; drop what it left of another.

        Args:
            final: where the whole file is to be.
            identity: JSON that says which file it is.
        """
        self.final = final
        self.path = final.with_name(f"{final.name}.partial")
        self._account = final.with_name(f"{final.name}.partial.json")
        self._identity = dict(identity)
        self.validators: dict[str, Validator] = {}
        self.url: str | None = None
        if not self._take_up():
            self.discard()

    @property
    def bytes_held(self) -> int:
        """How much of the file is here."""
        return self.path.stat().st_size if self.path.exists() else 0

    def fill(self, source: MirroredFile) -> None:
        """Fetch what is missing.

        Raises:
            OSError: the disk is full.
            DownloadError: no server delivers it; what has come stays.
        """
        told = self.validators.get(self.url or "", Validator()).size
        if self.bytes_held == (told if source.size is None else source.size):
            return
        with (
            self.path.open("ab", buffering=_BUFFER_BYTES) as file,
            Progress(self.final.name, source.size, file.tell()) as progress,
        ):
            while True:
                try:
                    for piece in source.read(file.tell()):
                        self._note(source)
                        file.write(piece)
                        progress.came(file.tell())
                    self._note(source)  # a file without bytes has a source too
                    return
                except FileChangedError as error:
                    _log.warning("%s; fetched again from its beginning", error)
                    source.forget()
                    self._forget()
                    file.seek(0)
                    file.truncate()

    def finish(self) -> None:
        """Move the file to its final name; what it is of must be on record by now."""
        fsync(self.path)
        os.replace(self.path, self.final)
        fsync(self.final.parent)
        self._account.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the bytes and the account of them."""
        self.path.unlink(missing_ok=True)
        self._account.unlink(missing_ok=True)
        self.validators, self.url = {}, None

    def _take_up(self) -> bool:
        if not (self.path.exists() and self._account.exists()):
            return False
        try:
            account = read_json(self._account)
            self.validators = {
                url: Validator(**value) for url, value in account["validators"].items()
            }
            self.url = account["url"]
            return bool(account["identity"] == self._identity)
        except (UserError, KeyError, TypeError, AttributeError):
            return False

    def _note(self, source: MirroredFile) -> None:
        """Put a new source on record before the first of its bytes."""
        if source.url == self.url and source.validators == self.validators:
            return
        self.url, self.validators = source.url, dict(source.validators)
        write_json(
            self._account,
            {
                "identity": self._identity,
                "url": self.url,
                "validators": {url: asdict(value) for url, value in self.validators.items()},
            },
        )

    def _forget(self) -> None:
        self._account.unlink(missing_ok=True)
        self.validators, self.url = {}, None


class Progress:
    """A bar on a terminal, elsewhere a line of the log at every tenth."""

    def __init__(self, name: str, size: int | None, held: int) -> None:
        self._name = name
        self._logged = held
        self._bar = tqdm(
            desc=name, total=size, initial=held, unit="B", unit_scale=True, disable=None
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def came(self, held: int) -> None:
        """Show that `held` bytes are here."""
        self._bar.update(held - self._bar.n)
        size = self._bar.total
        if self._bar.disable and size and held - self._logged >= _LOGGED_SHARE * size:
            self._logged = held
            _log.info(
                "%s: %s of %s", self._name, tqdm.format_sizeof(held), tqdm.format_sizeof(size)
            )


def file_digests(path: Path, algorithms: Iterable[str]) -> dict[str, str]:
    """Return the digests of a file, in hexadecimal, by the name of the algorithm."""
    digests = {name: hashlib.new(name, usedforsecurity=False) for name in algorithms}
    size = path.stat().st_size
    with (
        path.open("rb") as file,
        tqdm(
            desc=f"verify {path.name}", total=size, unit="B", unit_scale=True, disable=None
        ) as bar,
    ):
        while block := file.read(_BUFFER_BYTES):
            for digest in digests.values():
                digest.update(block)
            bar.update(len(block))
    return {name: digest.hexdigest() for name, digest in digests.items()}
