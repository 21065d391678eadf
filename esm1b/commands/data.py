"""Commands from a release or a FASTA file to tokens."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from esm1b.commands.options import OutputDirectory
from esm1b.errors import UserError


def synthesize(
    output: OutputDirectory,
    families: Annotated[int, typer.Option(min=4, help="families in the corpus")] = 16,
    unseen_families: Annotated[
        int, typer.Option(min=2, help="families that are not in the corpus")
    ] = 6,
    sequences: Annotated[int, typer.Option(min=10, help="sequences of each family")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="of everything that is drawn")] = 1,
) -> None:
    """Draw protein families whose contacts and best possible perplexity are known exactly.

    Example: esm1b synthesize --output synthetic --families 16 --sequences 2000 --seed 1
    """
    from esm1b.synthetic.dataset import synthesize as run
    from esm1b.synthetic.families import SyntheticSettings

    run(
        output,
        SyntheticSettings(
            families=families, unseen_families=unseen_families, sequences=sequences, seed=seed
        ),
    )


def download(
    output: Annotated[
        Path, typer.Option("--output", metavar="DIR", help="directory for it and download.json")
    ],
    release: Annotated[
        str | None, typer.Option(metavar="NAME", help="of UniRef50: current, or such as 2018_03")
    ] = None,
    validation_list: Annotated[
        bool,
        typer.Option("--validation-list", help="the list of clusters that ESM-1b held out instead"),
    ] = False,
    mirrors: Annotated[
        list[str] | None,
        typer.Option(
            "--mirror",
            metavar="URL",
            help="to ask instead of UniProt, EBI and Expasy; repeat for several, in their order",
        ),
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(help="only the beginning, such as 10MB or 1000records: a smoke test"),
    ] = None,
    sample: Annotated[
        float | None,
        typer.Option(help="keep only this share of the records, by a keyed hash of the sequence"),
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option(metavar="ALGORITHM:HEX", help="that the file must have, such as md5:..."),
    ] = None,
) -> None:
    """Fetch a UniRef50 release, verified by its published digest, and write download.json.

    Interrupted, the same command goes on where it was; once done, it verifies what is there.
    Proxies come from the environment (https_proxy).

    Example: esm1b download --release current --output uniref50
    """
    from esm1b.download.download import download_release, download_validation_list

    if (release is None) is not validation_list:
        raise UserError("expected either --release or --validation-list")
    if release is not None:
        download_release(
            release, output, mirrors=mirrors or (), limit=limit, sample=sample, digest=digest
        )
        return
    if limit is not None or sample is not None:
        raise UserError("--validation-list is fetched whole; expected no --limit and no --sample")
    download_validation_list(output, mirrors=mirrors or (), digest=digest)


def shard(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="FASTA, UniRef XML or UniProt release archive, plain or .gz; '-' is standard "
            "input",
        ),
    ],
    output: OutputDirectory,
    shards: Annotated[int, typer.Option(min=1, help="Parquet files of the training split")] = 16,
    validation_fraction: Annotated[
        float, typer.Option(help="share held out, by a keyed hash of the sequence")
    ] = 0.005,
    validation_ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="ids to hold out instead")
    ] = None,
    allow_partial_list: Annotated[
        bool,
        typer.Option(
            "--allow-partial-list", help="go on if some of those ids are not among the records"
        ),
    ] = False,
    minimum_length: Annotated[
        int | None, typer.Option(min=1, help="drop records of fewer residues")
    ] = None,
    maximum_length: Annotated[
        int | None, typer.Option(min=1, help="drop records of more residues")
    ] = None,
    sample: Annotated[
        float | None,
        typer.Option(help="keep only this share of the sequences, by another keyed hash"),
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="leave out these ids: a list, or FASTA"),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="refuse the input instead of dropping a record with other characters, without a "
            "sequence, of an unwanted length or with the id of another",
        ),
    ] = False,
    source: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="download.json, whose release the manifest is to name"),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=1, help="processes that parse, sort and write; 250 MB each")
    ] = 1,
) -> None:
    """Clean sequences, hold some out, and write Parquet shards with a manifest.

    The result does not depend on the order of the records or the number of workers. On the way it
    takes about as much disk beside the output as the uncompressed input.

    Example: esm1b shard uniref50.fasta.gz --output corpus --shards 64 --workers 8
    """
    from esm1b.corpus.records.selection import Selection
    from esm1b.corpus.sharding.shard import shard as run
    from esm1b.download.lock import read_source

    selection = Selection(
        validation_fraction=validation_fraction,
        validation_ids=validation_ids,
        allow_partial_list=allow_partial_list,
        minimum_length=minimum_length,
        maximum_length=maximum_length,
        sample=sample,
        exclude=exclude,
        strict=strict,
    )
    run(
        inputs,
        output,
        selection,
        shards=shards,
        source=None if source is None else read_source(source),
        workers=workers,
    )


def tokenize(
    corpus: Annotated[Path, typer.Argument(metavar="CORPUS_DIR", help="what shard wrote")],
    output: OutputDirectory,
    workers: Annotated[
        int, typer.Option(min=1, help="processes; each needs the memory of a shard's residues")
    ] = 1,
) -> None:
    """Turn the shards of a corpus into memory-mapped token ids.

    Example: esm1b tokenize corpus --output tokens --workers 8
    """
    from esm1b.corpus.tokens.tokenize import tokenize as run

    run(corpus, output, workers=workers)


def corpus_info(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="what shard or tokenize wrote")],
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="read every shard and compare its digest")
    ] = True,
) -> None:
    """Print the facts of a corpus or of tokens, and verify that the files are what they were.

    Example: esm1b corpus-info corpus
    """
    from esm1b.corpus.describe import cluster_warning, manifest_text
    from esm1b.corpus.manifest import CORPUS_FORMAT, TOKENS_FORMAT, read_manifest
    from esm1b.corpus.verify import verify as run

    manifest = read_manifest(directory, CORPUS_FORMAT, TOKENS_FORMAT)
    if verify:
        run(directory, manifest)
    print(manifest_text(manifest))
    if verify:
        print("verified     every shard has the digest that the manifest says")
    if warning := cluster_warning(manifest):
        logging.getLogger(__name__).warning("%s: %s", directory, warning)
