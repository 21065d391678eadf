"""Three-state secondary structure by a linear probe: `esm1b evaluate secondary-structure`."""

import logging
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from esm1b.alphabet import SECONDARY_STRUCTURE
from esm1b.errors import UserError
from esm1b.evaluation.inputs import describe_inputs
from esm1b.evaluation.networks import networks_of
from esm1b.evaluation.results import write_metrics
from esm1b.evaluation.secondary_structure.data import read_labelled_proteins
from esm1b.evaluation.secondary_structure.linear_probe import LinearProbe
from esm1b.evaluation.secondary_structure.probes import (
    REPRESENTATION_WINDOW,
    WINDOW,
    Features,
    ProbeSplit,
    confusion_of_majority,
    confusion_of_probe,
    known_states,
    majority_class,
    network_windows,
    one_hot_windows,
)
from esm1b.evaluation.secondary_structure.summary import summarise_structure
from esm1b.evaluation.structures.proteins import (
    Protein,
    draw_kinds,
    fitting_length,
    keyed_order,
    overlap,
    share_groups,
    unit_of,
)
from esm1b.inference.model import Device, Precision, load_model
from esm1b.outputs import atomic_directory

_log = logging.getLogger(__name__)

_FIT_SHARE: Final = 0.8  # of the proteins, where the data state no kinds
_HELD_OUT_SHARE: Final = 0.25  # of the groups to fit, where there is no validation split


def evaluate_secondary_structure(
    model_directory: Path,
    data: Path,
    output: Path,
    *,
    untrained: int = 3,
    seed: int = 0,
    maximum_residues: int | None = None,
    layer: int = -1,
    batch_tokens: int = 8192,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Fit linear probes on frozen features and write their accuracy to `output`.

    Writes `metrics.json`, with the confusion of true (row) and predicted (column) states under
    `confusion`, and `proteins.parquet` (a row per protein and model). Subset `not_fitted` is test
    and unseen together. `three_state_accuracy` is the mean over groups of each protein's accuracy;
    `three_state_accuracy_per_residue` and the recalls pool residues.

    Args:
        model_directory: the trained model.
        data: a table, see `read_labelled_proteins`.
        output: directory to write.
        untrained: number of random initialisations of the same network to compare with, each with
            its own probe, or 0.
        seed: random seed of the draws, the initialisations and the bootstrap.
        maximum_residues: approximate number of residues to fit on, of whole proteins drawn with the
            seed. None fits on all, which takes 4 bytes of memory per residue and feature.
        layer: layer of the representations, 0 to the number of layers; negative ones count from the
            end.
        batch_tokens: number of residues in one forward pass.
        device: device of the networks.
        precision: precision of the networks.

    Raises:
        UserError: the data are not usable or leave nothing to fit or to test.
    """
    with atomic_directory(output, "secondary-structure", [model_directory, data]) as directory:
        everything = share_groups(read_labelled_proteins(data))
        model = load_model(model_directory, device=device, precision=precision)
        (number,) = model.layer_numbers([layer])
        options: dict[str, Any] = {
            **{"untrained": untrained, "seed": seed, "maximum_residues": maximum_residues},
            **{"layer": layer, "batch_tokens": batch_tokens},
            **{"device": device, "precision": model.precision},
        }
        inputs = describe_inputs(directory, model.directory, options, data=data)
        short_enough = fitting_length(everything, model.longest_sequence)
        proteins = draw_kinds(
            short_enough, fit_proteins=round(_FIT_SHARE * len(short_enough)), seed=seed, source=data
        )
        split = _split(proteins, maximum_residues, seed, data)
        kinds: Iterable[tuple[str, Features]] = chain(
            (
                (name, network_windows(network, layer=number, batch_tokens=batch_tokens))
                for name, network in networks_of(model, untrained, seed)
            ),
            [("one_hot_window", one_hot_windows)],
        )
        probes: list[tuple[str, LinearProbe]] = []
        counts: dict[str, list[NDArray[np.float64]]] = {}
        for name, features in kinds:
            probe, confusion = confusion_of_probe(features, split, label=name)
            probes.append((name, probe))
            counts.setdefault(name, []).append(confusion)
        # The mean of the counts: the untrained networks together are an average one.
        confusions = {name: np.mean(each, axis=0) for name, each in counts.items()}
        majority = majority_class(split.fitted)
        confusions["majority_class"] = confusion_of_majority(majority, split.rest)
        is_last = number == model.shape.layers
        place = "after the last layer norm" if is_last else f"of layer {number}"
        protocol = {
            "states": SECONDARY_STRUCTURE,
            "features": f"representations {place}, frozen",
            "representation_window": REPRESENTATION_WINDOW,
            "probe": "multinomial logistic regression on standardised features, L2",
            "penalty": probes[0][1].penalty,
            "one_hot_window": WINDOW,
            "majority_class": SECONDARY_STRUCTURE[majority],
            **_sizes(proteins, split),
            **overlap(split.fitted, split.rest),
            "layer": number,
            "left_out_too_long": len(everything) - len(short_enough),
            "longest_sequence": model.longest_sequence,
            "untrained_networks": untrained,
            "seed": seed,
            "batch_tokens": batch_tokens,
            "device": model.device,
            "precision": model.precision,
        }
        results, table = summarise_structure(confusions, split.rest, unit_of(proteins), seed)
        pq.write_table(table, directory / "proteins.parquet")
        write_metrics(
            directory,
            evaluation="secondary_structure",
            model=model.directory,
            inputs=inputs,
            protocol=protocol,
            **results,
            probes=[
                {
                    "model": name,
                    "penalty": probe.penalty,
                    "held_out_loss": {f"{k:g}": loss for k, loss in probe.held_out_loss.items()},
                }
                for name, probe in probes
            ],
        )


def _sizes(proteins: Sequence[Protein], split: ProbeSplit) -> dict[str, int]:
    return {
        "fit_proteins": len(split.fitted),
        "fit_proteins_choosing_the_penalty": len(split.held_out),
        "fit_groups": len({protein.group for protein in split.fitted}),
        "fit_residues": _residues(split.fitted),
        "fit_residues_available": _residues(_to_fit(proteins)),
        "test_proteins": sum(protein.kind == "test" for protein in proteins),
        "unseen_proteins": sum(protein.kind == "unseen" for protein in proteins),
    }


def _to_fit(proteins: Sequence[Protein]) -> list[Protein]:
    return [protein for protein in proteins if protein.kind in ("fit", "validation")]


def _split(
    proteins: Sequence[Protein], maximum_residues: int | None, seed: int, data: Path
) -> ProbeSplit:
    """Divide the proteins into those that fit, those that choose the penalty and the rest."""
    usable = _to_fit(proteins)
    available = _residues(usable)
    if maximum_residues is not None:
        kept, total = set(), 0
        for protein in sorted(usable, key=lambda protein: keyed_order(seed, protein.id)):
            if total < maximum_residues:
                kept.add(protein.id)
                total += _residues([protein])
        usable = [protein for protein in usable if protein.id in kept]
        _log.info("the probes are fitted on %d of %d residues", total, available)
    held_out = {protein.id for protein in usable if protein.kind == "validation"}
    if not held_out:
        groups = sorted(
            {protein.group for protein in usable}, key=lambda group: keyed_order(seed, group)
        )
        first = set(groups[: max(1, round(_HELD_OUT_SHARE * len(groups)))])
        held_out = {protein.id for protein in usable if protein.group in first}
    split = ProbeSplit(
        fit=[protein for protein in usable if protein.id not in held_out],
        held_out=[protein for protein in usable if protein.id in held_out],
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
    return int(known_states(proteins).sum())
