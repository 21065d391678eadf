"""A file that is being downloaded: the bytes so far, their source, and whether to trust them."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from esm1b.download.mirrors import MirroredFile
from esm1b.errors import DownloadError, UserError
from esm1b.files import fsync, read_json, write_json

_log = logging.getLogger(__name__)

_BUFFER_BYTES: Final = 1 << 20
_LOGGED_SHARE: Final = 0.1  # of a file, between lines of the log where no bar shows


class PartialFile:
    """NAME.partial, the first bytes of NAME, and NAME.partial.json, the account of their source.

    The bytes count only together with the account, so that those of another release, or of a file
    that has changed since, are never continued.
    """

    def __init__(self, final: Path, identity: Mapping[str, Any], remote: MirroredFile) -> None:
        """Keep the bytes that an earlier process left of the file `identity`; delete any others."""
        self.path = final.with_name(f"{final.name}.partial")
        self._account_path = final.with_name(f"{final.name}.partial.json")
        self._final = final
        self._identity = identity
        self._remote = remote
        self._account: dict[str, Any] = {}
        with suppress(UserError, KeyError, TypeError, AttributeError):
            account = read_json(self._account_path)
            if account["identity"] == identity and self.path.exists():
                remote.resume(account["url"], account["validators"])
                self._account = account
        if not self._account:
            self.discard()

    @property
    def bytes_held(self) -> int:
        """Number of bytes downloaded so far."""
        return self.path.stat().st_size if self.path.exists() else 0

    def fill(self) -> None:
        """Fetch the missing bytes.

        Raises:
            OSError: the disk is full.
            FileChangedError: the bytes so far are of another file.
            DownloadError: no server delivers the file; the bytes so far are kept.
        """
        held, remote = self.bytes_held, self._remote
        if held == remote.size:
            return
        try:
            with self.path.open("ab", buffering=_BUFFER_BYTES) as file:
                for piece in tracked(remote.read(held), self._final.name, remote.size, held):
                    seen = {url: asdict(value) for url, value in remote.validators.items()}
                    account = {"identity": self._identity, "url": remote.url, "validators": seen}
                    if account != self._account:  # a new source, on disk before its first bytes
                        self._account = account
                        write_json(self._account_path, account)
                    file.write(piece)
        except DownloadError as error:
            if not self.bytes_held:
                self.discard()
                raise
            kept = tqdm.format_sizeof(self.bytes_held, "B")
            raise DownloadError(f"{error}; {kept} are kept") from error

    def finish(self) -> None:
        """Move the file to its final name; the lock must be on disk already."""
        fsync(self.path)
        os.replace(self.path, self._final)
        fsync(self._final.parent)
        self._account_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the bytes and their account."""
        self.path.unlink(missing_ok=True)
        self._account_path.unlink(missing_ok=True)


def tracked(pieces: Iterable[bytes], name: str, size: int | None, held: int = 0) -> Iterator[bytes]:
    """Yield the pieces of a file after its first `held` bytes, and show the progress.

    On a terminal a bar shows it, elsewhere a line of the log at every tenth.
    """
    logged = held
    with tqdm(desc=name, total=size, initial=held, unit="B", unit_scale=True, disable=None) as bar:
        for piece in pieces:
            yield piece
            held += len(piece)
            bar.update(len(piece))
            if bar.disable and size and held - logged >= _LOGGED_SHARE * size:
                logged = held
                _log.info("%s: %s of %s", name, *map(tqdm.format_sizeof, (held, size)))
