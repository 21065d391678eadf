import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from esm1b.config import Config, describe, load_config, parse_config
from esm1b.errors import UserError

SECTIONS = "seed, corpus, model, pretraining, evaluation"
CIRCLE: dict[str, Any] = {}
CIRCLE["model"] = CIRCLE


def refusal(content: Any) -> str:
    with pytest.raises(UserError) as caught:
        parse_config(content, origin="run.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"modle": {"layers": 3}},
            "run.yaml: modle: unknown key, perhaps model; "
            "expected one of run, seed, corpus, model, pretraining, evaluation",
        ),
        (
            {"model": {"hedas": 4}},
            "run.yaml: model.hedas: unknown key, perhaps heads; "
            "expected one of layers, width, heads, feed_forward, maximum_tokens, positions, "
            "rare_residues",
        ),
        (
            {"evaluation": {"contacts": {"glycin": "ca"}}},
            "run.yaml: evaluation.contacts.glycin: unknown key, perhaps glycine; "
            "expected one of structures, regularisation, fit_proteins, glycine, jacobian",
        ),
        (
            {"model": {"layers": "three"}},
            "run.yaml: model.layers: 'three': input should be a valid integer, "
            "unable to parse string as an integer",
        ),
        (
            {"model": {"layers": 3.5}},
            "run.yaml: model.layers: 3.5: input should be a valid integer, "
            "got a number with a fractional part",
        ),
        (
            {"model": {"layers": [3]}},
            "run.yaml: model.layers: [3]: input should be a valid integer",
        ),
        (
            {"model.layers": 3},
            "run.yaml: model.layers: unknown key; expected a section, as in model: {layers: ...}",
        ),
        ({"xyz": 1}, "run.yaml: xyz: unknown key; expected one of run, " + SECTIONS),
        (
            {"run": 202401},
            "run.yaml: run: 202401: read as a number; expected text, in quotes as in "
            'run: "2024_01" in a file (--config drops them)',
        ),
        (
            {"corpus": {"name": 1e5, "sequences": [16]}},
            "run.yaml: corpus.name: 100000.0: read as a number; expected text, in quotes as in "
            'name: "2024_01"; corpus.sequences.0: 16: read as a number; expected text, in quotes '
            'as in "2024_01"',
        ),
        (
            {"run": None},
            "run.yaml: run: null: read as nothing; expected text, in quotes as in "
            'run: "2024_01" in a file (--config drops them)',
        ),
        (
            {"run": True},
            "run.yaml: run: true: input should not be a boolean, as which YAML reads on, off, yes "
            'and no; expected text, in quotes as in run: "on"',
        ),
        ({"seed": -1}, "run.yaml: seed: -1: input should be greater than or equal to 0"),
        (
            {"pretraining": {"learning_rate": "fast"}},
            "run.yaml: pretraining.learning_rate: 'fast': input should be a valid number, "
            "unable to parse string as a number",
        ),
        (
            {"pretraining": {"learning_rate": float("inf")}},
            "run.yaml: pretraining.learning_rate: inf: input should be a finite number",
        ),
        (
            {"pretraining": {"adam_betas": [0.9, 1.0]}},
            "run.yaml: pretraining.adam_betas.1: 1.0: input should be less than 1",
        ),
        (
            {"pretraining": {"learning_rate": "nan"}},
            "run.yaml: pretraining.learning_rate: 'nan': input should be a finite number",
        ),
        (
            {"pretraining": {"append_eos": "maybe"}},
            "run.yaml: pretraining.append_eos: 'maybe': input should be a valid boolean, "
            "unable to interpret input",
        ),
        (
            {"corpus": {"sequences": {"a.fasta": None}}},
            "run.yaml: corpus.sequences: {'a.fasta': None}: input should be a valid array",
        ),
        (
            {"model": {"rare_residues": "drop"}},
            "run.yaml: model.rare_residues: 'drop': input should be 'replace' or 'keep'",
        ),
        (
            {"run": "../other"},
            "run.yaml: run: '../other': expected letters, digits, '_', '.' and '-', first a letter "
            "or digit",
        ),
        ({"model": None}, "run.yaml: model: null: input should be an object"),
        ({"model": {"heads": 3}}, "run.yaml: model.heads: 3 does not divide width 64"),
        (
            {"pretraining": {"crop_residues": 1023}},
            "run.yaml: pretraining.crop_residues: 1023 residues and 2 special tokens do not fit "
            "model.maximum_tokens 1024; expected at most 1022",
        ),
        (
            {"pretraining": {"crop_residues": 1024, "append_eos": False}},
            "run.yaml: pretraining.crop_residues: 1024 residues and 1 special tokens do not fit "
            "model.maximum_tokens 1024; expected at most 1023",
        ),
        (
            {"model": {"positions": "rotary", "width": 12}},
            "run.yaml: model.positions: rotary with heads 3 wide; expected an even width",
        ),
        (
            {"pretraining": {"learning_rate_decay": "linear", "warmup_updates": 1980}},
            "run.yaml: pretraining.warmup_updates: 1980 with learning_rate_decay linear; expected "
            "fewer than nine tenths of updates 2200",
        ),
        (["model"], "run.yaml: list; expected keys such as run and model"),
        (
            {"seed": -1, "model": {"layers": 0}},
            "run.yaml: seed: -1: input should be greater than or equal to 0; "
            "model.layers: 0: input should be greater than or equal to 1",
        ),
    ],
)
def test_refusals(content: Any, message: str) -> None:
    assert refusal(content) == message


def test_values_that_yaml_has_and_json_has_not() -> None:
    assert refusal({"seed": {1, 2}}).startswith("run.yaml: seed: '{1, 2}': input should be a valid")
    for content in ({date(2024, 1, 15): 1}, CIRCLE):
        assert refusal(content).startswith("run.yaml: expected plain YAML values: ")


def test_a_date_is_the_name_that_was_typed() -> None:
    assert parse_config({"run": date(2024, 1, 15)}, origin="x").run == "2024-01-15"


def test_one_text_is_a_list_of_one() -> None:
    corpus = {"sequences": "a.fasta", "name": "x"}
    assert parse_config({"corpus": corpus}, origin="x").corpus.sequences == ("a.fasta",)
    corpus = {"release": "current", "mirrors": "https://a.org"}
    assert parse_config({"corpus": corpus}, origin="x").corpus.mirrors == ("https://a.org",)


def test_a_crop_without_eos_may_be_one_longer() -> None:
    config = parse_config(
        {"pretraining": {"crop_residues": 1023, "append_eos": False}}, origin="run.yaml"
    )
    assert config.pretraining.crop_residues == 1023


def test_numbers_may_be_text_as_on_a_command_line() -> None:
    config = parse_config({"seed": "7", "pretraining": {"learning_rate": "1e-4"}}, origin="x")
    assert config.seed == 7
    assert config.pretraining.learning_rate == 1e-4


def test_defaults_of_the_recipe() -> None:
    config = parse_config({}, origin="run.yaml")
    assert config == Config()
    recipe = config.pretraining
    assert recipe.adam_betas == (0.9, 0.999)
    assert recipe.adam_epsilon == 1e-8
    assert recipe.weight_decay == 0
    assert recipe.gradient_clipping is None
    assert recipe.crop_residues == 1022
    assert recipe.append_eos is True
    assert recipe.precision == "fp32"
    assert config.model.maximum_tokens == 1024
    assert config.model.rare_residues == "replace"
    assert config.corpus.is_synthetic


def test_shape_of_the_paper() -> None:
    model = {"layers": 33, "width": 1280, "heads": 20, "feed_forward": 5120}
    config = parse_config({"model": model}, origin="run.yaml")
    assert config.model.shape().parameters() == 652_358_433


def test_round_trip_through_json() -> None:
    config = parse_config(
        {
            "run": "mine",
            "corpus": {"sequences": ["a.fasta", "b.fasta.gz"]},
            "model": {"width": 32, "heads": 2},
            "pretraining": {"adam_betas": [0.9, 0.98], "gradient_clipping": 1, "learning_rate": 1},
            "evaluation": {"contacts": {"regularisation": 0.15}},
        },
        origin="run.yaml",
    )
    assert config.corpus.sequences == ("a.fasta", "b.fasta.gz")
    assert config.pretraining.adam_betas == (0.9, 0.98)
    assert config.pretraining.gradient_clipping == 1.0
    again = parse_config(json.loads(config.model_dump_json()), origin="run.json")
    assert again == config
    assert again.model_dump_json() == config.model_dump_json()


def test_reading_files(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("model:\n  width: 32\n  heads: 2\npretraining: {learning_rate: 4.0e-4}\n")
    config = load_config(path)
    assert (config.model.width, config.model.layers) == (32, 2)
    assert config.pretraining.learning_rate == 4e-4
    path.write_text("")
    assert load_config(path) == Config()
    path.write_text('{"seed": 7}')
    assert load_config(path).seed == 7


def test_reading_what_is_no_yaml(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value) == f"{path}: No such file or directory"
    path.write_text("model: [1\nseed: 2")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: expected YAML: ")
    assert "\n" not in str(caught.value)


def test_every_key_is_described() -> None:
    rows = describe()
    assert all(description for _, _, description in rows)
    defaults = {key: default for key, default, _ in rows}
    assert defaults["model.width"] == "64"
    assert defaults["pretraining.gradient_clipping"] == "null"
    assert defaults["evaluation.contacts.regularisation"] == '"cross-validate"'


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(UserError) as caught:
        parse_config({"pretraining": {"updates": True}}, origin="run.yaml")
    assert str(caught.value) == (
        "run.yaml: pretraining.updates: true: input should not be a boolean"
    )


def test_an_update_holds_the_longest_sequence() -> None:
    with pytest.raises(UserError) as caught:
        parse_config({"pretraining": {"tokens_per_update": 1023}}, origin="run.yaml")
    assert str(caught.value) == (
        "run.yaml: pretraining.tokens_per_update: 1023 tokens do not hold a sequence of "
        "pretraining.crop_residues; expected at least 1024"
    )
