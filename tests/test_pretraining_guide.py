"""What docs/pretraining.md and the README say of pretraining is so."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from torch.distributed.run import get_args_parser

from esm1b.cli import app

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "pretraining.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PRETRAIN = GUIDE.split("stands for\n\n")[1].splitlines()[0].strip()
SCRIPT = GUIDE.split("```bash\n")[1].split("```")[0]

RECIPE = {
    "updates": 2,
    "tokens_per_update": 500,
    "crop_residues": 100,
    "log_interval": 1,
    "validation_interval": 2,
    "validation_sequences": 5,
}
MODEL = {"layers": 1, "width": 16, "heads": 2, "feed_forward": 24, "maximum_tokens": 102}


def commands(text: str, program: str) -> list[list[str]]:
    """Return the words of the indented command lines of `program`."""
    joined = text.replace("\\\n", " ").replace(" ...", f" {PRETRAIN}")
    found = re.findall(rf"^    ({program} .*)$", joined, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in found]


@pytest.mark.parametrize("text", [GUIDE, README], ids=["guide", "readme"])
def test_torchrun_knows_its_flags_and_waits_for_a_save(text: str) -> None:
    lines = commands(text, "torchrun")
    assert lines
    for words in lines:
        arguments = get_args_parser().parse_args(words[1:])
        assert (arguments.training_script, arguments.training_script_args[0]) == (
            "esm1b",
            "pretrain",
        )
        assert arguments.shutdown_timeout == 600
        assert arguments.signals_to_handle == "SIGTERM,SIGINT,SIGUSR1"
        assert arguments.standalone is (arguments.rdzv_endpoint == "")


def test_deepspeed_knows_its_flags() -> None:
    from deepspeed.launcher.runner import parse_args

    (words,) = commands(GUIDE, "deepspeed")
    arguments = parse_args(words[1:])
    assert (arguments.user_script, arguments.user_args[0]) == ("esm1b", "pretrain")
    assert (arguments.no_python, arguments.no_local_rank) == (True, True)


def test_every_flag_of_pretrain_is_one() -> None:
    group = typer.main.get_command(app)
    command = group.commands["pretrain"]  # type: ignore[attr-defined]  # a group of commands
    known = {option for parameter in command.params for option in parameter.opts}
    of_pretrain = [*shlex.split(PRETRAIN), *shlex.split(SCRIPT.split("esm1b pretrain")[1])]
    prose = GUIDE.split("## Stop and resume")[1]
    told = re.findall(r"`(--[a-z-]+)(?: [\w]+)?`", prose)
    used = {word for word in of_pretrain if word.startswith("--")} | set(told)
    assert {"--stop-after", "--micro-batch-tokens", "--threads", "--preload", "--wandb"} <= used
    assert used - {"--tee"} <= known


def test_the_slurm_script_is_one() -> None:
    subprocess.run(["bash", "-n"], input=SCRIPT, text=True, check=True)
    assert "#SBATCH --signal=USR1@600\n" in SCRIPT
    assert "srun --kill-on-bad-exit=0 " in SCRIPT  # with 1, a clean stop is reported as 143


def test_links_lead_somewhere() -> None:
    for path, text in ((ROOT, README), (ROOT / "docs", GUIDE)):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or (path / target).exists(), target


def test_the_table_names_every_metric_and_no_other(tmp_path: Path, tokens_directory: Path) -> None:
    config = tmp_path / "run.json"
    config.write_text(json.dumps({"model": MODEL, "pretraining": RECIPE}))
    subprocess.run(
        [
            *(sys.executable, "-m", "esm1b", "pretrain", str(config), "--device=cpu"),
            *(f"--tokens={tokens_directory}", f"--checkpoints={tmp_path / 'checkpoints'}"),
            f"--output={tmp_path / 'model'}",
        ],
        check=True,
        capture_output=True,
    )
    lines = (tmp_path / "checkpoints" / "metrics.jsonl").read_text().splitlines()
    logged = {key for line in lines for key in json.loads(line)}
    rows = GUIDE.split("## metrics.jsonl")[1].split("##")[0].splitlines()
    told = [key for row in rows if row.startswith("| `") for key in _keys(row)]
    assert sorted(told) == sorted(logged)


def _keys(row: str) -> list[str]:
    return re.findall(r"`(\w+)`", row.split("|")[1])
