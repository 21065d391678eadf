"""The Python of the README runs."""

import re
from pathlib import Path

import pytest
import torch

from esm1b.model.layers import ContactHead
from esm1b.model.shape import EncoderShape
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("example", EXAMPLES, ids=["esm1b", "transformers"])
def test_examples_run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    head = ContactHead(coefficients=torch.ones(8), intercept=torch.tensor(0.0))
    shape = EncoderShape(layers=2, width=16, heads=4, feed_forward=24)
    release = tmp_path / "results/demonstration/release"
    save_model(random_encoder(shape), release, Provenance(), contact_head=head)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
