"""A profile for a cluster: a copy of a shipped one with the user's numbers."""

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from esm1b.config import load_config
from esm1b.errors import UserError
from esm1b.files import atomic_file
from esm1b.pretraining.planning.data import assumed_data
from esm1b.pretraining.planning.estimate import estimate
from esm1b.pretraining.planning.gpus import find_gpu

_SHIPPED: Final = Path(__file__).parents[2] / "workflow" / "profiles"
_FILE: Final = "profile.yaml"


@dataclass(frozen=True, kw_only=True)
class ClusterProfile:
    """What a profile says of a cluster; the shipped one's numbers where nothing is given.

    Attributes:
        kind: name of the shipped profile.
        nodes: number of nodes of the training job.
        gpus: number of GPUs per node.
        account: account of every job.
        partition: partition of every job.
        minutes: time limit of the training job.
        zero_stage: ZeRO stage of the run.
        notes: lines of text about the run on these nodes.
    """

    kind: Literal["slurm", "slurm-1gpu", "cluster-generic"]
    nodes: int | None = None
    gpus: int | None = None
    account: str | None = None
    partition: str | None = None
    minutes: int = 1440
    zero_stage: int = 1
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check what SLURM's executor for Snakemake would refuse only when it submits the job."""
        single = self.kind == "slurm-1gpu"
        if single and (self.nodes or 1, self.gpus or 1) != (1, 1):
            raise UserError("slurm-1gpu: is for one GPU; expected slurm for several, or no --nodes")
        if self.gpus == 1 and self.kind == "slurm":
            raise UserError("--gpus 1: expected 2 or more per node, or slurm-1gpu for one GPU")

    def text(self) -> str:
        """Return the content of the profile."""
        rest = _shipped(self.kind).split("\n\n", 1)[1]  # without its first comment
        settings: list[tuple[str, str, object]] = [
            (r'(?<="ESM1B_NODES", )\d+', "{}", self.nodes),
            (r'(?<="ESM1B_GPUS", )\d+', "{}", self.gpus),
            (r'(?<=    runtime: )"24h"', "{}", self.minutes),
            (r"(?<=    zero_stage: )1", "{}", self.zero_stage),
        ]
        options = {"account": self.account, "partition": self.partition}
        given = {name: value for name, value in options.items() if value}
        if given and self.kind == "cluster-generic":
            words = "".join(f" --{name}={value}" for name, value in given.items())
            settings.append(("(?<=sbatch --parsable)", "{}", words))
        elif given:
            lines = "".join(f"\n  slurm_{name}: {value}" for name, value in given.items())
            settings.append((r"# default-resources: .*", "default-resources:{}", lines))
        for pattern, template, value in settings:
            if value is not None:
                rest = re.sub(pattern, template.format(value).replace("\\", r"\\"), rest)
        title = f"Written by esm1b profile {self.kind}; the reasons are those of the shipped one."
        return "\n".join([*(f"# {line}" for line in (title, *self.notes)), "", rest])


def estimated(profile: ClusterProfile, run_config: Path, gpu: str) -> ClusterProfile:
    """Return `profile` with the ZeRO stage that fits and what the estimate says of the run.

    Raises:
        UserError: the numbers of nodes and GPUs are not given, or the run does not fit.
    """
    nodes, gpus = profile.nodes or 1, profile.gpus or 1
    if profile.kind != "slurm-1gpu" and None in (profile.nodes, profile.gpus):
        raise UserError("--run-config: expected --nodes and --gpus with it")
    config = load_config(run_config)
    data = assumed_data(config, mean_length=None, sequences=None)
    result = estimate(
        config,
        data,
        gpu=find_gpu(gpu),
        gpus=nodes * gpus,
        gpus_per_node=gpus,
        time_limit_seconds=60 * profile.minutes,
    )
    fitting = [(stage, size) for stage, size in result.micro_batch_tokens.items() if size]
    # stage 0 is for fp32 alone and saves nothing
    stage, size = next(((stage, size) for stage, size in fitting if stage > 0), (0, 0))
    if not size:
        raise UserError(
            f"{run_config}: does not fit the memory of {nodes} x {gpus} {gpu}; see esm1b estimate"
        )
    time = result.durations[0]
    limits = result.transfers[stage].jobs
    notes = (
        f"{config.run} on {nodes} x {gpus} {result.gpu.name}: {time.hours:,.1f} h of updates at an "
        f"assumed {100 * time.utilisation:g} % of the peak,",
        f"{limits} time limit{'' if limits == 1 else 's'} of {profile.minutes / 60:g} h; "
        f"ZeRO {stage}, micro-batches of {size:,} tokens (esm1b estimate)",
    )
    return replace(profile, zero_stage=stage, notes=notes)


def write_profile(profile: ClusterProfile, directory: Path) -> None:
    """Write `profile` and the scripts that it names to `directory`.

    Raises:
        UserError: there is a profile already.
    """
    path = directory / _FILE
    if path.exists():
        raise UserError(f"{path}: exists, perhaps with your changes; expected a new directory")
    text = profile.text()
    directory.mkdir(parents=True, exist_ok=True)
    for script in (_SHIPPED / profile.kind).glob("*.sh"):
        shutil.copy(script, directory)
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _shipped(kind: str) -> str:
    path = _SHIPPED / kind / _FILE
    if not path.is_file():
        raise UserError(f"{path}: not found; expected esm1b to run from a checkout of the workflow")
    return path.read_text(encoding="utf-8")
