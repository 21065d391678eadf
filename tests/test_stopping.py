import os
import signal

import pytest

from esm1b.errors import UserError
from esm1b.stopping import StopRequest, TimeBudget, parse_duration


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_ask_to_stop_and_do_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest(TimeBudget(None)) as stop:
        assert not stop.is_made()
        os.kill(os.getpid(), number)
        assert stop.is_made()
        assert stop.reason() == number.name
    assert signal.getsignal(number) is before


def test_a_spent_budget_asks_to_stop() -> None:
    now = [100.0]
    stop = StopRequest(TimeBudget(10, clock=lambda: now[0]))
    now[0] = 109.9
    assert not stop.is_made()
    now[0] = 110.0
    assert stop.is_made()
    assert stop.reason() == "its time is up"


def test_a_thread_may_ask() -> None:
    stop = StopRequest(TimeBudget(None))
    assert stop.reason() is None
    stop.ask("its launcher died")
    stop.ask("another reason, later")
    assert stop.is_made()
    assert stop.reason() == "its launcher died"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("23h30m", 84_600),
        ("90m", 5_400),
        ("3600", 3_600),
        ("45s", 45),
        ("1d12h", 129_600),
        ("1d1h1m1s", 90_061),
        ("2h5", 7_205),
    ],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0m", "1.5h", "30m2h", "-5", "soon", "23:30:00", " 5m"])
def test_no_duration(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_duration(text, name="--stop-after")
    assert str(caught.value) == (
        f"--stop-after: {text!r}; expected a duration such as 23h30m, 90m or 3600"
    )


def test_a_budget_is_spent_when_its_seconds_are_over() -> None:
    now = [100.0]
    budget = TimeBudget(30, clock=lambda: now[0])
    assert not budget.is_spent()
    now[0] = 129.9
    assert not budget.is_spent()
    now[0] = 130.0
    assert budget.is_spent()


def test_no_budget_is_never_spent() -> None:
    now = [0.0]
    budget = TimeBudget(None, clock=lambda: now[0])
    now[0] = 1e12
    assert not budget.is_spent()
