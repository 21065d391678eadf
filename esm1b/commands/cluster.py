"""The command about clusters: a profile for one."""

from typing import Annotated, Literal

from typer import Argument, Option

from esm1b.commands import options
from esm1b.errors import UserError


def profile(
    kind: Annotated[Literal["slurm", "slurm-1gpu", "cluster-generic"], Argument(metavar="KIND")],
    output: options.Directory,
    nodes: options.OptionalCount = None,
    gpus: options.OptionalCount = None,
    account: Annotated[str | None, Option(metavar="NAME")] = None,
    partition: Annotated[str | None, Option(metavar="NAME")] = None,
    time_limit: Annotated[str, Option(metavar="TIME")] = "24h",
    run_config: options.OptionalFile = None,
    gpu: Annotated[str | None, Option(metavar="NAME")] = None,
) -> None:
    r"""Write a Snakemake profile for your cluster: a copy of a shipped one with your numbers.

    Profile:
        kind: shipped profile to copy; slurm: nodes with several GPUs; slurm-1gpu: one GPU;
            cluster-generic: any scheduler, through its commands
        nodes: number of nodes of the training job
        gpus: number of GPUs per node, one process each
        account: account of every job
        partition: partition of every job
        time_limit: time limit of the training job, which is queued again at its end
    Estimate:
        run_config: configuration whose run is estimated on these nodes, which chooses the ZeRO
            stage
        gpu: GPU model, such as H200, A100 or V100
    Output:
        output: directory to write, for snakemake --workflow-profile

    Example:
        esm1b profile slurm --nodes 4 --gpus 8 --account proj --partition gpu \
            --run-config config/esm1b.yaml --gpu A100 --output profile
    """
    from esm1b.cluster.profile import ClusterProfile, estimated, write_profile
    from esm1b.stopping import parse_duration

    seconds = parse_duration(time_limit, name="--time-limit")
    if (run_config is None) != (gpu is None):
        raise UserError("--run-config and --gpu: one without the other; expected both or neither")
    result = ClusterProfile(
        kind=kind,
        nodes=nodes,
        gpus=gpus,
        account=account,
        partition=partition,
        minutes=max(1, seconds // 60),
    )
    if run_config is not None and gpu is not None:
        result = estimated(result, run_config, gpu)
    write_profile(result, output)
    print("\n".join(result.notes))
    print(f"Use it: snakemake --workflow-profile {output} --configfile CONFIG")
