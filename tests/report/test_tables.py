from esm1b.evaluation.results import parse_evaluation
from esm1b.report.tables import (
    Cell,
    model_table,
    number_text,
    perplexity_table,
    published_table,
    range_table,
    recall_table,
)
from tests.report import examples


def test_a_number_has_a_true_minus_sign() -> None:
    assert number_text(-0.25, 2) == "\N{MINUS SIGN}0.25"
    assert number_text(0.25, 1, signed=True) == "+0.2"


def test_perplexities_of_every_model_come_with_the_difference() -> None:
    table = perplexity_table(parse_evaluation(examples.perplexity()))
    assert [row.label for row in table.rows] == [
        "trained model",
        "untrained networks",
        "residue frequencies",
        "site-independent bound",
        "exact optimum",
    ]
    trained, untrained = table.rows[0], table.rows[1]
    assert trained.strong
    assert trained.cells[0] == Cell(text="9.50", interval="8.55 to 10.45")
    assert trained.cells[-1] == Cell(text="")
    minus = "\N{MINUS SIGN}"
    assert untrained.cells[-1] == Cell(
        text=f"{minus}0.250", interval=f"{minus}0.300 to {minus}0.200"
    )


def test_contacts_by_subset_and_the_lead() -> None:
    table = model_table("contacts", parse_evaluation(examples.contacts()))
    assert table.head == ["test\n8 families", "never seen\n8 families", "trained ahead\ntest"]
    assert [cell.text for cell in table.rows[1].cells] == ["0.040", "0.050", "+0.400"]
    assert len(model_table("contacts", parse_evaluation(examples.contacts(unseen=False))).head) == 2


def test_a_failed_fit_is_failed_and_says_why() -> None:
    content = examples.contacts()
    content["metrics"][1] = examples.metric("precision_at_contacts", "untrained", "test", None)
    table = model_table("contacts", parse_evaluation(content))
    assert table.rows[1].cells[0].text == "failed"
    assert table.notes == ["untrained networks: the regression kept no coefficient at C = 500"]


def test_published_precisions_stand_beside_ours_by_range() -> None:
    evaluation = parse_evaluation(examples.contacts())
    assert range_table(evaluation, published=False).head == ["L", "L/2", "L/5"]
    table = range_table(evaluation, published=True)
    long = table.rows[2]
    assert long.label == "long, from 24"
    assert [cell.text for cell in long.cells] == [*["0.300"] * 3, "0.411", "0.533", "0.661"]
    assert [cell.text for cell in table.rows[3].cells[3:]] == ["\N{EN DASH}"] * 3
    assert table.notes[0].startswith("ESM-1b: Rao et al. 2021, ICLR, table 1, second-hand: ")


def test_published_numbers_keep_their_sources() -> None:
    table = published_table("contacts")
    assert table.head == ["P@L, long range", "P@L/5, long range"]
    assert table.rows[0].label == "ESM-1b"
    assert [cell.text for cell in table.rows[0].cells] == ["0.411", "0.661"]
    esm1v = next(row for row in table.rows if row.label == "ESM-1v")
    assert [cell.text for cell in esm1v.cells] == ["0.353", "\N{EN DASH}"]
    assert len(table.notes) == 2
    content = examples.contacts()
    content["metrics"] = [m for m in content["metrics"] if m["name"] != "precision_at_L5_long"]
    first = published_table("contacts", parse_evaluation(content)).rows[0]
    assert (first.label, first.strong) == ("this model", True)
    assert [cell.text for cell in first.cells] == ["0.300", ""]


def test_structure_by_subset_and_recalls_on_the_test_families() -> None:
    evaluation = parse_evaluation(examples.secondary_structure())
    table = model_table("secondary_structure", evaluation)
    assert table.head[-1] == "trained ahead\ntest"
    assert [cell.text for cell in table.rows[2].cells] == ["0.600", "0.600", "0.600", "+0.100"]
    recalls = recall_table(evaluation)
    assert recalls.head == ["helix", "strand", "coil"]
    assert recalls.corner == "recall, test"
    assert recalls.rows[0].cells[0] == Cell(text="0.700", interval="0.630 to 0.770")
