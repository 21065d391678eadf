import os
import signal
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from esm1b.errors import Stopped, UserError
from esm1b.stopping import StopAtOnce, StopRequest, parse_duration


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_ask_to_stop_and_do_nothing_else(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopRequest().from_signals() as stop:
        assert not stop.is_made()
        os.kill(os.getpid(), number)
        assert stop.is_made()
        assert stop.reason() == number.name
    assert signal.getsignal(number) is before


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of a clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr("esm1b.stopping.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_spent_budget_asks_to_stop(now: list[float]) -> None:
    stop = StopRequest(10)
    assert not stop.is_made()
    now[0] = 109.9
    assert not stop.is_made()
    now[0] = 110.0
    assert stop.is_made()
    assert stop.reason() == "its time is up"


def test_it_asks_a_minute_or_as_long_as_stopping_takes_before_the_job_ends(
    now: list[float],
) -> None:
    stop = StopRequest(job_seconds=1000)
    now[0] = 1039.9
    assert not stop.is_made()
    stop.takes(200)
    assert stop.reason() == "its job ends in 60 s"
    slow = StopRequest(job_seconds=1000)
    slow.takes(200)
    now[0] += 799
    assert not slow.is_made()
    now[0] += 1
    assert slow.reason() == "its job ends in 200 s"


def test_a_short_job_is_not_all_reserve(now: list[float]) -> None:
    stop = StopRequest(job_seconds=40)
    stop.takes(0.1)
    now[0] += 29.9
    assert not stop.is_made()
    now[0] += 0.1
    assert stop.reason() == "its job ends in 10 s"


def test_a_thread_may_ask() -> None:
    stop = StopRequest()
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


def test_without_a_budget_time_never_asks(now: list[float]) -> None:
    stop = StopRequest()
    now[0] = 1e12
    assert not stop.is_made()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_stops_at_once_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def work() -> None:
        with StopAtOnce().from_signals():
            os.kill(os.getpid(), number)
            pytest.fail("nothing stopped")

    with pytest.raises(Stopped, match="a signal asked to"):
        work()
    assert signal.getsignal(number) is before


def test_a_signal_is_held_back_to_the_end_of_a_write() -> None:
    done = []

    def work() -> None:
        with StopAtOnce().from_signals() as stop:
            with stop.held_back():
                done.append("before")
            with stop.held_back():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("write")
            pytest.fail("nothing stopped")

    with pytest.raises(Stopped, match="a signal asked to"):
        work()
    assert done == ["before", "write"]


def test_only_the_main_thread_listens() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def listen() -> bool:
        with StopAtOnce().from_signals():
            return signal.getsignal(signal.SIGTERM) is before

    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(listen).result()
