import logging
import re
from pathlib import Path

import pytest

from esm1b.errors import Stopped
from esm1b.pretraining.run_log import log_to


def end(path: Path, error: BaseException) -> None:
    with log_to(path):
        logging.getLogger("esm1b.pretraining").warning("update 7 was skipped")
        raise error


def test_it_grows_and_has_the_end(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    for error in (Stopped("saved after update 3"), ValueError("odd")):
        with pytest.raises(type(error)):
            end(path, error)
    logging.getLogger("esm1b").warning("afterwards")
    lines = path.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S", line) for line in lines[:4])
    texts = [line[20:] for line in lines[:4]]
    skipped = "update 7 was skipped"
    assert texts == [skipped, "saved after update 3", skipped, "odd"]
    assert lines[4] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: odd"
