import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from esm1b.alphabet import FIRST_AMINO_ACID, encode
from esm1b.cli import app
from esm1b.errors import UserError
from esm1b.evaluation import networks
from esm1b.evaluation.inputs import content_digest
from esm1b.evaluation.secondary_structure import secondary_structure
from esm1b.evaluation.secondary_structure.probes import (
    confusion_of_majority,
    majority_class,
    one_hot_windows,
)
from esm1b.evaluation.secondary_structure.secondary_structure import evaluate_secondary_structure
from esm1b.evaluation.structures.proteins import Protein
from esm1b.model.shape import EncoderShape
from esm1b.weights.provenance import Provenance
from esm1b.weights.save_model import save_model
from tests.conftest import random_encoder
from tests.evaluation.fake_models import FakeModel, examples, write_table
from tests.evaluation.secondary_structure.test_data import csv_of

KINDS: dict[str | None, int] = {"fit": 6, "test": 4, "unseen": 3}


def protein(sequence: str, ss3: str, observed: str | None = None) -> Protein:
    return Protein(
        id="p",
        group="p",
        kind="fit",
        residues=encode(sequence),
        observed=np.array([seen == "1" for seen in observed or "1" * len(sequence)]),
        contacts=np.empty((2, 0), dtype=np.int64),
        ss3=ss3,
    )


def by_residue(residues: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Tell the state of `examples`, which depends on the residue alone."""
    state = (residues.astype(np.int64) - FIRST_AMINO_ACID) % 3
    return np.eye(3, dtype=np.float32)[state]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what evaluates a fake network on a table and gives back `metrics.json`."""

    def run(
        data: Path,
        represent: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None = by_residue,
        **options: Any,
    ) -> Any:
        def untrained_model(config: object, seed: int) -> FakeModel:
            return FakeModel(seed=seed + 1)

        monkeypatch.setattr(
            secondary_structure, "load_model", lambda *_, **__: FakeModel(represent=represent)
        )
        monkeypatch.setattr(networks, "untrained_model", untrained_model)
        evaluate_secondary_structure(tmp_path / "model", data, tmp_path / "out", **options)
        return json.loads((tmp_path / "out" / "metrics.json").read_text())

    return run


def value(result: Any, model: str, subset: str, name: str = "three_state_accuracy") -> Any:
    (entry,) = [
        entry
        for entry in result["metrics"]
        if (entry["model"], entry["subset"], entry["name"]) == (model, subset, name)
    ]
    return entry


def test_a_network_that_knows_the_states_is_told_from_its_baselines(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    result = evaluate(write_table(tmp_path / "table.parquet", examples(KINDS)))
    for subset, families in (("test", 4), ("unseen", 3), ("not_fitted", 7)):
        trained = value(result, "trained", subset)
        assert (trained["value"], trained["n"], trained["n_unit"]) == (1.0, families, "family")
        assert value(result, "one_hot_window", subset)["value"] > 0.7  # the residue is in there
        assert value(result, "untrained", subset)["value"] < 0.5
        for state in "HEC":
            assert value(result, "trained", subset, f"recall_{state}")["value"] == 1.0
    majority = result["protocol"]["majority_class"]
    assert value(result, "majority_class", "test", f"recall_{majority}")["value"] == 1.0
    assert {(entry["against"], entry["subset"]) for entry in result["comparisons"]} == {
        (against, subset)
        for against in ("untrained", "one_hot_window", "majority_class")
        for subset in ("test", "unseen", "not_fitted")
    }
    for entry in result["comparisons"]:
        if entry["against"] != "one_hot_window":
            assert entry["low"] > 0.3
    assert result["protocol"]["fit_residues"] == 6 * 2 * 30
    assert len(result["probes"]) == 5


def test_confusion_rows_are_true_states(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    rows = examples(KINDS)
    result = evaluate(write_table(tmp_path / "table.parquet", rows))
    states = "".join(row.ss3 for row in rows if row.kind == "test")
    counts = [states.count(state) for state in "HEC"]
    confusion = result["confusion"]["test"]
    assert confusion["trained"]["states"] == "HEC"
    assert confusion["trained"]["counts"] == np.diag(counts).tolist()
    majority = "HEC".index(result["protocol"]["majority_class"])
    assert [row[majority] for row in confusion["majority_class"]["counts"]] == counts
    assert np.array(confusion["untrained"]["counts"]).sum(axis=1) == pytest.approx(counts)
    table = pq.read_table(tmp_path / "out" / "proteins.parquet").to_pylist()
    assert len(table) == 4 * 14
    assert {row["residues"] for row in table} == {30}
    assert {row["three_state_accuracy"] for row in table if row["model"] == "trained"} == {1.0}


def test_the_order_of_the_rows_does_not_matter(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    rows = examples(KINDS)
    contents = []
    for order in (rows, rows[::-1]):
        result = evaluate(write_table(tmp_path / "table.parquet", order))
        del result["inputs"]["data"]  # another file
        files = sorted(path for path in (tmp_path / "out").iterdir() if path.name != "metrics.json")
        contents.append((result, {file.name: file.read_bytes() for file in files}))
    assert contents[0] == contents[1]


def test_a_table_of_comma_separated_values(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    splits = {"fit": "train", "test": "test", "unseen": "valid"}
    lines = [
        f"{row.id},{splits[row.kind or '']},{row.sequence},{row.ss3},{'1' * 29}0"
        for row in examples(KINDS)
    ]
    data = csv_of(tmp_path / "table.csv.gz", "chain_id,split,sequence,ss3,resolved", *lines)
    result = evaluate(data)
    assert result["protocol"]["fit_proteins"] == 12 + 6  # train and valid
    assert result["protocol"]["fit_proteins_choosing_the_penalty"] == 6
    assert result["protocol"]["fit_residues"] == 18 * 29
    trained = value(result, "trained", "test")
    assert (trained["value"], trained["n"], trained["n_unit"]) == (1.0, 8, "protein")
    assert {entry["subset"] for entry in result["metrics"]} == {"test"}


def test_groups_and_equal_sequences_stay_together(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    rows = examples({"fit": 12}, members=2)
    lines = [f"{row.id},{row.group},{row.sequence},{row.ss3}" for row in rows]
    # the sequence of a family once more, in a group of its own
    lines += [f"again,zz,{rows[0].sequence},{rows[0].ss3}"]
    result = evaluate(csv_of(tmp_path / "table.csv", "id,group,sequence,ss3", *lines), untrained=0)
    protocol = result["protocol"]
    assert protocol["test_sequences_also_fitted"] == 0
    assert protocol["test_proteins_of_fitted_groups"] == 0
    assert protocol["fit_proteins"] + protocol["test_proteins"] == 25
    trained = value(result, "trained", "test")
    assert trained["n_unit"] == "family"
    assert protocol["fit_groups"] + trained["n"] == 12
    table = pq.read_table(tmp_path / "out" / "proteins.parquet").to_pylist()
    assert {row["group"] for row in table} <= {row.group for row in rows}


def test_equal_sequences_are_one_protein(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    lines = [f"{row.sequence},{row.ss3}" for row in examples({"fit": 10}, members=1)] * 2
    result = evaluate(csv_of(tmp_path / "table.csv", "sequence,ss3", *lines), untrained=0)
    trained = value(result, "trained", "test")
    assert (trained["n"], trained["n_unit"]) == (2, "protein")
    assert result["protocol"]["test_proteins"] == 4


def test_a_stated_split_with_equal_sequences_is_warned_of(
    evaluate: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = examples({"train": 6, "valid": 2, "test": 3}, members=1)
    lines = [f"{row.kind},{row.group},{row.sequence},{row.ss3}" for row in rows]
    lines += [f"test,x,{rows[0].sequence},{rows[0].ss3}"]
    lines += [f"test,valid0,{rows[1].sequence[::-1]},{rows[1].ss3[::-1]}"]
    result = evaluate(csv_of(tmp_path / "table.csv", "split,group,sequence,ss3", *lines))
    assert result["protocol"]["fit_proteins_choosing_the_penalty"] == 2  # as stated
    assert result["protocol"]["test_sequences_also_fitted"] == 1
    assert result["protocol"]["test_proteins_of_fitted_groups"] == 2
    assert caplog.messages == [
        "1 of 5 proteins to test have the sequence of a fitted one, 2 its group"
    ]


def test_a_split_in_some_rows_only(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    data = csv_of(tmp_path / "table.csv", "split,sequence,ss3", "train,AC,HH", ",CA,HH")
    with pytest.raises(UserError, match="row 2: kind or split is empty where other rows state one"):
        evaluate(data)
    data = csv_of(tmp_path / "table.csv", "split,sequence,ss3", "test,AC,HH")
    with pytest.raises(UserError, match=r"no row of kind fit \(split train\)"):
        evaluate(data)


def test_inputs_and_options_are_named(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    data = write_table(tmp_path / "table.parquet", examples(KINDS))
    result = evaluate(data, layer=-2, untrained=1, batch_tokens=100)
    digest = content_digest(data)
    assert result["inputs"]["data"] == {"name": "table.parquet", "sha256": digest}
    assert result["inputs"]["options"] == {
        "untrained": 1, "seed": 0, "maximum_residues": None, "layer": -2, "batch_tokens": 100,
        "device": "auto", "precision": "fp32",
    }  # fmt: skip
    protocol = result["protocol"]
    assert (protocol["layer"], protocol["features"]) == (0, "representations of layer 0, frozen")
    assert (protocol["batch_tokens"], protocol["device"]) == (100, "cpu")


def test_options_reach_the_network(tmp_path: Path) -> None:
    shape = EncoderShape(layers=2, width=16, heads=2, feed_forward=16, maximum_tokens=64)
    save_model(random_encoder(shape), tmp_path / "model", Provenance())
    data = write_table(tmp_path / "table.parquet", examples({"fit": 3, "test": 2}))
    found = {}
    for name, options in {
        "last": [],
        "first": ["--layer", "0"],
        "bf16": ["--precision", "bf16", "--device", "cpu", "--batch-tokens", "40"],
    }.items():
        output = str(tmp_path / name)
        arguments = [str(tmp_path / "model"), str(data), "--output", output, "--untrained", "0"]
        run = CliRunner().invoke(app, ["evaluate", "secondary-structure", *arguments, *options])
        assert run.exit_code == 0, run.output
        result = json.loads((tmp_path / name / "metrics.json").read_text())
        assert {entry["model"] for entry in result["metrics"]} == {
            "trained", "one_hot_window", "majority_class",
        }  # fmt: skip
        found[name] = result["probes"][0]["held_out_loss"]["0.1"], result["protocol"]
    assert found["bf16"][0] == pytest.approx(found["last"][0], rel=0.3)
    assert found["bf16"][0] != found["last"][0]
    assert found["first"][0] != pytest.approx(found["last"][0], rel=0.01)
    assert found["last"][1]["features"] == "representations after the last layer norm, frozen"
    with pytest.raises(UserError, match="layer 3: the model has layers 0"):
        evaluate_secondary_structure(tmp_path / "model", data, tmp_path / "out", layer=3)


def test_without_a_split_a_fifth_is_left_for_the_test(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    lines = [f"{row.sequence},{row.ss3}" for row in examples({"fit": 10}, members=1)]
    result = evaluate(csv_of(tmp_path / "table.csv", "sequence,ss3", *lines), untrained=0)
    assert result["protocol"]["fit_proteins"] == 8
    assert result["protocol"]["test_proteins"] == 2
    assert {entry["model"] for entry in result["metrics"]} == {
        "trained", "one_hot_window", "majority_class",
    }  # fmt: skip


def test_fewer_residues_are_stated(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    data = write_table(tmp_path / "table.parquet", examples(KINDS))
    protocol = evaluate(data, maximum_residues=100)["protocol"]
    assert protocol["fit_residues"] == 120  # whole proteins of 30
    assert protocol["fit_residues_available"] == 360


def test_chains_too_long_for_the_network_are_counted(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    lines = [f"{row.sequence},{row.ss3}" for row in examples({"fit": 10}, members=1)]
    data = csv_of(tmp_path / "table.csv", "sequence,ss3", *lines, f"{'A' * 63},{'H' * 63}")
    assert evaluate(data)["protocol"]["left_out_too_long"] == 1


def test_one_group_cannot_choose_a_penalty(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    data = write_table(tmp_path / "table.parquet", examples({"fit": 1, "test": 1}))
    with pytest.raises(UserError, match="expected at least two groups of kind fit"):
        evaluate(data)


def test_windows_are_one_hot_and_empty_beyond_the_ends() -> None:
    (windows,) = one_hot_windows([protein("LAUL", "HHHH")])
    assert windows.shape == (4, 315)
    grid = windows.reshape(4, 21, 15)
    # At the first residue the window holds L in the middle (place 7), then A, X for U, and L.
    assert [np.flatnonzero(grid[0, :, place]).tolist() for place in range(15)] == [
        [], [], [], [], [], [], [], [0], [1], [20], [0], [], [], [], [],
    ]  # fmt: skip
    assert windows.sum(axis=1).tolist() == [4, 4, 4, 4]


def test_the_majority_class_is_the_most_frequent_label() -> None:
    assert majority_class([protein("ACDEF", "HEECC"), protein("AC", "EH", observed="10")]) == 1
    confusion = confusion_of_majority(1, [protein("ACDEF", "HEECC")])
    assert confusion.tolist() == [[[0, 1, 0], [0, 2, 0], [0, 2, 0]]]
