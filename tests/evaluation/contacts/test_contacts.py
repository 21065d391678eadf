import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from esm1b.errors import UserError
from esm1b.evaluation import networks
from esm1b.evaluation.contacts import contacts
from esm1b.evaluation.contacts.contacts import evaluate_contacts
from esm1b.evaluation.contacts.precision import PRECISIONS
from esm1b.evaluation.inputs import content_digest
from tests.evaluation.fake_models import (
    Example,
    FakeModel,
    examples,
    only_for,
    truth_of,
    write_table,
)
from tests.evaluation.structure_text import NAMES, Header, helix, pdb_text
from tests.evaluation.structure_text import rows as atoms_of

KINDS: dict[str | None, int] = {"fit": 5, "test": 4, "unseen": 3}
MODELS = ["trained", "untrained", "mean_map", "separation_prior", "random_pairs"]


@pytest.fixture
def evaluate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return what evaluates a fake network on a table and gives back `metrics.json`."""

    def run(
        rows: list[Example] | Path,
        attend: Callable[[NDArray[np.uint8]], NDArray[np.float32]] | None,
        **options: Any,
    ) -> Any:
        def untrained_model(config: object, seed: int) -> FakeModel:
            return FakeModel(seed=seed + 1)

        monkeypatch.setattr(contacts, "load_model", lambda *_, **__: FakeModel(attend=attend))
        monkeypatch.setattr(networks, "untrained_model", untrained_model)
        table = rows if isinstance(rows, Path) else write_table(tmp_path / "table.parquet", rows)
        evaluate_contacts(tmp_path / "model", table, tmp_path / "out", **options)
        return json.loads((tmp_path / "out" / "metrics.json").read_text())

    return run


def hairpin(place: int) -> str:
    """Return a PDB file of two helices side by side, the sequence turned by `place` residues."""
    sequence = "MKVLAGSTWYHERDNQFCIPAGLK"
    sequence = sequence[place:] + sequence[:place]
    there = helix(12)
    back = [
        {name: position * [-1, 1, -1] + [7, 0, 16.5] for name, position in atoms.items()}
        for atoms in there
    ]
    header = Header(sequence=[NAMES[letter] for letter in sequence])
    return pdb_text(atoms_of(sequence, backbone=[*there, *back]), header)


def find(entries: list[dict[str, Any]], **wanted: str) -> dict[str, Any]:
    (entry,) = [
        entry for entry in entries if all(entry[key] == value for key, value in wanted.items())
    ]
    return entry


def test_a_network_that_attends_to_contacts_passes(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    rows = examples(KINDS)
    result = evaluate(rows, truth_of(rows), regularisation="cross-validate")
    name = "precision_at_contacts"
    trained = find(result["metrics"], name=name, model="trained", subset="test")
    assert trained == {
        "name": name, "model": "trained", "subset": "test", "value": 1.0, "low": 1.0, "high": 1.0,
        "unit": "fraction", "n": 4, "n_unit": "family",
    }  # fmt: skip
    density = find(result["metrics"], name=name, model="random_pairs", subset="test")["value"]
    assert density == pytest.approx(5 / 300)  # 24 * 25 / 2 pairs
    for against in MODELS[1:]:
        comparison = find(result["comparisons"], name=name, subset="test", against=against)
        assert comparison["low"] > 0.5
        assert comparison["against_subset"] == "test"
    unpaired = find(result["comparisons"], name=name, against="trained", against_subset="unseen")
    assert (unpaired["subset"], unpaired["difference"], unpaired["n"]) == ("test", 0.0, 3)
    assert result["protocol"]["fit_proteins"] == 10
    assert result["protocol"]["unseen_proteins"] == 6

    table = pq.read_table(tmp_path / "out" / "proteins.parquet")
    assert table.num_rows == 5 * 14
    assert table.column_names == ["id", "group", "kind", "length", "model", *PRECISIONS]
    maps = pq.read_table(tmp_path / "out" / "contact_maps.parquet").to_pylist()
    assert [row["id"] for row in maps] == [
        "test0_0", "test1_0", "test2_0", "test3_0", "unseen0_0", "unseen1_0",
    ]  # fmt: skip
    for row in maps:
        probability = np.array(row["probability"]).reshape(row["length"], row["length"])
        in_contact = probability[row["contact_i"], row["contact_j"]].min()
        assert in_contact > np.median(probability)
    head = json.loads((tmp_path / "out" / "contact_regression.json").read_text())
    assert (head["layers"], head["heads"], len(head["coefficients"])) == (1, 3, 3)
    assert head["coefficients"][1] > 0
    assert len(head["proteins"]) == 10
    assert head["failed"] is None


def test_a_network_that_knows_only_its_families_is_told_apart(evaluate: Callable[..., Any]) -> None:
    rows = examples(KINDS)
    attend = only_for(
        [row for row in rows if row.kind != "unseen"], [row for row in rows if row.kind == "unseen"]
    )
    result = evaluate(rows, attend, regularisation="cross-validate")
    unpaired = find(
        result["comparisons"], name="precision_at_contacts", against_subset="unseen",
        against="trained",
    )  # fmt: skip
    assert unpaired["low"] > 0.5


def test_a_failed_fit_is_reported_as_failed(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    result = evaluate(examples(KINDS), None)
    trained = find(result["metrics"], name="precision_at_contacts", model="trained", subset="test")
    assert trained["value"] is None
    assert trained["failed"] == "the regression kept no coefficient at C = 0.15"
    comparison = find(
        result["comparisons"], name="precision_at_contacts", subset="test", against="mean_map"
    )
    assert comparison["difference"] is None
    assert comparison["failed"] == trained["failed"]
    assert result["protocol"]["untrained_without_coefficient"] == 3
    assert len(result["untrained_fits"]) == 3
    table = pq.read_table(tmp_path / "out" / "proteins.parquet").to_pylist()
    assert {row["precision_at_contacts"] for row in table if row["model"] == "trained"} == {None}


def test_without_untrained_networks_there_is_none(evaluate: Callable[..., Any]) -> None:
    rows = examples(KINDS)
    result = evaluate(rows, truth_of(rows), regularisation=10.0, untrained=0)
    assert {entry["model"] for entry in result["metrics"]} == {*MODELS} - {"untrained"}
    against = {entry["against"] for entry in result["comparisons"]}
    assert against == {*MODELS} - {"untrained"}
    assert (result["protocol"]["untrained_networks"], result["untrained_fits"]) == (0, [])


def test_the_jacobian_of_some_proteins(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    rows = examples(KINDS)
    result = evaluate(rows, truth_of(rows), regularisation=10.0, untrained=0, jacobian=9)
    assert result["protocol"]["jacobian_proteins"] == 9
    name = "precision_at_contacts"
    found = find(result["metrics"], name=name, model="jacobian", subset="test")
    assert (found["value"], found["n"], found["n_unit"]) == (1.0, 4, "family")
    for model, against, against_subset, difference in (
        ("trained", "jacobian", "test", 0),
        ("jacobian", "separation_prior", "test", 1),
        ("jacobian", "jacobian", "unseen", 0),
    ):
        entry = find(
            result["comparisons"], name=name, subset="test", model=model, against=against,
            against_subset=against_subset,
        )  # fmt: skip
        assert entry["difference"] == pytest.approx(difference, abs=0.1)
    table = pq.read_table(tmp_path / "out" / "proteins.parquet").to_pylist()
    measured = [row["id"] for row in table if row["model"] == "jacobian" and row[name] is not None]
    # the first of each of seven groups, then two of the second ones
    assert measured == [
        "test0_0", "test0_1", "test1_0", "test1_1", "test2_0", "test3_0",
        "unseen0_0", "unseen1_0", "unseen2_0",
    ]  # fmt: skip


def test_inputs_and_options_are_named(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    rows = examples(KINDS)
    result = evaluate(rows, truth_of(rows), regularisation=10.0, device="cpu")
    inputs = result["inputs"]
    assert list(inputs) == ["model", "data", "versions", "options"]
    digest = content_digest(tmp_path / "table.parquet")
    assert inputs["data"] == {"name": "table.parquet", "sha256": digest}
    assert inputs["options"] == {
        "regularisation": 10.0, "fit_proteins": 20, "glycine": "impute", "untrained": 3,
        "jacobian": 0, "seed": 0, "device": "cpu", "precision": "fp32",
    }  # fmt: skip
    assert (result["protocol"]["device"], result["protocol"]["precision"]) == ("cpu", "fp32")


def test_a_folder_is_named_with_every_file(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "structures"
    (folder / "deeper").mkdir(parents=True)
    for place, name in enumerate(("a.pdb", "b.pdb", "deeper/c.pdb")):
        (folder / name).write_text(hairpin(place))
    (folder / ".hidden.pdb").write_text("")
    result = evaluate(folder, None, fit_proteins=1, untrained=0)
    assert result["inputs"]["data"] == {
        "name": "structures", "files": 3, "sha256": content_digest(folder),
    }  # fmt: skip
    listed = (tmp_path / "out" / "inputs.sha256").read_text()
    assert [line.split("  ")[1] for line in listed.splitlines()] == [
        "a.pdb", "b.pdb", "deeper/c.pdb",
    ]  # fmt: skip


def test_equal_sequences_are_fitted_or_tested_together(evaluate: Callable[..., Any]) -> None:
    rows = [
        replace(row, id=f"p{number}", group=f"p{number}")
        for number, row in enumerate(examples({None: 6}, members=1))
    ]
    twins = [replace(row, id=f"{row.id}-again", group=f"{row.id}-again") for row in rows]
    result = evaluate([*rows, *twins], truth_of(rows), fit_proteins=3, regularisation=10.0)
    protocol = result["protocol"]
    assert (protocol["fit_proteins"], protocol["fit_groups"]) == (4, 2)
    assert protocol["test_sequences_also_fitted"] == 0
    trained = find(result["metrics"], name="precision_at_contacts", model="trained", subset="test")
    assert (trained["n"], trained["n_unit"]) == (4, "protein")


def test_noise_is_near_the_background(evaluate: Callable[..., Any]) -> None:
    rows = examples({"fit": 6, "test": 12})
    result = evaluate(rows, None, regularisation=1000.0)
    trained = find(result["metrics"], name="precision_at_contacts", model="trained", subset="test")
    assert 0 <= trained["value"] < 0.1
    assert trained["low"] < 5 / 300 < 0.1


def test_the_order_of_the_rows_does_not_matter(
    evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    rows = examples(KINDS)
    contents = []
    for order in (rows, rows[::-1]):
        result = evaluate(order, truth_of(rows), regularisation=10.0)
        del result["inputs"]["data"]  # another file
        files = sorted(path for path in (tmp_path / "out").iterdir() if path.name != "metrics.json")
        contents.append((result, {file.name: file.read_bytes() for file in files}))
    assert contents[0] == contents[1]


def test_without_kinds_whole_groups_are_drawn(evaluate: Callable[..., Any], tmp_path: Path) -> None:
    rows = examples({None: 8})
    result = evaluate(rows, truth_of(rows), fit_proteins=5, regularisation=10.0)
    assert result["protocol"]["fit_proteins"] == 6  # three families of two
    assert result["protocol"]["test_proteins"] == 10
    head = json.loads((tmp_path / "out" / "contact_regression.json").read_text())
    assert len({identifier.split("_")[0] for identifier in head["proteins"]}) == 3
    assert not [entry for entry in result["metrics"] if entry["subset"] == "unseen"]


def test_too_few_proteins_to_leave_a_test(evaluate: Callable[..., Any]) -> None:
    with pytest.raises(
        UserError, match=r"table\.parquet: 4 proteins in 2 groups, fit_proteins 20; expected"
    ):
        evaluate(examples({None: 2}), None)


def test_kinds_must_be_whole(evaluate: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"no row of kind test \(split test\)"):
        evaluate(examples({"fit": 2}), None)
    with pytest.raises(UserError, match="row None0_0: kind or split is empty where other"):
        evaluate(examples({"fit": 2, None: 1}), None)


def test_cross_validation_needs_two_groups(evaluate: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="one group to fit"):
        evaluate(examples({"fit": 1, "test": 1}), None, regularisation="cross-validate")


def test_proteins_too_long_for_the_network_are_counted(evaluate: Callable[..., Any]) -> None:
    long = Example(
        id="long", group="long", kind="test", sequence="A" * 63, contacts=[], ss3="C" * 63
    )
    rows = [*examples(KINDS), long]
    result = evaluate(rows, truth_of(rows), regularisation=10.0)
    assert result["protocol"]["left_out_too_long"] == 1
    assert result["protocol"]["test_proteins"] == 8


def test_a_sequence_that_is_none_is_told(evaluate: Callable[..., Any]) -> None:
    rows = examples(KINDS)
    bad = Example(id="bad", group="bad", kind="test", sequence="ACD*EFGH", contacts=[], ss3="C" * 8)
    with pytest.raises(UserError, match=r"row bad: sequence: '\*' at position 4"):
        evaluate([*rows, bad], truth_of(rows))
