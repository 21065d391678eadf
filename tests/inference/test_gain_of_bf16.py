from pathlib import Path

import pytest
import torch

from tests.inference.models import run_command, write_model


@pytest.mark.parametrize(
    ("has_amx", "has_bf16", "expected"),
    [
        (True, True, "this CPU has AMX, with which --precision bf16 is 2.3 to 4.3 x as fast"),
        (False, True, "this CPU has AVX512-BF16, with which --precision bf16 is faster"),
        (False, False, None),
    ],
)
def test_commands_tell_it_where_no_precision_is_stated(
    has_amx: bool,
    has_bf16: bool,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    model = write_model(tmp_path / "model")
    fasta = tmp_path / "one.fasta"
    fasta.write_text(">a\nMKTV\n")
    commands: list[list[str | Path]] = [
        ["fill-mask", model, "MK<mask>V", "--device", "cpu"],
        ["score", model, fasta, "--output", tmp_path / "out.csv", "--device", "cpu"],
    ]
    for command in commands:
        assert run_command(*command) == 0
        told = capsys.readouterr().err
        assert ("precision: fp32; this CPU" in told) == (expected is not None)
        assert expected is None or expected in told
        for stated in ("fp32", "bf16"):
            assert run_command(*command, "--precision", stated) == 0
            assert "this CPU" not in capsys.readouterr().err
