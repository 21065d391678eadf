"""Unsupervised contact prediction beside its baselines: `esm1b evaluate contacts`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from esm1b.errors import UserError
from esm1b.evaluation.contacts.regression import PUBLISHED_C, Regularisation
from esm1b.evaluation.contacts.scores import (
    Precisions,
    map_table,
    score_contacts,
    summarise_contacts,
)
from esm1b.evaluation.inputs import describe_inputs
from esm1b.evaluation.results import MAPS_FILE, REGRESSION_FILE, write_metrics
from esm1b.evaluation.structures.geometry import CONTACT_DISTANCE, MINIMUM_SEPARATION, Glycine
from esm1b.evaluation.structures.proteins import (
    draw_kinds,
    fitting_length,
    overlap,
    share_groups,
    unit_of,
)
from esm1b.evaluation.structures.table import KINDS, read_structures
from esm1b.files import write_json
from esm1b.inference.model import Device, Precision, load_model
from esm1b.outputs import atomic_directory


def evaluate_contacts(
    model_directory: Path,
    data: Path,
    output: Path,
    *,
    regularisation: Regularisation = PUBLISHED_C,
    fit_proteins: int = 20,
    untrained: int = 3,
    jacobian: int = 0,
    glycine: Glycine = "impute",
    seed: int = 0,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Fit a contact regression on a model's attention and write its precision to `output`.

    Writes `metrics.json`, `proteins.parquet` (a row per protein and model), `contact_maps.parquet`
    (a few proteins, for figures) and `contact_regression.json` (the head for a release).

    Args:
        model_directory: the trained model.
        data: a folder of structures or a structure table.
        output: directory to write.
        regularisation: scikit-learn's C, or `cross-validate` to choose it on groups left out.
        fit_proteins: number of proteins to fit on, where the data do not name them.
        untrained: number of random initialisations of the same network to compare with, each with
            its own fit, or 0.
        jacobian: number of proteins to score by categorical Jacobian too, or 0.
        glycine: atom in place of glycine's Cb; a structure table has its contacts already.
        seed: random seed of the draw of fit proteins, the folds, the initialisations and the
            bootstrap.
        device: device of the networks.
        precision: precision of the networks.

    Raises:
        UserError: the data are not usable or leave nothing to test.
    """
    with atomic_directory(output, "contacts", [model_directory, data]) as directory:
        everything = share_groups(read_structures(data, glycine=glycine))
        model = load_model(model_directory, device=device, precision=precision)
        options: dict[str, Any] = {
            **{"regularisation": regularisation, "fit_proteins": fit_proteins, "glycine": glycine},
            **{"untrained": untrained, "jacobian": jacobian, "seed": seed},
            **{"device": device, "precision": model.precision},
        }
        inputs = describe_inputs(directory, model.directory, options, data=data)
        short_enough = fitting_length(everything, model.longest_sequence)
        proteins = draw_kinds(short_enough, fit_proteins=fit_proteins, seed=seed, source=data)
        fitted = [protein for protein in proteins if protein.kind == "fit"]
        if not any(protein.contacts.size for protein in fitted):
            raise UserError(f"{data}: the proteins to fit have no contact; expected at least one")
        if regularisation == "cross-validate" and len({protein.group for protein in fitted}) < 2:
            raise UserError(f"{data}: one group to fit; cross-validation expects at least two")
        rest = [protein for protein in proteins if protein.kind != "fit"]
        precisions, fits = score_contacts(
            model,
            fitted,
            rest,
            untrained=untrained,
            jacobian=jacobian,
            regularisation=regularisation,
            seed=seed,
        )
        (trained,) = fits["trained"]
        others = fits.get("untrained", [])
        kinds = [protein.kind for protein in proteins]
        protocol = {
            "contact": f"Cb-Cb < {CONTACT_DISTANCE:g} angstrom",
            "minimum_separation": MINIMUM_SEPARATION,
            "length": "residues of the sequence, with or without coordinates",
            "features": "attention of every head, a + a^T, average product correction",
            "regression": "logistic, L1, scikit-learn liblinear",
            "C": trained.inverse_strength,
            "coefficients_kept": int(np.count_nonzero(trained.coefficients)),
            "fit_groups": len({protein.group for protein in fitted}),
            **{f"{kind}_proteins": kinds.count(kind) for kind in KINDS},
            **_jacobian(precisions),
            "untrained_networks": untrained,
            "untrained_without_coefficient": sum(bool(fit.failed) for fit in others),
            **overlap(fitted, rest),
            "glycine": glycine if data.is_dir() else "as in the table",
            "regularisation": regularisation,
            "left_out_too_long": len(everything) - len(short_enough),
            "longest_sequence": model.longest_sequence,
            "seed": seed,
            "device": model.device,
            "precision": model.precision,
        }
        results, table = summarise_contacts(precisions, fits, rest, unit_of(proteins), seed)
        head = {
            "layers": model.shape.layers,
            "heads": model.shape.heads,
            "channel": "layer * heads + head",
            **trained.as_json(),
            "coefficients": trained.coefficients.tolist(),
            "intercept": trained.intercept,
            "proteins": [protein.id for protein in fitted],
        }
        pq.write_table(table, directory / "proteins.parquet")
        pq.write_table(map_table(model, trained, rest), directory / MAPS_FILE)
        write_json(directory / REGRESSION_FILE, head)
        write_metrics(
            directory,
            evaluation="contacts",
            model=model.directory,
            inputs=inputs,
            protocol=protocol,
            **results,
            untrained_fits=[fit.as_json() for fit in others],
        )


def _jacobian(precisions: Mapping[str, Precisions]) -> dict[str, Any]:
    if "jacobian" not in precisions:
        return {}
    measured = np.isfinite(precisions["jacobian"]).any(axis=1)
    return {
        "jacobian": "centred over its four axes, symmetrised, Frobenius norm, average product "
        "correction; no regression",
        "jacobian_proteins": int(measured.sum()),
    }
