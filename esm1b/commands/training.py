"""Commands from tokens to a model and its page."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from esm1b.commands.options import ModelDirectory, OutputDirectory

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
        int, typer.Option(min=1, help="tokens that a process takes at once")
    ] = 4096,
    zero_stage: Annotated[
        int,
        typer.Option(
            min=1, max=2, help="DeepSpeed divides optimiser state (1), and gradients too (2)"
        ),
    ] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each process")] = 1,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto is cuda where there is any")
    ] = "auto",
    attention: Annotated[
        Literal["auto", "varlen", "sdpa", "explicit"],
        typer.Option(help="auto is varlen on cuda in bf16, sdpa elsewhere"),
    ] = "auto",
    activation_checkpointing: Annotated[
        bool,
        typer.Option(
            "--activation-checkpointing", help="less memory: layers are computed once more"
        ),
    ] = False,
    compile_layers: Annotated[
        bool, typer.Option("--compile", help="compile the layers (cuda, bf16)")
    ] = False,
) -> None:
    """Train the encoder with masked-language modelling, under torchrun, srun or alone.

    Started again, it goes on from the newest checkpoint. SIGTERM, SIGINT or SIGUSR1 saves and
    exits with status 75.

    Example: torchrun --standalone --nproc-per-node=2 --no-python esm1b pretrain config.yaml
    --tokens tokens --checkpoints checkpoints/run --output model
    """
    from esm1b.config import load_config
    from esm1b.pretraining.engine import Hardware
    from esm1b.pretraining.loop import pretrain as run

    hardware = Hardware(
        micro_batch_tokens=micro_batch_tokens,
        zero_stage=2 if zero_stage == 2 else 1,
        threads=threads,
        device=device,
        attention=attention,
        activation_checkpointing=activation_checkpointing,
        compile=compile_layers,
    )
    run(load_config(run_config), tokens, checkpoints, output, hardware)


def report(
    model: ModelDirectory,
    corpus: Annotated[Path, typer.Option(metavar="DIR", help="what shard wrote")],
    training: Annotated[Path, typer.Option(metavar="FILE", help="metrics.jsonl of the run")],
    evaluations: Annotated[
        list[Path], typer.Option("--evaluation", metavar="DIR", help="what evaluate wrote; repeat")
    ],
    output: OutputDirectory,
) -> None:
    """Make the page: corpus, training curves, evaluations beside published numbers.

    Example: esm1b report model --corpus corpus --training checkpoints/run/metrics.jsonl
    --evaluation evaluation/contacts --output report
    """
    from esm1b.report.page import write_report

    write_report(model, corpus=corpus, training=training, evaluations=evaluations, output=output)
