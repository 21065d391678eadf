import os
import signal

import pytest

from esm1b.pretraining.stop_request import StopRequest
from esm1b.pretraining.time_budget import TimeBudget


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
