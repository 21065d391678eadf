from pathlib import Path

import pytest

from esm1b.errors import UserError
from esm1b.pretraining.checkpoints.run_identity import check_fingerprint, recorded_fingerprint


def test_another_run_is_refused(tmp_path: Path) -> None:
    run = {"seed": 1, "model.width": 64, "pretraining.adam_betas": [0.9, 0.999]}
    assert recorded_fingerprint(tmp_path) is None
    check_fingerprint(tmp_path, run)
    assert recorded_fingerprint(tmp_path) == run
    check_fingerprint(tmp_path, dict(reversed(run.items())))
    (tmp_path / "update-00000020").mkdir()
    with pytest.raises(UserError) as caught:
        check_fingerprint(tmp_path, run | {"model.width": 32, "seed": 2})
    assert str(caught.value) == (
        f"{tmp_path}: holds checkpoints of another run: model.width was 64 and is 32; "
        "seed was 1 and is 2; expected the same data and recipe, or another directory"
    )
    with pytest.raises(UserError, match=r"model\.heads was None and is 4"):
        check_fingerprint(tmp_path, run | {"model.heads": 4})
    check_fingerprint(tmp_path, run)


@pytest.mark.parametrize(
    "left",
    [
        *("update-00000020", "damaged-update-00000020", "milestones", "metrics.jsonl"),
        "attempts.jsonl",
    ],
)
def test_a_recipe_is_free_to_change_until_the_run_begins(tmp_path: Path, left: str) -> None:
    check_fingerprint(tmp_path, {"pretraining.precision": "fp16"})
    check_fingerprint(tmp_path, {"pretraining.precision": "bf16"})
    assert recorded_fingerprint(tmp_path) == {"pretraining.precision": "bf16"}
    (tmp_path / left).mkdir()
    with pytest.raises(UserError, match=r"pretraining\.precision was 'bf16' and is 'fp32'"):
        check_fingerprint(tmp_path, {"pretraining.precision": "fp32"})


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(UserError, match=r"run\.json: list; expected an object of keys"):
        check_fingerprint(tmp_path, {})
