"""Commands about a training run: an estimate and a profile beforehand, the run, its audit."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal, cast

import typer
from typer import Argument, Option

from esm1b.commands import options
from esm1b.commands.command import runs
from esm1b.errors import UserError


def estimate(
    run_config: options.RunConfig,
    gpus: options.Count,
    gpu: Annotated[str, Option(metavar="NAME")],
    utilisation: options.Share = 0.5,
    tokens: options.OptionalDirectory = None,
    mean_length: Annotated[float | None, Option(metavar="RESIDUES")] = None,
    sequences: options.OptionalCount = None,
    activation_checkpointing: Annotated[bool, Option("--activation-checkpointing")] = False,
    gpus_per_node: options.Count = 8,
    link_gbit: Annotated[float | None, Option(metavar="GBIT")] = None,
    time_limit: Annotated[str | None, Option(metavar="TIME")] = None,
    json: options.OptionalFile = None,
) -> None:
    """Estimate tokens, epochs, hours, network traffic, memory and disk of a run, on paper.

    Hardware:
        gpus: number of GPUs, one process each
        gpu: GPU model, such as H200, A100 or RTX4090
        gpus_per_node: largest number of GPUs in a node
        link_gbit: bandwidth of a node's network links together, in gigabits (not bytes) a second,
            such as 200 for one HDR or 1600 for eight
        time_limit: longest duration of a job, such as 24h, to count the jobs of the run
        utilisation: assumed share of the GPUs' peak throughput; measured on one H200: 0.42 with
            652 M parameters, 0.30 with 148 M
        activation_checkpointing: estimate for activation checkpointing, as in pretrain
    Data:
        tokens: tokens directory, whose sequences are counted instead of assumed
        mean_length: mean residues per sequence (286.5 by default, the mean of UniRef50)
        sequences: number of training sequences (by default the published number of the release)
    Output:
        json: JSON file to write the whole estimate to

    Example:
        esm1b estimate config/esm1b.yaml --gpus 64 --gpu A100 --link-gbit 200 --time-limit 24h
    """
    from esm1b.config import load_config
    from esm1b.corpus.tokens.dataset import open_tokens
    from esm1b.files import write_json
    from esm1b.pretraining.planning.data import assumed_data, measured_data
    from esm1b.pretraining.planning.estimate import estimate as run
    from esm1b.pretraining.planning.estimate_text import estimate_text
    from esm1b.pretraining.planning.gpus import find_gpu
    from esm1b.stopping import parse_duration

    if not 0 < utilisation <= 1:
        raise UserError(f"--utilisation: {utilisation:g}; expected more than 0 and at most 1")
    if mean_length is not None and not 1 <= mean_length < float("inf"):
        raise UserError(f"--mean-length: {mean_length:g}; expected at least 1 residue")
    if link_gbit is not None and not 0 < link_gbit < float("inf"):
        raise UserError(f"--link-gbit: {link_gbit:g}; expected more than 0 Gbit/s")
    if tokens is not None and (mean_length, sequences) != (None, None):
        raise UserError(
            "--tokens: already gives the number and length of sequences; expected no --mean-length "
            "and no --sequences"
        )
    kind = find_gpu(gpu)
    config = load_config(run_config)
    if tokens is None:
        data = assumed_data(config, mean_length=mean_length, sequences=sequences)
    else:
        data = measured_data(config, open_tokens(tokens, "train").lengths, str(tokens))
    result = run(
        config,
        data,
        gpu=kind,
        gpus=gpus,
        gpus_per_node=gpus_per_node,
        link_gbit=link_gbit,
        utilisation=utilisation,
        activation_checkpointing=activation_checkpointing,
        time_limit_seconds=(
            None if time_limit is None else parse_duration(time_limit, name="--time-limit")
        ),
    )
    if json is not None:
        write_json(json, result.as_json())
    print(estimate_text(result))


@runs("esm1b.cluster.profile:write_profile")
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


def pretrain(
    run_config: options.RunConfig,
    tokens: options.Directory,
    checkpoints: options.Directory,
    output: Annotated[Path, Option(metavar="MODEL_DIR")],
    micro_batch_tokens: Annotated[str, Option(metavar="N|auto")] = "4096",
    zero_stage: Annotated[int, Option(metavar="STAGE", min=0, max=3)] = 1,
    threads: options.Count = 1,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    attention: Literal["auto", "varlen", "sdpa", "explicit"] = "auto",
    activation_checkpointing: Annotated[bool, Option("--activation-checkpointing")] = False,
    compile_layers: Annotated[bool, Option("--compile")] = False,
    deepspeed: options.OptionalFile = None,
    loader_workers: Annotated[int, Option(metavar="N", min=0)] = 1,
    preload: Annotated[bool, Option("--preload")] = False,
    verify: Annotated[bool, Option("--verify")] = False,
    save_minutes: Annotated[float | None, Option(metavar="N")] = None,
    stop_after: Annotated[str | None, Option(metavar="TIME")] = None,
    start_limit: Annotated[str, Option(metavar="TIME")] = "2m",
    hang_limit: Annotated[str, Option(metavar="TIME")] = "90s",
    records: options.OptionalDirectory = None,
    mirror: Annotated[str | None, Option(metavar="URL")] = None,
    wandb: Annotated[str | None, Option(metavar="PROJECT")] = None,
) -> None:
    r"""Train the encoder with masked-language modelling, with any launcher or none.

    Launchers are torchrun, srun, mpirun and DeepSpeed's. Started again, a run resumes from its
    newest checkpoint, here or on its mirror, under any number of processes. SIGTERM, SIGINT or
    SIGUSR1 makes it save and exit with status 75, which torchrun reports as 1.

    Input:
        tokens: tokens directory, written by tokenize
        verify: compare the tokens with their digests before training
    Output:
        checkpoints: directory for checkpoints and metrics; a run that is already there is resumed
        save_minutes: longest time between checkpoints, in minutes
        output: model directory to write at the end
        records: directory for copies of metrics, attempts and state at the end
        mirror: copy of the checkpoints elsewhere, such as s3://BUCKET/DIR
        wandb: Weights & Biases project to log to as well
    Hardware:
        micro_batch_tokens: number of tokens per process in one forward pass; auto: as many as fit
            in memory
        zero_stage: state divided among processes: none (0, fp32 only), of the optimiser (1),
            gradients too (2), weights too (3)
        threads: number of CPU threads per process
        device: device; auto: CUDA if there is a GPU
        attention: attention path; varlen: without padding (CUDA in bf16 or fp16); sdpa: padded;
            auto: varlen where possible
        activation_checkpointing: compute activations again in the backward pass to save memory
        compile_layers: compile the layers; needs varlen attention and ZeRO stage 1 or 2
        deepspeed: JSON file with further DeepSpeed settings, such as bucket sizes
        loader_workers: threads per process that prepare batches ahead
        preload: read all tokens into memory at the start
    Stopping:
        stop_after: time after which to save and exit with status 75, such as 23h30m (by default
            shortly before SLURM ends the job)
        start_limit: longest wait for the other processes at the start
        hang_limit: longest silence of a process before the run ends

    Example:
        torchrun --standalone --nproc-per-node=2 --shutdown-timeout=600 \
            --signals-to-handle=SIGTERM,SIGINT,SIGUSR1 --no-python \
            esm1b pretrain config.yaml --tokens tokens --checkpoints checkpoints/run --output model
    """
    from esm1b.config import load_config
    from esm1b.pretraining.options import Layout, RunOptions
    from esm1b.pretraining.pretrain import pretrain as run
    from esm1b.stopping import parse_duration

    if save_minutes is not None and not 0 < save_minutes < float("inf"):
        raise UserError(f"--save-minutes: {save_minutes:g}; expected more than 0 minutes")
    is_automatic = micro_batch_tokens == "auto"
    layout = Layout(
        micro_batch_tokens=1 if is_automatic else _tokens(micro_batch_tokens),
        zero_stage=cast(Literal[0, 1, 2, 3], zero_stage),
        threads=threads,
        device=device,
        attention=attention,
        activation_checkpointing=activation_checkpointing,
        compile=compile_layers,
        deepspeed_file=deepspeed,
    )
    options = RunOptions(
        loader_workers=loader_workers,
        preload=preload,
        verify=verify,
        stop_after_seconds=(
            None if stop_after is None else parse_duration(stop_after, name="--stop-after")
        ),
        save_minutes=save_minutes,
        wandb_project=wandb,
        automatic_micro_batch=is_automatic,
        records=records,
        start_limit_seconds=parse_duration(start_limit, name="--start-limit"),
        hang_limit_seconds=parse_duration(hang_limit, name="--hang-limit"),
        mirror=mirror,
    )
    run(load_config(run_config), tokens, checkpoints, output, layout, options)


def _tokens(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(
            f"--micro-batch-tokens: {text!r}; expected a number of tokens, 1 or more, or auto"
        )
    return int(text)


def watch(run: Annotated[str, Argument(metavar="RUN")]) -> None:
    """Show the progress of a run: loss curve, validation, rate, time left, attempts, last warning.

    Only the run's files are read, so that the run may be on another machine, started by anybody.
    On a terminal the display follows the run until the run has finished or Ctrl-C is pressed.

    Input:
        run: name of a run, looked up in checkpoints/RUN and results/RUN/training, or the path of
            such a directory

    Example:
        esm1b watch demonstration
    """
    from rich.console import Console

    from esm1b.pretraining.watch import find_run
    from esm1b.pretraining.watch import watch as show

    with suppress(KeyboardInterrupt):
        show(find_run(run), Console(highlight=False))


def audit(
    checkpoints: Annotated[Path, Argument(metavar="CHECKPOINTS")],
    tokens: options.Directory,
    updates: Annotated[int | None, Option(metavar="N", min=0)] = None,
    corpus: options.OptionalDirectory = None,
    output: options.OptionalDirectory = None,
    table: Annotated[bool, Option("--table")] = False,
) -> None:
    """Count how often a run has seen each training sequence, skipped updates excluded.

    The sequences of each update are computed again and compared with the run's own records; the
    exit status is 1 if they differ.

    Input:
        checkpoints: checkpoint directory of the run
        tokens: tokens directory that the run trains on
        updates: number of updates to audit (by default up to the newest checkpoint)
        corpus: corpus directory, written by shard, to name sequences by their ids
    Output:
        output: directory to write audit.json to, new or replaced whole
        table: write times_seen.parquet as well, one row per sequence

    Example:
        esm1b audit checkpoints/run --tokens tokens --output audit
    """
    from esm1b.pretraining.audit.audit import audit_run
    from esm1b.pretraining.audit.times_seen import audit_text

    if table and output is None:
        raise UserError("--table: given without --output; expected a directory to write it to")
    result = audit_run(
        checkpoints, tokens, updates=updates, corpus=corpus, output=output, table=table
    )
    print(audit_text(result))
    if result.failures:
        raise typer.Exit(1)
