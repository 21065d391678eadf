import pytest

from esm1b.download.release import (
    CURRENT_FILE,
    LIST_MIRRORS,
    MIRRORS,
    VALIDATION_LIST,
    check_mirror,
    check_release_name,
    previous_file,
)
from esm1b.errors import UserError


def test_paths_on_the_mirrors() -> None:
    assert [f"{mirror}/{CURRENT_FILE}" for mirror in MIRRORS] == [
        "https://ftp.uniprot.org/pub/databases/uniprot/current_release/uniref/uniref50/uniref50.fasta.gz",
        "https://ftp.ebi.ac.uk/pub/databases/uniprot/current_release/uniref/uniref50/uniref50.fasta.gz",
        "https://ftp.expasy.org/databases/uniprot/current_release/uniref/uniref50/uniref50.fasta.gz",
    ]
    assert str(previous_file("2018_03")) == (
        "previous_releases/release-2018_03/uniref/uniref2018_03.tar.gz"
    )
    assert f"{LIST_MIRRORS[0]}/{VALIDATION_LIST}" == (
        "https://dl.fbaipublicfiles.com/fair-esm/pretraining-data/"
        "uniref201803_ur50_valid_headers.txt.gz"
    )


@pytest.mark.parametrize("name", ["current", "2018_03", "2010_12", "2026_01"])
def test_names_of_releases(name: str) -> None:
    check_release_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "Current", "2018-03", "201803", "2018_3", "2018_00", "1018_03", "2018_03/..", "15.0"],
)
def test_what_is_no_name_of_a_release(name: str) -> None:
    with pytest.raises(UserError, match="expected 'current', or year and number as in '2018_03'"):
        check_release_name(name)


@pytest.mark.parametrize(
    ("url", "root"),
    [
        (
            "https://ftp.ebi.ac.uk/pub/databases/uniprot/",
            "https://ftp.ebi.ac.uk/pub/databases/uniprot",
        ),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:8000/uniprot", "http://[::1]:8000/uniprot"),
    ],
)
def test_mirrors(url: str, root: str) -> None:
    assert check_mirror(url) == root


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp.ebi.ac.uk",
        "ftp://ftp.ebi.ac.uk/pub",
        "file:///data",
        "https://",
        "https://host:port",
        "https://[::1",
        "https://host/?release=1",
        "https://host/a b",
        " https://host",
    ],
)
def test_what_is_no_mirror(url: str) -> None:
    with pytest.raises(UserError, match=r"expected a URL such as https://ftp\.uniprot\.org"):
        check_mirror(url)
