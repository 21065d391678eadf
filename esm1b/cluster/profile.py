"""A profile for a cluster: a copy of a shipped one with the user's numbers."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from esm1b.config import load_config
from esm1b.errors import UserError
from esm1b.files import atomic_file
from esm1b.pretraining.planning.data import assumed_data
from esm1b.pretraining.planning.estimate import estimate
from esm1b.pretraining.planning.gpus import find_gpu
from esm1b.stopping import parse_duration

_SHIPPED: Final = Path(__file__).parents[2] / "workflow" / "profiles"
_FILE: Final = "profile.yaml"


def write_profile(
    kind: Literal["slurm", "slurm-1gpu", "cluster-generic"],
    output: Path,
    *,
    nodes: int | None = None,
    gpus: int | None = None,
    account: str | None = None,
    partition: str | None = None,
    time_limit: str = "24h",
    run_config: Path | None = None,
    gpu: str | None = None,
) -> None:
    """Write a profile and the scripts that it names to `output`, and print how to use it.

    What is not given stays as in the shipped profile `kind`. `nodes`, `gpus` per node and
    `time_limit` are those of the training job, `account` and `partition` those of every job. Of the
    run of `run_config` on these nodes with GPUs of the kind `gpu`, the ZeRO stage that fits is
    chosen, and what the estimate says becomes a comment.

    Raises:
        UserError: an option is wrong or missing, the run does not fit, or there is a profile
            already.
    """
    minutes = max(1, parse_duration(time_limit, name="--time-limit") // 60)
    if (run_config is None) != (gpu is None):
        raise UserError("--run-config and --gpu: one without the other; expected both or neither")
    # SLURM's executor for Snakemake would refuse these only when it submits the job
    if kind == "slurm-1gpu" and (nodes or 1, gpus or 1) != (1, 1):
        raise UserError("slurm-1gpu: is for one GPU; expected slurm for several, or no --nodes")
    if kind == "slurm" and gpus == 1:
        raise UserError("--gpus 1: expected 2 or more per node, or slurm-1gpu for one GPU")
    stage = 1
    notes: list[str] = []
    if run_config is not None and gpu is not None:
        if kind != "slurm-1gpu" and None in (nodes, gpus):
            raise UserError("--run-config: expected --nodes and --gpus with it")
        stage, notes = _estimated(run_config, gpu, nodes or 1, gpus or 1, minutes)
    path = output / _FILE
    if path.exists():
        raise UserError(f"{path}: exists, perhaps with your changes; expected a new directory")
    numbers = {
        r'(?<="ESM1B_NODES", )\d+': nodes,
        r'(?<="ESM1B_GPUS", )\d+': gpus,
        r'(?<=    runtime: )"24h"': minutes,
        r"(?<=    zero_stage: )1": stage,
    }
    settings = {pattern: str(number) for pattern, number in numbers.items() if number is not None}
    settings |= _accounting(kind, account=account, partition=partition)
    text = _shipped(kind).split("\n\n", 1)[1]  # without its first comment
    for pattern, value in settings.items():
        text = re.sub(pattern, value.replace("\\", r"\\"), text)
    title = f"Written by esm1b profile {kind}; the reasons are those of the shipped one."
    output.mkdir(parents=True, exist_ok=True)
    for script in (_SHIPPED / kind).glob("*.sh"):
        shutil.copy(script, output)
    with atomic_file(path) as temporary:
        lines = [*(f"# {line}" for line in (title, *notes)), "", text]
        temporary.write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(notes))
    print(f"Use it: snakemake --workflow-profile {output} --configfile CONFIG")


def _accounting(kind: str, **options: str | None) -> Mapping[str, str]:
    """Return the place of SLURM's options for every job in the profile, and what comes there."""
    given = {name: value for name, value in options.items() if value}
    if not given:
        return {}
    if kind == "cluster-generic":
        words = "".join(f" --{name}={value}" for name, value in given.items())
        return {"(?<=sbatch --parsable)": words}
    lines = "".join(f"\n  slurm_{name}: {value}" for name, value in given.items())
    return {"# default-resources: .*": f"default-resources:{lines}"}


def _estimated(
    run_config: Path, gpu: str, nodes: int, gpus: int, minutes: int
) -> tuple[int, list[str]]:
    """Return the ZeRO stage that fits, and lines of text about the run on these nodes."""
    config = load_config(run_config)
    result = estimate(
        config,
        assumed_data(config),
        gpu=find_gpu(gpu),
        gpus=nodes * gpus,
        gpus_per_node=gpus,
        time_limit_seconds=60 * minutes,
    )
    # stage 0 is for fp32 alone and saves nothing
    fitting = {stage: size for stage, size in result.micro_batch_tokens.items() if size and stage}
    if not fitting:
        raise UserError(
            f"{run_config}: does not fit the memory of {nodes} x {gpus} {gpu}; see esm1b estimate"
        )
    stage, size = next(iter(fitting.items()))
    time, limits = result.durations[0], result.transfers[stage].jobs
    return stage, [
        f"{config.run} on {nodes} x {gpus} {result.gpu.name}: {time.hours:,.1f} h of updates at an "
        f"assumed {100 * time.utilisation:g} % of the peak,",
        f"{limits} time limit{'' if limits == 1 else 's'} of {minutes / 60:g} h; "
        f"ZeRO {stage}, micro-batches of {size:,} tokens (esm1b estimate)",
    ]


def _shipped(kind: str) -> str:
    path = _SHIPPED / kind / _FILE
    if not path.is_file():
        raise UserError(f"{path}: not found; expected esm1b to run from a checkout of the workflow")
    return path.read_text(encoding="utf-8")
