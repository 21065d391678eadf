"""Commands from a release or a FASTA file to tokens."""

import logging
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from esm1b.commands import options
from esm1b.commands.command import runs


@runs("esm1b.synthetic.dataset:synthesize")
def synthesize(
    output: options.OutputDirectory,
    families: Annotated[int, Option(metavar="N", min=4)] = 16,
    unseen_families: Annotated[int, Option(metavar="N", min=2)] = 6,
    sequences: Annotated[int, Option(metavar="N", min=10)] = 2000,
    seed: options.Seed = 1,
) -> None:
    """Draw protein families whose contacts, effects of mutations and best perplexity are known.

    Families:
        families: `corpus.synthetic.families`
        unseen_families: `corpus.synthetic.unseen_families`
        sequences: `corpus.synthetic.sequences`
        seed: random seed of everything that is drawn

    Example:
        esm1b synthesize --output synthetic --families 16 --sequences 2000 --seed 1
    """


@runs("esm1b.download.download:download")
def download(
    output: options.Directory,
    release: Annotated[str | None, Option(metavar="NAME")] = None,
    validation_list: Annotated[bool, Option("--validation-list")] = False,
    mirrors: Annotated[list[str] | None, Option("--mirror", metavar="URL")] = None,
    limit: Annotated[str | None, Option(metavar="LIMIT")] = None,
    sample: options.OptionalShare = None,
    digest: Annotated[str | None, Option(metavar="ALGORITHM:HEX")] = None,
) -> None:
    """Download a UniRef50 release, verify its published digest, and write download.json.

    The same command resumes an interrupted download and verifies a finished one. Proxies are
    taken from the environment (https_proxy).

    Output:
        output: directory for the downloaded file and download.json
    Source:
        release: `corpus.release`
        validation_list: list of the clusters that ESM-1b held out, instead of a release
        mirrors: URL to download from instead of UniProt, EBI and Expasy; repeat for several, tried
            in order
        digest: expected digest of the file, such as md5:...
    Selection:
        limit: `corpus.limit`
        sample: `corpus.sample`

    Example:
        esm1b download --release current --output uniref50
    """


def shard(
    inputs: Annotated[list[str], Argument(metavar="INPUT...")],
    output: options.OutputDirectory,
    shards: options.Count = 16,
    validation_fraction: options.Share = 0.005,
    validation_ids: options.OptionalFile = None,
    allow_partial_list: Annotated[bool, Option("--allow-partial-list")] = False,
    minimum_length: options.OptionalCount = None,
    maximum_length: options.OptionalCount = None,
    sample: options.OptionalShare = None,
    exclude: options.OptionalFile = None,
    strict: Annotated[bool, Option("--strict")] = False,
    source: options.OptionalFile = None,
    workers: options.Count = 1,
) -> None:
    """Clean sequences, hold some out, and write Parquet shards with a manifest.

    The result does not depend on the order of the records or the number of workers. Sharding needs
    about as much temporary disk space beside the output as the uncompressed input takes.

    Input:
        inputs: FASTA, UniRef XML or UniProt release archive, plain or .gz; '-' is standard input
        source: download.json of the input, whose release the manifest records
    Output:
        shards: `corpus.shards`
    Split:
        validation_fraction: `corpus.validation_fraction`
        validation_ids: file of cluster ids to hold out; replaces --validation-fraction
        allow_partial_list: `corpus.allow_partial_list`
    Selection:
        minimum_length: `corpus.minimum_length`
        maximum_length: `corpus.maximum_length`
        sample: `corpus.sample`
        exclude: `corpus.exclude`
        strict: `corpus.strict`
    Resources:
        workers: number of processes that parse, sort and write; 250 MB of memory each

    Example:
        esm1b shard uniref50.fasta.gz --output corpus --shards 64 --workers 8
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


@runs("esm1b.corpus.tokens.tokenize:tokenize")
def tokenize(
    corpus: Annotated[Path, Argument(metavar="CORPUS_DIR")],
    output: options.OutputDirectory,
    workers: options.Count = 1,
) -> None:
    """Turn the shards of a corpus into memory-mapped token ids.

    Input:
        corpus: corpus directory, written by shard
    Resources:
        workers: number of processes; each needs memory for the residues of one shard

    Example:
        esm1b tokenize corpus --output tokens --workers 8
    """


def corpus_info(
    directory: Annotated[Path, Argument(metavar="DIR")],
    verify: Annotated[bool, Option("--verify/--no-verify")] = True,
) -> None:
    """Print counts, splits and lengths of a corpus or tokens directory; verify every file's digest.

    Input:
        directory: corpus or tokens directory, written by shard or tokenize
        verify: read every shard and compare its digest with the manifest

    Example:
        esm1b corpus-info corpus
    """
    from esm1b.corpus.describe import manifest_text, manifest_warnings
    from esm1b.corpus.manifest import CORPUS_FORMAT, TOKENS_FORMAT, read_manifest
    from esm1b.corpus.manifest import verify as run

    manifest = read_manifest(directory, CORPUS_FORMAT, TOKENS_FORMAT)
    if verify:
        run(directory, manifest)
    print(manifest_text(manifest))
    if verify:
        print("verified     every shard has the digest in the manifest")
    for warning in manifest_warnings(manifest):
        logging.getLogger(__name__).warning("%s: %s", directory, warning)
