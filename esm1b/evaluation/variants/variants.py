"""Measured effects of mutations against a network's scores: `esm1b evaluate variants`."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from esm1b.errors import UserError
from esm1b.evaluation.inputs import describe_inputs
from esm1b.evaluation.networks import networks_of
from esm1b.evaluation.results import VARIANTS_FILE, write_metrics
from esm1b.evaluation.variants.assays import Columns, read_assay
from esm1b.evaluation.variants.scores import MODELS, score_assay, variant_table
from esm1b.evaluation.variants.sources import find_assays
from esm1b.evaluation.variants.summary import summarise, summarise_assay
from esm1b.inference.model import Device, Model, Precision, load_model
from esm1b.outputs import atomic_directory
from esm1b.scoring.variant_scores import Convention
from esm1b.scoring.weighted_passes import Window

_log = logging.getLogger(__name__)


def evaluate_variants(
    model_directory: Path,
    data: Path,
    output: Path,
    *,
    wild_type: Path | None = None,
    reference: Path | None = None,
    offset: int = 1,
    variant_column: str | None = None,
    score_column: str | None = None,
    compare: Sequence[str] = (),
    convention: Convention = "masked-marginals",
    window: Window = "optimal",
    epistasis: int = 0,
    untrained: int = 3,
    seed: int = 0,
    batch_tokens: int | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Score the variants of assays and write how well the scores rank the measured effects.

    Writes `metrics.json`, with the results of each assay under `assays`, and `variants.parquet` (a
    row per variant, with the scores of every model). An assay that cannot be used is left out, told
    and counted, like rows that cannot be scored.

    Args:
        model_directory: the trained model.
        data: a table of variants or a ProteinGym folder, see `find_assays`.
        output: directory to write.
        wild_type: FASTA file of the protein of a table without a column of wild types.
        reference: reference file of a folder, where it does not lie in it.
        offset: number of the first residue of the wild types.
        variant_column: column of the mutations, where its name does not tell.
        score_column: column of the measured effects, where its name does not tell.
        compare: columns of other predictions, to compare with.
        convention: definition of the scores, see `score_variants`.
        window: pieces of wild types longer than the model takes.
        epistasis: largest number of double mutants of an assay whose epistasis is measured.
        untrained: number of random initialisations of the same network to compare with, or 0.
        seed: random seed of the double mutants, the initialisations and the bootstrap.
        batch_tokens: number of tokens in one forward pass; by the device if None.
        device: device of the networks.
        precision: precision of the networks.

    Raises:
        UserError: the data are not usable.
    """
    if taken := sorted(set(compare) & set(MODELS)):
        raise UserError(f"--compare: {taken[0]} is a name of our own; expected another column name")
    columns = Columns(
        variant=variant_column, score=score_column, compared=tuple(compare), offset=offset
    )
    read = [path for path in (model_directory, data, wild_type, reference) if path is not None]
    with atomic_directory(output, "variant-effects", read) as directory:
        sources = find_assays(data, columns, wild_type=wild_type, reference=reference)
        model = load_model(model_directory, device=device, precision=precision)
        options: dict[str, Any] = {
            **{"offset": offset, "variant_column": variant_column, "score_column": score_column},
            **{"compare": list(compare), "convention": convention, "window": window},
            **{"epistasis": epistasis, "untrained": untrained, "seed": seed},
            **{"batch_tokens": batch_tokens, "device": device, "precision": model.precision},
        }
        inputs = describe_inputs(
            directory,
            model.directory,
            options,
            data=data,
            wild_type=wild_type,
            reference=reference,
        )
        networks: dict[str, list[Model]] = {}
        for name, network in networks_of(model, untrained, seed):
            networks.setdefault(name, []).append(network)
        wild_types = sorted({source.wild_type for source in sources})
        results, tables = [], []
        left_out: dict[str, str] = {}
        for source in tqdm(sources, desc="assays", unit="assay", disable=None):
            try:
                assay = read_assay(source, columns)
            except UserError as error:
                if len(sources) == 1:
                    raise
                left_out[source.name] = str(error)
                _log.warning("left out: %s", error)
                continue
            scored = score_assay(
                assay,
                networks,
                wild_types,
                convention=convention,
                window=window,
                epistasis=epistasis,
                batch_tokens=batch_tokens,
                seed=seed,
            )
            results.append(summarise_assay(scored, seed=seed))
            tables.append(variant_table(scored))
        if not results:
            reason = next(iter(left_out.values()))
            raise UserError(f"none of {len(sources)} assays can be used; the first: {reason}")
        pq.write_table(pa.concat_tables(tables), directory / VARIANTS_FILE)
        protocol = {
            "convention": convention,
            "window": window,
            "score": "log p(mutant) - log p(wild type), summed over the mutations",
            "assays": len(results),
            "assays_left_out": len(left_out),
            "variants": sum(result.variants for result in results),
            "left_out": dict(sum((Counter(result.left_out) for result in results), Counter())),
            "longer_than_the_model": sum(
                len(result.source.wild_type) > model.longest_sequence for result in results
            ),
            "longest_sequence": model.longest_sequence,
            "ndcg_and_recall": "of the top 10 %",
            "mcc": "predictions of at least the median count as fit",
            "residue_frequencies": f"{len(wild_types)} wild types of the data",
            "epistasis": epistasis,
            "untrained_networks": untrained,
            "seed": seed,
            "batch_tokens": batch_tokens,
            "device": model.device,
            "precision": model.precision,
        }
        write_metrics(
            directory,
            evaluation="variants",
            model=model.directory,
            inputs=inputs,
            protocol=protocol,
            **summarise(results, seed=seed),
            assays_left_out=left_out,
        )
