import json
from pathlib import Path
from typing import Any

import pytest

from esm1b.config import Config, load_config, parse_config
from esm1b.errors import UserError
from esm1b.pretraining.planning.data import LengthStatistics, TrainingData, assumed_data
from esm1b.pretraining.planning.estimate import Estimate, estimate
from esm1b.pretraining.planning.estimate_text import estimate_text
from esm1b.pretraining.planning.gpus import find_gpu

CONFIGURATIONS = Path(__file__).parents[3] / "config"
ESM1B = load_config(CONFIGURATIONS / "esm1b.yaml")


def tiny(**changed: Any) -> Config:
    content = {
        "model": {"layers": 2, "width": 16, "heads": 2, "feed_forward": 32, "maximum_tokens": 64},
        "pretraining": {
            "updates": 1000,
            "tokens_per_update": 500,
            "crop_residues": 62,
            "checkpoints_kept": 2,
            **changed,
        },
    }
    return parse_config(content, origin="tiny")


TINY_DATA = TrainingData(
    sequences=2000,
    lengths=LengthStatistics(mean_tokens=25.0, weighted_mean_length=10.0),
    origin="by hand",
)


def of_esm1b(gpu: str = "H200", gpus: int = 8, **changed: Any) -> Estimate:
    return estimate(ESM1B, assumed_data(ESM1B), gpu=find_gpu(gpu), gpus=gpus, **changed)


def test_gpus_fill_nodes() -> None:
    assert [of_esm1b(gpus=count).nodes for count in (1, 8, 9, 64)] == [1, 1, 2, 8]


def test_a_tiny_run_by_hand() -> None:
    result = estimate(tiny(), TINY_DATA, gpu=find_gpu("H200"), gpus=2, utilisation=0.25)
    assert result.tokens == 500_000
    assert result.epochs == 500_000 / (2000 * 25)
    # 6 x 5,377 weights and 12 x 2 x 16 x 10 of attention
    assert result.flops_per_token == 36_102
    assert result.flops == 18_051_000_000
    # in fp32 67e12, a quarter of it: 16.75e12 / 36,102 = 463,963,215 tokens/s of each GPU
    asked = result.durations[0]
    assert asked.utilisation == 0.25
    assert asked.tokens_per_second_per_gpu == pytest.approx(463_963_215, rel=1e-8)
    assert asked.gpu_hours == pytest.approx(18_051_000_000 / 16.75e12 / 3600)
    assert asked.hours == pytest.approx(asked.gpu_hours / 2)
    assert result.checkpoint_bytes == 12 * 6433
    assert result.checkpoints == 3


def test_the_papers_run_on_eight_gpus() -> None:
    result = of_esm1b()
    assert result.tokens == 65_536_000_000
    # 30.16 M clusters less 3.016 M held out; 283.6 tokens each
    assert result.data.sequences == 27_144_000
    assert result.epochs == pytest.approx(65.536e9 / (27.144e6 * 283.6), rel=1e-3)
    # 65.536e9 tokens of 6 x 651,045,153 + 506,880 x 427.5 = 4.123e9 operations: 2.702e20
    assert result.flops == pytest.approx(2.702e20, rel=1e-3)
    hours = {duration.utilisation: duration.hours for duration in result.durations}
    assert list(hours) == [0.50, 0.35, 0.43, 0.58]
    # 2.702e20 / (8 x 989e12 x 0.5) = 68,300 s
    assert hours[0.50] == pytest.approx(68_300 / 3600, rel=1e-3)
    assert hours[0.35] == pytest.approx(97_570 / 3600, rel=1e-3)  # a little over a day
    assert result.durations[0].gpu_hours == pytest.approx(8 * hours[0.50])
    # 119,900 tokens/s of a H200
    assert result.durations[0].tokens_per_second_per_gpu == pytest.approx(119_940, rel=1e-3)
    assert result.checkpoints * result.checkpoint_bytes == 4 * 7_828_301_196


def test_the_rate_is_a_share_of_the_peak() -> None:
    lengths = LengthStatistics(mean_tokens=300.0, weighted_mean_length=450.0)
    data = TrainingData(sequences=None, lengths=lengths, origin="by hand")
    # 989e12 x 0.5 / (6 x 651,045,153 + 506,880 x 450) = 494.5e12 / 4,134,366,918
    rate = estimate(ESM1B, data, gpu=find_gpu("H200"), gpus=1).durations[0]
    assert rate.tokens_per_second_per_gpu == pytest.approx(119_607.2, abs=0.1)


def test_half_the_gpus_take_twice_as_long_and_as_many_gpu_hours() -> None:
    four, eight = of_esm1b(gpus=4).durations[0], of_esm1b(gpus=8).durations[0]
    assert four.hours == pytest.approx(2 * eight.hours)
    assert four.gpu_hours == pytest.approx(eight.gpu_hours)
    assert of_esm1b(utilisation=0.43).durations[0].hours > eight.hours
    assert [d.utilisation for d in of_esm1b(utilisation=0.43).durations] == [0.43, 0.35, 0.58]


def test_memory_says_what_fits_and_what_is_chosen() -> None:
    result = of_esm1b("A100", gpus=1)
    rows = {row.tokens: row for row in result.micro_batches}
    assert list(rows) == [4096, 8192, 16_384, 32_768, 43_691, 65_536, 131_072]
    assert list(rows[4096].bytes) == [1, 2, 3]
    # 20 bytes a parameter; 1,384,936 a token of 4,096 and a longest sequence
    assert rows[4096].bytes[1] == 13_047_168_660 + 1_384_936 * (4096 + 1024)
    assert rows[4096].rounds == 32
    assert rows[43_691].rounds == 3
    assert [row.fits[1] for row in result.micro_batches] == [True] * 5 + [False] * 2
    assert result.micro_batch_tokens == {1: 43_691, 2: 32_768, 3: 32_768}
    # 21.3 GB less 13.0 GB: 5,900 tokens, so 27 rounds of 4,855 and a sequence
    assert of_esm1b("L4", gpus=1).micro_batch_tokens[1] == 4855
    assert of_esm1b("V100-16GB", gpus=1).micro_batch_tokens == {1: None, 2: None, 3: None}


def test_activation_checkpointing_makes_room() -> None:
    plain, checkpointing = (
        of_esm1b("RTX4090", gpus=1, activation_checkpointing=value) for value in (False, True)
    )
    assert checkpointing.activation_bytes_per_token < plain.activation_bytes_per_token / 8
    assert (checkpointing.micro_batch_tokens[1] or 0) > (plain.micro_batch_tokens[1] or 0)


def test_no_number_is_made_up() -> None:
    unknown = assumed_data(tiny())
    result = estimate(tiny(), unknown, gpu=find_gpu("H200"), gpus=1)
    assert result.epochs is None
    assert "number of training sequences not known" in estimate_text(result)
    assert "epochs" not in estimate_text(result)
    with pytest.raises(UserError, match=r"^--gpu B200: its peak in fp32 is not known here"):
        estimate(tiny(), TINY_DATA, gpu=find_gpu("B200"), gpus=1)


def test_the_text() -> None:
    text = estimate_text(of_esm1b())
    assert max(map(len, text.splitlines())) <= 100
    for line in (
        "run         esm1b, 652,358,433 parameters, bf16",
        "data        27,144,000 training sequences",
        "updates     500,000 of 131,072 tokens: 65.5 G tokens, 8.51 epochs",
        "operations  4.12 GFLOP a token, 2.7e+20 FLOP in all",
        "GPUs        8 x H200, 989 TFLOP/s dense",
        "  50 %                       119,938        19.0     0.79       151.8  <-",
        "  together                     -      6.20      5.61      5.77",
        "     16,384       1                -            30.3*            29.7*            29.9*",
        "disk: 4 checkpoints of 7.83 GB, 31.3 GB (checkpoints_kept and the next)",
        "      10 milestones of 10.44 GB, 104.4 GB, a model with each",
    ):
        assert line in text.splitlines()
    assert "it has no bf16" in estimate_text(of_esm1b("V100", gpus=8))
    short = estimate_text(of_esm1b("V100-16GB", gpus=1))
    assert "ZeRO 1, 2, 3: not even the longest sequence fits" in short
    assert "(no) 20.1 " in short


def lines_of(result: Estimate) -> list[str]:
    lines = estimate_text(result).splitlines()
    assert max(map(len, lines)) <= 100
    return lines


def test_many_nodes_on_one_link_each_are_no_longer_fast() -> None:
    result = of_esm1b("A100", 64, link_gbit=200, time_limit_seconds=24 * 3600)
    lines = lines_of(result)
    for line in (
        "transfer of an update: 8 x 8 GPUs, 200 Gb/s from each node",
        "                              ZeRO 0        ZeRO 1        ZeRO 2        ZeRO 3",
        "  micro-batches                    -             1             1             1",
        "  GB from each node                -          6.42          6.42          3.85",
        "  transfer, ms                     -           257           257           154",
        "  compute, ms                      -            54            54            54",
        "  hours                            -     35.7-43.2     35.7-43.2     21.4-28.9",
        "  jobs of 24 h                     -             2             2             2",
        "  Gb/s for compute/2               -         1,898         1,898         1,139",
        "  warning: ZeRO 1, 2, 3: transfer takes more than half as long as",
        (
            "  warning: 2,048 tokens per GPU and update; with fewer than 4,096 expect a smaller "
            "share of the peak"
        ),
    ):
        assert line in lines
    content = result.as_json()
    assert (content["gpus"], content["nodes"], content["gpus_per_node"]) == (64, 8, 8)
    assert content["link_gbit"] == 200
    assert content["gpu"]["nvlink_bytes"] == 300e9
    assert content["transfers"][1]["traffic"]["all_reduced"] == 4 * 652_358_433
    assert content["transfers"][1]["jobs"] == 2
    slowest = of_esm1b("V100", 128, link_gbit=100).transfers
    assert round(1000 * (slowest[1].seconds or 0)) == 518
    assert round(1000 * (slowest[3].seconds or 0)) == 311


def test_fast_links_give_no_warning() -> None:
    for result in (of_esm1b(), of_esm1b("A100", 32, link_gbit=3200)):
        assert not any("warning" in line for line in lines_of(result))
    lines = lines_of(of_esm1b())
    assert "transfer of an update: 1 x 8 GPUs" in lines
    assert "  GB from each GPU                 -          5.71          5.71          3.42" in lines
    assert "  hours                            -     19.0-20.7     19.0-20.7     19.0-20.0" in lines


def test_a_network_of_unknown_rate_is_told() -> None:
    lines = lines_of(of_esm1b("A100", 16, time_limit_seconds=3600))
    assert "  transfer, ms                     -             -             -             -" in lines
    assert "  hours                            -             -             -             -" in lines
    assert "  Gb/s for compute/2               -           452           452           271" in lines
    assert (
        "  warning: without --link-gbit no time of the network is counted, see the last row"
    ) in lines


def test_a_node_without_nvlink_is_told() -> None:
    line = "  no time of the transfer is counted: the rate within a node is known of NVLink only"
    assert line in lines_of(of_esm1b("RTX4090", 4))
    assert line not in lines_of(of_esm1b("A100", 4))


def test_one_gpu_moves_nothing_and_still_takes_jobs() -> None:
    assert not any("transfer of an update" in line for line in lines_of(of_esm1b(gpus=1)))
    lines = lines_of(of_esm1b(gpus=1, time_limit_seconds=24 * 3600))
    assert "jobs of 24 h: 7; starts and saves not counted; one requeue less" in lines


@pytest.mark.parametrize("name", ["config", "one-gpu-hour", "one-gpu-day", "esm1b", "esm2"])
def test_shipped_configurations(name: str) -> None:
    config = load_config(CONFIGURATIONS / f"{name}.yaml")
    result = estimate(config, assumed_data(config), gpu=find_gpu("H200"), gpus=1)
    assert max(map(len, estimate_text(result).splitlines())) <= 100
    content = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert content["tokens"] == result.tokens
    assert content["gpu"]["name"] == "H200"
    assert content["states"]["1"]["total"] == result.states[1].total


def test_presets_take_about_what_their_names_say() -> None:
    def hours(name: str, utilisation: float) -> float:
        config = load_config(CONFIGURATIONS / f"{name}.yaml")
        result = estimate(
            config, assumed_data(config), gpu=find_gpu("H200"), gpus=1, utilisation=utilisation
        )
        return result.durations[0].hours

    # 40.0 G tokens of 0.99 GFLOP at half the peak
    assert hours("one-gpu-day", 0.5) == pytest.approx(22.2, abs=0.2)
    # 16.4 G tokens of 0.09 GFLOP; small networks use less of a GPU
    assert 0.7 < hours("one-gpu-hour", 0.5) < 1.0
