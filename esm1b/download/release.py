"""Where UniProt keeps UniRef50, release by release, and the list that ESM-1b held out."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Final

from esm1b.errors import UserError

CURRENT: Final = "current"  # the newest release
RELEASE_PATTERN: Final = rf"{CURRENT}|20[0-9]{{2}}_(0[1-9]|1[0-9])"
# The size of an excerpt, in bytes of the compressed file or in records.
LIMIT_PATTERN: Final = r"[1-9][0-9]*(B|kB|MB|GB|TB|records)"
# Beside each release: its name, and the sizes and digests of its files.
METALINK: Final = "RELEASE.metalink"
# The three sites that every RELEASE.metalink lists; they serve the same tree over HTTPS.
MIRRORS: Final = (
    "https://ftp.uniprot.org/pub/databases/uniprot",
    "https://ftp.ebi.ac.uk/pub/databases/uniprot",
    "https://ftp.expasy.org/databases/uniprot",
)
# Scheme, user, host name or IPv6 address, port, and path; no query, fragment or white space.
_MIRROR: Final = re.compile(
    r"https?://([^\s/?#@]+@)?([^\s/?#@:\[\]]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?(/[^\s?#]*)?",
    re.IGNORECASE,
)
CURRENT_FILE: Final = PurePosixPath("current_release/uniref/uniref50/uniref50.fasta.gz")

# https://github.com/facebookresearch/esm, "Pre-training dataset split": 3.016 M ids, no digest
LIST_MIRRORS: Final = ("https://dl.fbaipublicfiles.com",)
VALIDATION_LIST: Final = PurePosixPath(
    "fair-esm/pretraining-data/uniref201803_ur50_valid_headers.txt.gz"
)
VALIDATION_LIST_RELEASE: Final = "2018_03"
VALIDATION_LIST_IDS: Final = 3_016_000

# UniRef50 clusters of releases with a known number. 2018_03: ESM-1b's list of 3.016 M ids is 10 %
# of them (README of facebookresearch/esm). 2026_03: its release note, at second hand.
_CLUSTERS: Final[Mapping[str, int]] = {"2018_03": 30_160_000, "2026_03": 38_840_027}


def previous_file(release: str) -> PurePosixPath:
    """Return the path of an earlier release: XML of UniRef100, UniRef90 and UniRef50 as .tar.gz."""
    return PurePosixPath(f"previous_releases/release-{release}/uniref/uniref{release}.tar.gz")


def check_release_name(name: str) -> None:
    """Check that `name` can be the name of a release.

    Raises:
        UserError: it is neither `current` nor a year and a number.
    """
    if not re.fullmatch(RELEASE_PATTERN, name):
        raise UserError(f"release {name!r}: expected 'current', or year and number as in '2018_03'")


def check_mirror(url: str) -> str:
    """Return the root of a mirror without a final `/`.

    Raises:
        UserError: it is not the URL of a web server.
    """
    if not _MIRROR.fullmatch(url):
        raise UserError(f"mirror {url!r}: expected a URL such as {MIRRORS[0]}")
    return url.rstrip("/")


def expected_clusters(release: str) -> int | None:
    """Return the number of UniRef50 clusters in a release, None if it is unknown."""
    return _CLUSTERS.get(release)
