"""`esm1b profile`: shipped profiles with the user's numbers."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yte

from esm1b.cluster.profile import write_profile
from esm1b.errors import UserError

RUN = Path(__file__).parents[2] / "config" / "esm1b.yaml"


def load(directory: Path) -> dict[str, Any]:
    with (directory / "profile.yaml").open() as file:
        content = yte.process_yaml(file, require_use_yte=True)
    assert isinstance(content, dict)
    return content


def test_slurm(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    write_profile("slurm", mine, nodes=4, gpus=8, account="proj", partition="gpu", time_limit="12h")
    content = load(mine)
    assert content["default-resources"] == {"slurm_account": "proj", "slurm_partition": "gpu"}
    pretrain = content["set-resources"]["pretrain"]
    assert (pretrain["nodes"], pretrain["tasks_per_node"], pretrain["gres"]) == (4, 8, "gpu:8")
    assert (pretrain["mem_mb"], pretrain["runtime"], pretrain["zero_stage"]) == (128_000, 720, 1)
    with pytest.raises(UserError, match=r"profile\.yaml: exists, perhaps with your changes"):
        write_profile("slurm", mine)


def test_cluster_generic_has_its_scripts_and_its_account(tmp_path: Path) -> None:
    write_profile("cluster-generic", tmp_path, nodes=2, account="proj")
    content = load(tmp_path)
    command = content["cluster-generic-submit-cmd"]
    assert "sbatch --parsable --account=proj --job-name={rule} " in command
    assert content["set-resources"]["pretrain"]["nodes"] == 2
    for script in ("status.sh", "cancel.sh"):
        assert os.access(tmp_path / script, os.X_OK)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "slurm", "gpus": 1}, "--gpus 1: expected 2 or more per node, or slurm-1gpu"),
        ({"kind": "slurm-1gpu", "nodes": 2}, "slurm-1gpu: is for one GPU"),
        ({"kind": "slurm", "gpu": "A100"}, "--run-config and --gpu: one without the other"),
        (
            {"kind": "slurm", "run_config": RUN, "gpu": "A100"},
            "expected --nodes and --gpus with it",
        ),
        ({"kind": "slurm", "time_limit": "long"}, "--time-limit: 'long'"),
    ],
)
def test_what_is_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        write_profile(output=tmp_path / "mine", **given)
    assert not any(tmp_path.iterdir())


def test_the_estimate_chooses_the_zero_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_profile("slurm", tmp_path, nodes=4, gpus=8, time_limit="12h", run_config=RUN, gpu="A100")
    assert load(tmp_path)["set-resources"]["pretrain"]["zero_stage"] == 1
    first, second, _ = capsys.readouterr().out.splitlines()
    assert first.startswith("esm1b on 4 x 8 A100: ")
    assert second.startswith("2 time limits of 12 h; ZeRO 1, micro-batches of 4,096 tokens")
    assert f"# {first}\n# {second}\n\n" in (tmp_path / "profile.yaml").read_text()


def test_the_command(tmp_path: Path) -> None:
    output = tmp_path / "mine"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "esm1b", "profile", "slurm-1gpu", "--partition", "gpu"),
            *("--time-limit", "1d12h", "--output", str(output)),
        ],
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith(f"--workflow-profile {output} --configfile CONFIG\n")
    content = load(output)
    assert content["default-resources"] == {"slurm_partition": "gpu"}
    assert content["set-resources"]["pretrain"]["runtime"] == 2160
