"""What docs/cluster.md says is so."""

import re
import shlex
from pathlib import Path

import typer
from typer.testing import CliRunner

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


def test_hours_are_those_of_the_estimate() -> None:
    rows = re.findall(
        r"^\| (\d+) x (\w+)[^|]* \| (\S+) \| (\d+) \+ (\d+) ms \| (\S+) \| (\S+) \| (\d) \|$",
        GUIDE,
        re.MULTILINE,
    )
    assert len(rows) == 5
    for gpus, gpu, link, compute, transfer, hours, slower, jobs in rows:
        words = ["estimate", str(ROOT / "config/esm1b.yaml"), "--gpus", gpus, "--gpu", gpu]
        words += [] if link == "-" else ["--link-gbit", link]
        words += ["--time-limit", "12h"]
        at_half, at_less = (
            _estimate([*words, "--utilisation", share]) for share in ("0.5", "0.35")
        )
        given = {"compute, ms": compute, "transfer, ms": transfer, "hours": hours}
        assert at_half == {**given, "jobs of 12 h": jobs}
        assert at_less["hours"] == slower


def _estimate(words: list[str]) -> dict[str, str]:
    """Return the rows of `esm1b estimate` about an update's transfer, for ZeRO stage 1."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    text = result.output.partition("transfer of an update")[2].partition("memory")[0]
    names = ("compute, ms", "transfer, ms", "hours", "jobs of 12 h")
    rows = (re.match(rf"  ({'|'.join(names)})\s+-\s+(\S+) ", line) for line in text.splitlines())
    return {row[1]: row[2] for row in rows if row}
