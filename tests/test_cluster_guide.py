"""What docs/cluster.md says is so."""

import re
import shlex
from pathlib import Path

import typer

from esm1b.cli import app

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
SCRIPT = GUIDE.split("```bash\n")[1].split("```")[0].replace("\\\n", " ")


def profile_command(numbers: str) -> list[str]:
    """Return the script's command that writes a profile, with other numbers and a small run."""
    (line,) = re.findall(r"^esm1b profile .*$", SCRIPT, re.MULTILINE)
    given = "--nodes 4 --gpus 8 --account PROJECT --partition gpu"
    smaller = line.replace("config/esm1b.yaml", "small.yaml")
    assert " ".join(line.split()).count(given) == 1
    return shlex.split(" ".join(smaller.split()).replace(given, numbers))


def test_the_profile_command_knows_its_options() -> None:
    words = profile_command("--nodes 2 --gpus 2")
    command = typer.main.get_command(app).commands["profile"]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert words[:3] == ["esm1b", "profile", "slurm"]
    assert {word for word in words if word.startswith("--")} <= known
    assert words[-2:] == ["--output", "profile"]


def test_snakemake_gets_that_profile() -> None:
    lines = re.findall(r"snakemake --workflow-profile profile --configfile \S+", SCRIPT)
    assert lines == ["snakemake --workflow-profile profile --configfile config/esm1b.yaml"] * 2


def test_the_profiles_it_names_are_there() -> None:
    table = GUIDE.split("| profile | jobs |")[1].split("\n\n")[0]
    named = re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)
    shipped = {path.parent.name for path in ROOT.glob("workflow/profiles/*/profile.yaml")}
    assert {*named, "default", "local-gpu"} == shipped


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", GUIDE):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target
