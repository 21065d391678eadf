from typing import Any

import pytest
import yaml

from esm1b.config import parse_config
from esm1b.corpus.config import CorpusConfig
from esm1b.errors import UserError

EXPECTED_RELEASE = "expected current or a release such as 2018_03"
LIST = (
    "corpus.validation_ids: 'published': ESM-1b's list is for the whole release 2018_03; "
    "expected that release, or allow_partial_list: true"
)


def corpus(text: str) -> CorpusConfig:
    return parse_config({"corpus": yaml.safe_load(text)}, origin="run.yaml").corpus


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("{release: current}", "current"),
        ('{release: "2018_03"}', "2018_03"),
        ("{release: 2018_03}", "2018_03"),  # to YAML the number 201803
        ("{release: 2025_03}", "2025_03"),
        ("{release: null}", None),
        ("{}", None),
    ],
)
def test_releases(text: str, release: str | None) -> None:
    assert corpus(text).release == release


def test_what_is_drawn_downloaded_or_read() -> None:
    assert corpus("{}").is_synthetic
    assert not corpus("{release: current}").is_synthetic
    assert not corpus("{sequences: [a.fasta]}").is_synthetic


def test_a_beginning_and_a_share_of_a_release() -> None:
    found = corpus("{release: current, limit: 10MB, sample: 0.5, mirrors: ['https://a.org']}")
    assert (found.limit, found.sample, found.mirrors) == ("10MB", 0.5, ("https://a.org",))
    assert corpus("{release: current, limit: 1000records}").limit == "1000records"


def test_a_partial_list_is_one_to_hold_out_or_to_exclude() -> None:
    assert corpus("{exclude: ids.txt, allow_partial_list: true}").allow_partial_list
    assert corpus("{validation_ids: ids.txt, allow_partial_list: true}").allow_partial_list


def test_the_published_list() -> None:
    assert corpus("{release: 2018_03, validation_ids: published}").has_published_list
    assert corpus("{sequences: [a.gz], validation_ids: published}").has_published_list
    assert not corpus("{validation_ids: ids.txt}").has_published_list
    partial = "{release: 2025_03, validation_ids: published, allow_partial_list: true}"
    assert corpus(partial).has_published_list


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{release: newest}", f"corpus.release: 'newest': {EXPECTED_RELEASE}"),
        ("{release: '2018-03'}", f"corpus.release: '2018-03': {EXPECTED_RELEASE}"),
        ("{release: 2018_00}", f"corpus.release: '2018_00': {EXPECTED_RELEASE}"),
        ("{release: 7}", f"corpus.release: 7: {EXPECTED_RELEASE}"),
        ("{release: [current]}", f"corpus.release: ['current']: {EXPECTED_RELEASE}"),
        ("{release: true}", "corpus.release: true: input should not be a boolean"),
        (
            "{sequences: [on]}",
            'corpus.sequences.0: true: read as a boolean; expected text, in quotes as in "2024_01"',
        ),
        (
            "{release: current, sequences: [a.fasta]}",
            "corpus.release: 'current' beside sequences ['a.fasta']; expected one of the two",
        ),
        ("{limit: 10MB}", "corpus.limit: given without a release; expected one to download"),
        (
            "{sequences: [a.fasta], mirrors: [b]}",
            "corpus.mirrors: given without a release; expected one to download",
        ),
        (
            "{release: current, limit: 10}",
            "corpus.limit: 10: expected bytes or records such as 10MB or 1000records",
        ),
        (
            "{release: current, limit: 0MB}",
            "corpus.limit: '0MB': expected bytes or records such as 10MB or 1000records",
        ),
        ("{sample: 1}", "corpus.sample: 1: input should be less than 1"),
        ("{sample: 0}", "corpus.sample: 0: input should be greater than 0"),
        (
            "{minimum_length: 30, maximum_length: 20}",
            "corpus.maximum_length: 20; expected at least minimum_length, 30",
        ),
        (
            "{allow_partial_list: true}",
            "corpus.allow_partial_list: true without validation_ids and exclude; expected a list",
        ),
        ("{validation_ids: published}", LIST),
        ("{release: current, validation_ids: published}", LIST),
        ("{release: 2018_03, limit: 1MB, validation_ids: published}", LIST),
        (
            "{releas: current}",
            "corpus.releas: unknown key, perhaps release; expected one of name, release, mirrors, "
            "limit, sequences, sample, exclude, minimum_length, maximum_length, strict, shards, "
            "validation_fraction, validation_ids, allow_partial_list, synthetic",
        ),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        corpus(text)
    assert str(caught.value) == f"run.yaml: {message}"


def test_the_default_is_every_sequence_of_the_drawn_families() -> None:
    kept: dict[str, Any] = corpus("{}").model_dump(exclude={"name", "shards", "synthetic"})
    assert kept == {
        "release": None,
        "mirrors": (),
        "limit": None,
        "sequences": (),
        "sample": None,
        "exclude": None,
        "minimum_length": None,
        "maximum_length": None,
        "strict": False,
        "validation_fraction": 0.02,
        "validation_ids": None,
        "allow_partial_list": False,
    }
