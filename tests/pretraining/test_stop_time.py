from types import SimpleNamespace

import pytest

from esm1b.pretraining.stop_time import StopTime
from esm1b.stopping import StopRequest


class Asked(StopRequest):
    """A request that keeps what it is told."""

    told = 0.0

    def takes(self, seconds: float) -> None:
        self.told = seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of a clock that a test sets."""
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("esm1b.pretraining.stop_time.time", clock)
    return now


def test_three_times_the_longest_turn_and_save(now: list[float]) -> None:
    stop = Asked()
    timing = StopTime(stop, checkpoint_bytes=2_000_000_000)
    assert stop.told == 30  # at an assumed 200 MB/s
    timing.turn(save_seconds=None)
    now[0] += 500  # compiles
    timing.turn(save_seconds=None)
    assert stop.told == 30
    now[0] += 4
    timing.turn(save_seconds=None)
    assert stop.told == 3 * (4 + 10)
    with timing.saving():
        now[0] += 25
    now[0] += 5
    timing.turn(save_seconds=25)
    assert stop.told == 3 * (5 + 25)  # the save is no part of the turn


def test_a_measured_save_counts_instead_of_the_assumed_one(now: list[float]) -> None:
    stop = Asked()
    timing = StopTime(stop, checkpoint_bytes=2_000_000_000)
    timing.turn(save_seconds=1)
    assert stop.told == 3
