"""Three-state secondary structure by a linear probe: `esm1b evaluate secondary-structure`."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from esm1b.errors import UserError
from esm1b.evaluation.results import write_metrics
from esm1b.evaluation.secondary_structure.data import STATES, read_labelled_proteins, state_labels
from esm1b.evaluation.secondary_structure.linear_probe import LinearProbe
from esm1b.evaluation.secondary_structure.probes import (
    REPRESENTATION_WINDOW,
    WINDOW,
    Features,
    ProbeSplit,
    confusion_of_majority,
    confusion_of_probe,
    majority_class,
    one_hot_windows,
    representations_of,
)
from esm1b.evaluation.secondary_structure.summary import (
    comparisons_of,
    confusion_as_json,
    metrics_of,
    protein_table,
    subsets_of,
)
from esm1b.evaluation.structures.proteins import Protein, draw_kinds, fitting_length, keyed_order
from esm1b.files import atomic_directory, check_replaceable
from esm1b.inference.load_model import load_model, untrained_model
from esm1b.weights.model_directory import ModelDirectory

_log = logging.getLogger(__name__)

_FIT_SHARE: Final = 0.8  # of the proteins, where the data do not say
_HELD_OUT_SHARE: Final = 0.25  # of the groups to fit, where there is no validation split


def evaluate_secondary_structure(
    model_directory: Path,
    data: Path,
    output: Path,
    *,
    untrained: int = 3,
    seed: int = 0,
    maximum_residues: int | None = None,
) -> None:
    """Fit linear probes on frozen features and write their accuracy to `output`.

    Writes `metrics.json`, with the confusion of true (row) and predicted (column) states under
    `confusion`, and `proteins.parquet` (a row per protein and model). Subset `not_fitted` is test
    and unseen together. `three_state_accuracy` is the mean over groups of each protein's accuracy;
    `three_state_accuracy_per_residue` and the recalls pool residues.

    Args:
        model_directory: the trained model.
        data: a CSV or a structure table, see `read_labelled_proteins`.
        output: directory to write.
        untrained: how many initialisations of the same network to compare with, each with a probe
            of its own.
        seed: of the draws, the initialisations and the bootstrap.
        maximum_residues: fit on whole proteins, drawn with the seed, of about this many residues.
            None fits on all, for which there must be 4 bytes of memory per residue and feature.

    Raises:
        UserError: the data are not usable or leave nothing to fit or to test.
    """
    check_replaceable(output, "secondary-structure", [model_directory, data])
    everything = read_labelled_proteins(data)
    model = load_model(model_directory)
    short_enough = fitting_length(everything, model.longest_sequence)
    proteins = draw_kinds(
        short_enough, fit_proteins=round(_FIT_SHARE * len(short_enough)), seed=seed, source=data
    )
    split = _split(proteins, maximum_residues, seed, data)
    majority = majority_class([*split.fit, *split.held_out])

    probes: list[tuple[str, LinearProbe]] = []
    confusions: dict[str, NDArray[np.float64]] = {}

    def measure(name: str, features: Features) -> NDArray[np.float64]:
        probe, confusion = confusion_of_probe(features, split, label=name)
        probes.append((name, probe))
        return confusion

    confusions["trained"] = measure("trained", representations_of(model))
    if untrained:
        makers = [partial(untrained_model, model, seed + k) for k in range(untrained)]
        # The mean of the counts: an untrained network is an average one.
        confusions["untrained"] = np.mean(
            np.stack([measure("untrained", representations_of(make())) for make in makers]), axis=0
        )
    confusions["one_hot_window"] = measure("one_hot_window", one_hot_windows)
    confusions["majority_class"] = confusion_of_majority(majority, split.rest)

    available = [protein for protein in proteins if protein.kind in ("fit", "validation")]
    protocol = {
        "states": STATES,
        "features": "representations after the last layer norm, frozen",
        "representation_window": REPRESENTATION_WINDOW,
        "probe": "multinomial logistic regression on standardised features, L2",
        "penalty": probes[0][1].penalty,
        "one_hot_window": WINDOW,
        "majority_class": STATES[majority],
        "fit_proteins": len(split.fit) + len(split.held_out),
        "fit_proteins_choosing_the_penalty": len(split.held_out),
        "fit_groups": len({protein.group for protein in [*split.fit, *split.held_out]}),
        "fit_residues": _residues([*split.fit, *split.held_out]),
        "fit_residues_available": _residues(available),
        "test_proteins": sum(protein.kind == "test" for protein in proteins),
        "unseen_proteins": sum(protein.kind == "unseen" for protein in proteins),
        "left_out_too_long": len(everything) - len(short_enough),
        "longest_sequence": model.longest_sequence,
        "untrained_networks": untrained,
        "seed": seed,
    }
    subsets = subsets_of(split.rest)
    with atomic_directory(output, "secondary-structure", [model_directory, data]) as directory:
        pq.write_table(protein_table(confusions, split.rest), directory / "proteins.parquet")
        write_metrics(
            directory,
            evaluation="secondary_structure",
            model=ModelDirectory(model_directory).description,
            protocol=protocol,
            metrics=metrics_of(confusions, split.rest, subsets, seed),
            comparisons=comparisons_of(confusions, split.rest, subsets, seed),
            more={
                "confusion": confusion_as_json(confusions, subsets),
                "probes": [
                    {
                        "model": name,
                        "penalty": probe.penalty,
                        "held_out_loss": {
                            f"{k:g}": loss for k, loss in probe.held_out_loss.items()
                        },
                    }
                    for name, probe in probes
                ],
            },
        )


def _split(
    proteins: Sequence[Protein], maximum_residues: int | None, seed: int, data: Path
) -> ProbeSplit:
    """Choose what fits, what chooses the penalty and what tests."""
    usable = [protein for protein in proteins if protein.kind in ("fit", "validation")]
    available = _residues(usable)
    if maximum_residues is not None:
        kept, total = set(), 0
        for protein in sorted(usable, key=lambda protein: keyed_order(seed, protein.id)):
            if total < maximum_residues:
                kept.add(protein.id)
                total += _residues([protein])
        usable = [protein for protein in usable if protein.id in kept]
        _log.info("the probes are fitted on %d of %d residues", total, available)
    held_out = {protein.group for protein in usable if protein.kind == "validation"}
    if not held_out:
        groups = sorted(
            {protein.group for protein in usable}, key=lambda group: keyed_order(seed, group)
        )
        held_out = set(groups[: max(1, round(_HELD_OUT_SHARE * len(groups)))])
    split = ProbeSplit(
        fit=[protein for protein in usable if protein.group not in held_out],
        held_out=[protein for protein in usable if protein.group in held_out],
        rest=[protein for protein in proteins if protein.kind in ("test", "unseen")],
    )
    for part, what in ((split.fit, "to fit"), (split.held_out, "to choose the penalty")):
        if _residues(part) == 0:
            raise UserError(
                f"{data}: no residue with known structure {what}; "
                "expected at least two groups of kind fit"
            )
    return split


def _residues(proteins: Sequence[Protein]) -> int:
    return sum(int((state_labels(protein) >= 0).sum()) for protein in proteins)
