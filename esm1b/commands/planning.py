"""Commands about a run before it starts and after: what it takes, and what it has seen."""

from pathlib import Path
from typing import Annotated

import typer

from esm1b.errors import UserError

__all__ = ["audit", "estimate"]


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
    from esm1b.corpus.tokens.tokenize import open_tokens
    from esm1b.files import write_json
    from esm1b.pretraining.planning.estimate import assumed_data, measured_data
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
    result, ids = audit_run(
        checkpoints, tokens, updates=updates, corpus=corpus, output=output, table=table
    )
    print(audit_text(result, ids))
    if result.failures:
        raise typer.Exit(1)
