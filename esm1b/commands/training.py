"""Commands from tokens to a model and its page."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from esm1b.commands.options import ModelDirectory, OutputDirectory
from esm1b.errors import UserError

__all__ = ["pretrain", "report"]


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
    from esm1b.pretraining.options import Hardware, Manner
    from esm1b.pretraining.pretrain import pretrain as run
    from esm1b.stopping import parse_duration

    is_automatic = micro_batch_tokens == "auto"
    hardware = Hardware(
        micro_batch_tokens=1 if is_automatic else _tokens(micro_batch_tokens),
        zero_stage=cast(Literal[0, 1, 2, 3], zero_stage),
        threads=threads,
        device=device,
        attention=attention,
        activation_checkpointing=activation_checkpointing,
        compile=compile_layers,
        deepspeed_file=deepspeed,
    )
    manner = Manner(
        loader_workers=loader_workers,
        preload=preload,
        verify=verify,
        stop_after_seconds=(
            None if stop_after is None else parse_duration(stop_after, name="--stop-after")
        ),
        wandb_project=wandb,
        automatic_micro_batch=is_automatic,
    )
    run(load_config(run_config), tokens, checkpoints, output, hardware, manner)


def _tokens(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UserError(
            f"--micro-batch-tokens: {text!r}; expected a number of tokens, 1 or more, or auto"
        )
    return int(text)


def report(
    model: ModelDirectory,
    corpus: Annotated[Path, typer.Option(metavar="DIR", help="what shard wrote")],
    training: Annotated[Path, typer.Option(metavar="FILE", help="metrics.jsonl of the run")],
    evaluations: Annotated[
        list[Path], typer.Option("--evaluation", metavar="DIR", help="what evaluate wrote; repeat")
    ],
    output: OutputDirectory,
    audit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="audit.json, what audit wrote")
    ] = None,
) -> None:
    """Make the page: corpus, training curves, evaluations beside published numbers.

    Example: esm1b report model --corpus corpus --training checkpoints/run/metrics.jsonl
    --evaluation evaluation/contacts --output report
    """
    from esm1b.report.page import write_report

    write_report(
        model,
        corpus=corpus,
        training=training,
        evaluations=evaluations,
        output=output,
        audit=audit,
    )
