from pathlib import Path

import pytest

from config.generate import generated_files
from esm1b.config import Config, load_config

ROOT = Path(__file__).parents[1]


def test_generated_files_are_up_to_date() -> None:
    for path, text in generated_files(ROOT).items():
        assert path.read_text(encoding="utf-8") == text, (
            f"{path.name} is out of date: python -m config.generate"
        )


def test_the_default_file_says_the_defaults() -> None:
    assert load_config(ROOT / "config" / "config.yaml") == Config()


def test_every_key_has_a_description() -> None:
    text = (ROOT / "config" / "config.yaml").read_text(encoding="utf-8")
    assert "# None" not in text


@pytest.mark.parametrize(
    ("name", "parameters", "tokens"),
    [
        ("esm1b", 652_358_433, 65_536_000_000),
        ("esm2", 651_042_593, 1_048_576_000_000),
        ("one-gpu-day", 148_797_473, 39_976_960_000),
        ("one-gpu-hour", 12_773_153, 16_384_000_000),
    ],
)
def test_presets_have_the_size_they_state(name: str, parameters: int, tokens: int) -> None:
    config = load_config(ROOT / "config" / f"{name}.yaml")
    assert config.model.shape().parameters() == parameters
    assert config.pretraining.updates * config.pretraining.tokens_per_update == tokens


def test_the_paper_preset_is_the_recipe() -> None:
    config = load_config(ROOT / "config" / "esm1b.yaml")
    recipe = config.pretraining
    assert (recipe.updates, recipe.tokens_per_update) == (500_000, 131_072)
    assert (recipe.learning_rate, recipe.warmup_updates) == (1e-4, 16_000)
    assert (recipe.adam_betas, recipe.adam_epsilon, recipe.weight_decay) == (
        (0.9, 0.999),
        1e-8,
        0.0,
    )
    assert (recipe.crop_residues, recipe.append_eos, recipe.gradient_clipping) == (1022, True, None)
    assert config.evaluation.contacts.regularisation == 0.15


def test_the_preset_of_esm2_is_its_recipe() -> None:
    config = load_config(ROOT / "config" / "esm2.yaml")
    recipe = config.pretraining
    assert (config.model.positions, config.model.shape().layer_norm_before) == ("rotary", False)
    assert (recipe.updates, recipe.tokens_per_update) == (500_000, 2_097_152)
    assert (recipe.learning_rate, recipe.warmup_updates) == (4e-4, 2_000)
    assert recipe.learning_rate_decay == "linear"
    assert (recipe.adam_betas, recipe.adam_epsilon, recipe.weight_decay) == (
        (0.9, 0.98),
        1e-8,
        0.01,
    )
