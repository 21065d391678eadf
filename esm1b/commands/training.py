"""Commands about a run: what it takes, the run itself, and what it has seen."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from esm1b.errors import UserError


def estimate(
    run_config: Annotated[
        Path, typer.Argument(metavar="RUN_CONFIG", help="configuration, YAML or JSON")
    ],
    gpus: Annotated[int, typer.Option(min=1, help="how many, a process for each")],
    gpu: Annotated[str, typer.Option(metavar="NAME", help="such as H200, A100 or RTX4090")],
    utilisation: Annotated[
        float, typer.Option(help="share of the GPUs' peak; 0.5 is a target, not a measurement")
    ] = 0.5,
    tokens: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="what tokenize wrote: lengths and number are counted"),
    ] = None,
    mean_length: Annotated[
        float | None,
        typer.Option(help="residues of a sequence on average  [default: 286.5, UniRef50's]"),
    ] = None,
    sequences: Annotated[
        int | None,
        typer.Option(
            min=1, help="training sequences  [default: the published number of the release]"
        ),
    ] = None,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", help="as of pretrain")
    ] = False,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write all of it to a JSON file too")
    ] = None,
) -> None:
    """Print what a run takes, on paper: tokens, epochs, operations, hours, memory and disk.

    Example: esm1b estimate config/esm1b.yaml --gpus 8 --gpu H200
    """
    from esm1b.config import load_config
    from esm1b.corpus.tokens.dataset import open_tokens
    from esm1b.files import write_json
    from esm1b.pretraining.planning.data import assumed_data, measured_data
    from esm1b.pretraining.planning.estimate import estimate as run
    from esm1b.pretraining.planning.estimate_text import estimate_text
    from esm1b.pretraining.planning.gpus import find_gpu

    if not 0 < utilisation <= 1:
        raise UserError(f"--utilisation: {utilisation:g}; expected more than 0 and at most 1")
    if mean_length is not None and not 1 <= mean_length < float("inf"):
        raise UserError(f"--mean-length: {mean_length:g}; expected at least 1 residue")
    if tokens is not None and (mean_length, sequences) != (None, None):
        raise UserError("--tokens: counts what --mean-length and --sequences say; expected either")
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
        utilisation=utilisation,
        activation_checkpointing=activation_checkpointing,
    )
    if json is not None:
        write_json(json, result.as_json())
    print(estimate_text(result))


def pretrain(
    run_config: Annotated[
        Path, typer.Argument(metavar="RUN_CONFIG", help="configuration, YAML or JSON")
    ],
    tokens: Annotated[Path, typer.Option(metavar="DIR", help="what tokenize wrote")],
    checkpoints: Annotated[
        Path, typer.Option(metavar="DIR", help="checkpoints and metrics; a rerun goes on from it")
    ],
    output: Annotated[
        Path, typer.Option(metavar="MODEL_DIR", help="model directory to write at the end")
    ],
    micro_batch_tokens: Annotated[
        str,
        typer.Option(metavar="N|auto", help="tokens that a process takes at once; auto: by memory"),
    ] = "4096",
    zero_stage: Annotated[
        int,
        typer.Option(
            min=0,
            max=3,
            help="DeepSpeed divides optimiser state (1), gradients (2) and weights (3) too",
        ),
    ] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each process")] = 1,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto is cuda where there is any")
    ] = "auto",
    attention: Annotated[
        Literal["auto", "varlen", "sdpa", "explicit"],
        typer.Option(
            help="auto is varlen on cuda in bf16 and fp16, where the width of a head is a "
            "multiple of 8 up to 256, and sdpa elsewhere"
        ),
    ] = "auto",
    activation_checkpointing: Annotated[
        bool,
        typer.Option(
            "--activation-checkpointing", help="less memory: layers are computed once more"
        ),
    ] = False,
    compile_layers: Annotated[
        bool, typer.Option("--compile", help="compile the layers (cuda; bf16, fp16)")
    ] = False,
    deepspeed: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="JSON with settings of DeepSpeed's, such as bucket sizes"
        ),
    ] = None,
    loader_workers: Annotated[
        int, typer.Option(min=0, help="threads of each process that prepare batches ahead")
    ] = 1,
    preload: Annotated[
        bool, typer.Option("--preload", help="read the tokens into memory at the start")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="compare the tokens with their digests first")
    ] = False,
    stop_after: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="save and exit with 75 after, say, 23h30m, 90m or 3600"),
    ] = None,
    wandb: Annotated[
        str | None, typer.Option(metavar="PROJECT", help="log to Weights & Biases too")
    ] = None,
) -> None:
    """Train the encoder with masked-language modelling, with any launcher or none.

    Launchers are torchrun, srun, mpirun and DeepSpeed's. Started again, it goes on from the newest
    checkpoint, under any number of processes. SIGTERM, SIGINT or SIGUSR1 saves and exits with
    status 75, which torchrun reports as 1.

    Example: torchrun --standalone --nproc-per-node=2 --shutdown-timeout=600
    --signals-to-handle=SIGTERM,SIGINT,SIGUSR1 --no-python esm1b pretrain config.yaml
    --tokens tokens --checkpoints checkpoints/run --output model
    """
    from esm1b.config import load_config
    from esm1b.pretraining.options import Layout, RunOptions
    from esm1b.pretraining.pretrain import pretrain as run
    from esm1b.stopping import parse_duration

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
        wandb_project=wandb,
        automatic_micro_batch=is_automatic,
    )
    run(load_config(run_config), tokens, checkpoints, output, layout, options)


def _tokens(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(
            f"--micro-batch-tokens: {text!r}; expected a number of tokens, 1 or more, or auto"
        )
    return int(text)


def audit(
    checkpoints: Annotated[
        Path, typer.Argument(metavar="CHECKPOINTS", help="checkpoints and metrics of the run")
    ],
    tokens: Annotated[Path, typer.Option(metavar="DIR", help="what the run trains on")],
    updates: Annotated[
        int | None, typer.Option(min=0, help="up to which  [default: the newest checkpoint's]")
    ] = None,
    corpus: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="what shard wrote: names sequences by their ids"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="directory for audit.json, new or replaced"),
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="also times_seen.parquet, a row for each sequence")
    ] = False,
) -> None:
    """Count how often a run has seen each training sequence, skipped updates taken out.

    The order of the run is counted sequence by sequence and compared with what the run recorded.
    Exits with status 1 where they differ.

    Example: esm1b audit checkpoints/run --tokens tokens --output audit
    """
    from esm1b.pretraining.audit.audit import audit_run
    from esm1b.pretraining.audit.times_seen import audit_text

    if table and output is None:
        raise UserError("--table: without --output; expected a directory to write it to")
    result = audit_run(
        checkpoints, tokens, updates=updates, corpus=corpus, output=output, table=table
    )
    print(audit_text(result))
    if result.failures:
        raise typer.Exit(1)
