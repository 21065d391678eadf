from esm1b.evaluation.results import parse_evaluation
from esm1b.report.page import summarise
from esm1b.report.positive_control import positive_control, verdict
from tests.report import examples


def test_the_summary_is_short_and_aligned() -> None:
    measured = {
        "perplexity": parse_evaluation(examples.perplexity()),
        "contacts": parse_evaluation(examples.contacts()),
        "secondary_structure": parse_evaluation(examples.secondary_structure()),
        "variants": parse_evaluation(examples.variants()),
    }
    text = summarise("tiny", measured, positive_control(measured))
    lines = text.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert all(line == line.rstrip() for line in lines)
    assert lines[0] == "tiny"
    assert lines[3] == "  trained model                9.50  8.55 to 10.45"
    assert lines[8] == "  share of the gap closed      0.34  0.31 to 0.37"
    assert "  trained model                0.500  0.450 to 0.550   0.050  0.045 to 0.055" in lines
    assert lines[-1] == "positive control: PASSED"


def test_a_failed_fit_leaves_the_number_of_families() -> None:
    content = examples.contacts()
    for entry in content["metrics"]:
        if entry["model"] == "trained":
            entry.update(value=None, low=None, high=None, n=0, failed="no coefficient was kept")
    lines = summarise("tiny", {"contacts": parse_evaluation(content)}, []).splitlines()
    assert lines[3].split("  ")[-1].strip() == "never seen (8 families)"
    assert "  test (8 families)  " in lines[3]
    assert lines[4].split() == ["trained", "model", "failed", "failed"]
    assert lines[5].split()[:3] == ["untrained", "networks", "0.040"]


def test_a_verdict_names_what_failed() -> None:
    text = verdict(positive_control({}))
    assert text.startswith(
        "positive control: FAILED (perplexity below the site-independent bound,\n"
        "  contacts above families never seen, contacts above separation prior, "
        "contacts above mean map,\n"
    )
    assert text.endswith("effects of mutations above untrained networks)")
    assert max(map(len, text.splitlines())) <= 100


def test_without_control_there_is_no_verdict() -> None:
    measured = {"perplexity": parse_evaluation(examples.perplexity(synthetic=False))}
    text = summarise("tiny", measured, [])
    assert "positive control" not in text
    assert "gap" not in text
    assert text.endswith("residue frequencies         18.00  16.20 to 19.80\n")
