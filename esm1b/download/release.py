"""Where UniProt keeps UniRef50, release by release, and the list that ESM-1b held out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from esm1b.errors import UserError

CURRENT: Final = "current"
"""The name that stands for the newest release."""

RELEASE_NAME: Final = r"20[0-9]{2}_(0[1-9]|1[0-9])"
"""Pattern of the name of any release."""

LIMIT: Final = r"[1-9][0-9]*(B|kB|MB|GB|TB|records)"
"""Pattern of a limit to the beginning of a release."""

METALINK: Final = "RELEASE.metalink"
"""The file beside each release that gives its name, sizes and digests."""

# The three sites that every RELEASE.metalink lists; they serve the same tree over HTTPS.
MIRRORS: Final = (
    "https://ftp.uniprot.org/pub/databases/uniprot",
    "https://ftp.ebi.ac.uk/pub/databases/uniprot",
    "https://ftp.expasy.org/databases/uniprot",
)


@dataclass(frozen=True, kw_only=True)
class RemotePath:
    """A file in the tree that all mirrors serve.

    Attributes:
        folder: below the root of a mirror.
        name: of the file.
    """

    folder: str
    name: str

    def urls(self, mirrors: Sequence[str]) -> list[str]:
        """Return the file's URL on each mirror."""
        return [f"{mirror}/{self.folder}/{self.name}" for mirror in mirrors]

    def beside(self, name: str) -> "RemotePath":
        """Return the file `name` of the same folder."""
        return RemotePath(folder=self.folder, name=name)

    @property
    def is_archive(self) -> bool:
        """Whether it is a release archive, in which UniRef50 comes after UniRef100 and UniRef90."""
        return self.name.endswith(".tar.gz")


CURRENT_FILE: Final = RemotePath(folder="current_release/uniref/uniref50", name="uniref50.fasta.gz")

# https://github.com/facebookresearch/esm, "Pre-training dataset split": 3.016 M ids, no digest
LIST_MIRRORS: Final = ("https://dl.fbaipublicfiles.com",)
VALIDATION_LIST: Final = RemotePath(
    folder="fair-esm/pretraining-data", name="uniref201803_ur50_valid_headers.txt.gz"
)
VALIDATION_LIST_RELEASE: Final = "2018_03"
VALIDATION_LIST_IDS: Final = 3_016_000


def previous_file(release: str) -> RemotePath:
    """Return the archive of a release that is no longer the current one.

    A gzip-compressed tar of UniRef100, UniRef90 and UniRef50, in that order, as XML.
    """
    return RemotePath(
        folder=f"previous_releases/release-{release}/uniref", name=f"uniref{release}.tar.gz"
    )


def check_release_name(name: str) -> None:
    """Check that `name` can be the name of a release.

    Raises:
        UserError: it is neither `current` nor a year and a number.
    """
    if name != CURRENT and not re.fullmatch(RELEASE_NAME, name):
        raise UserError(f"release {name!r}: expected 'current', or year and number as in '2018_03'")


def check_mirror(url: str) -> str:
    """Return the root of a mirror without a final `/`.

    Raises:
        UserError: it is no URL of a web server.
    """
    try:
        parts = urlsplit(url)
        is_root = parts.scheme in ("https", "http") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, brackets that do not match
        is_root = False
    if not is_root or parts.query or parts.fragment or url.split() != [url]:
        raise UserError(f"mirror {url!r}: expected a URL such as {MIRRORS[0]}")
    return url.rstrip("/")


# UniRef50 clusters of releases whose number is known. 2018_03: ESM-1b's list of 3.016 M ids is 10 %
# of them (README of facebookresearch/esm). 2026_03: its release note, at second hand.
_CLUSTERS: Final[Mapping[str, int]] = {"2018_03": 30_160_000, "2026_03": 38_840_027}


def expected_clusters(release: str) -> int | None:
    """Return how many clusters UniRef50 has in a release, None where that is not known."""
    return _CLUSTERS.get(release)
