from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from esm1b.alphabet import TOKENS
from esm1b.errors import UserError
from esm1b.inference.fill_mask import candidate_table, fill_mask
from esm1b.inference.model import Model, load_model
from esm1b.model.encoder import Encoder
from esm1b.model.packed import PackedTokens
from esm1b.model.shape import EncoderShape
from esm1b.weights.model_directory import ModelDirectory
from tests.inference.models import refused, run_command, write_model

UBIQUITIN = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQLEDGRTLSDYNIQKESTLHLVLRLRGG"


class FavouriteNetwork(Encoder):
    """Expects D with probability 0.6, E 0.3, and the rest alike, at every position."""

    def forward(self, packed: PackedTokens, masked_positions: Tensor | None = None) -> Tensor:
        probabilities = torch.full((33,), 0.1 / 31)
        probabilities[TOKENS.index("D")] = 0.6
        probabilities[TOKENS.index("E")] = 0.3
        return probabilities.log().expand(len(packed.tokens), -1) + 2


@pytest.fixture
def model() -> Model:
    return Model(
        network=FavouriteNetwork(EncoderShape(layers=1, width=4, heads=1, feed_forward=4)),
        rare_residues="keep",
        append_eos=True,
        longest_sequence=30,
        contact_head=None,
        directory=ModelDirectory(Path("favourite")),
    )


def test_the_table(model: Model) -> None:
    candidates = fill_mask(model, "<mask>kt VRQG MKTLW<mask>", top=3)
    assert candidate_table(candidates) == (
        "position  rank  residue  probability  context\n"
        "       1     1  D             0.6000  [D]KTVRQGMK...\n"
        "       1     2  E             0.3000  [E]KTVRQGMK...\n"
        "       1     3  <cls>         0.0032  [<cls>]KTVRQGMK...\n"
        "\n"
        "      13     1  D             0.6000  ...RQGMKTLW[D]\n"
        "      13     2  E             0.3000  ...RQGMKTLW[E]\n"
        "      13     3  <cls>         0.0032  ...RQGMKTLW[<cls>]"
    )


def test_candidates(model: Model) -> None:
    first, second = fill_mask(model, "MKT<mask>V<mask>", top=1)
    assert (first.position, first.rank, first.residue) == (4, 1, "D")
    assert first.probability == pytest.approx(0.6, abs=1e-6)
    # a mask beside a mask stays one
    assert (first.context, second.context) == ("MKT[D]V<mask>", "MKT<mask>V[D]")
    everything = fill_mask(model, "<mask>", top=33)
    assert sum(candidate.probability for candidate in everything) == pytest.approx(1)
    assert [candidate.rank for candidate in everything] == list(range(1, 34))


def test_probabilities_are_those_of_the_logits(tmp_path: Path) -> None:
    model = load_model(write_model(tmp_path / "model"))
    logits = model.logits(["MKT<mask>RQG"])[0][3].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum()
    candidates = fill_mask(model, "MKT<mask>RQG", top=33)
    found = {candidate.residue: candidate.probability for candidate in candidates}
    np.testing.assert_allclose([found[token] for token in TOKENS], expected, rtol=1e-5)
    values = [candidate.probability for candidate in candidates]
    assert values == sorted(values, reverse=True)


def test_long_sequences(model: Model) -> None:
    sequence = "A" * 35 + "<mask>"
    with pytest.raises(UserError, match="36 residues; expected at most 30"):
        fill_mask(model, sequence)
    assert fill_mask(model, sequence, 1, long_sequences="windows")[0].position == 36
    with pytest.raises(UserError, match="<mask> at position 36, beyond the first 30 residues"):
        fill_mask(model, sequence, long_sequences="truncate")
    within = fill_mask(model, f"<mask>{'A' * 35}", 1, long_sequences="truncate")
    assert within[0].position == 1


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("MKTVRQG", "sequence: has no <mask>; expected at least one, as in MKT<mask>RQG"),
        ("", "sequence: is empty; expected at least one residue"),
        ("M1<mask>", "sequence: '1' at position 2; expected one of"),
        ("MKT<mask>AYI\u200bAK", "sequence: U+200B (ZERO WIDTH SPACE) at position 8; expected one"),
    ],
)
def test_wrong_sequences(sequence: str, message: str, model: Model) -> None:
    with pytest.raises(UserError) as caught:
        fill_mask(model, sequence)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("top", [0, 34])
def test_a_wrong_number_of_candidates(top: int, model: Model) -> None:
    with pytest.raises(UserError, match=f"top {top}: expected 1 to 33"):
        fill_mask(model, "<mask>", top)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_model(tmp_path / "model")
    sequence = UBIQUITIN[:20] + "<mask>" + UBIQUITIN[21:60]
    assert run_command("fill-mask", directory, sequence) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "position  rank  residue  probability  context"
    assert len(lines) == 6
    expected = fill_mask(load_model(directory), sequence)
    assert lines[1:] == candidate_table(expected).splitlines()[1:]
    assert lines[1].split()[:2] == ["21", "1"]
    without = refused(capsys, "fill-mask", directory, "MKT")
    assert without == "sequence: has no <mask>; expected at least one, as in MKT<mask>RQG"
    missing = refused(capsys, "fill-mask", tmp_path / "none", "MKT<mask>")
    assert missing.startswith(f"{tmp_path / 'none'}")
