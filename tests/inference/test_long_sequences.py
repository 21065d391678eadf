import pytest
from hypothesis import given
from hypothesis import strategies as st

from esm1b.errors import UserError
from esm1b.inference.long_sequences import Window, windows_of


def test_what_fits_is_one_window() -> None:
    whole = Window(start=0, stop=10, first=0, last=10)
    assert windows_of(10, 10, "error") == [whole]
    assert windows_of(10, 10, "windows") == [whole]
    assert windows_of(10, 11, "truncate") == [whole]


def test_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="P12345: 1,500 residues; expected at most 1,022, or a"):
        windows_of(1500, 1022, "error", name="P12345")
    assert windows_of(1500, 1022, "truncate") == [Window(start=0, stop=1022, first=0, last=1022)]
    assert windows_of(1500, 1022, "windows") == [
        Window(start=0, stop=1022, first=0, last=750),
        Window(start=478, stop=1500, first=750, last=1500),
    ]
    assert [window.start for window in windows_of(2100, 1000, "windows")] == [0, 366, 733, 1100]


@given(st.integers(1, 3000), st.integers(1, 300))
def test_windows_keep_every_residue_once(length: int, longest: int) -> None:
    windows = windows_of(length, longest, "windows")
    kept = [place for window in windows for place in range(window.first, window.last)]
    assert kept == list(range(length))
    for window in windows:
        assert 0 <= window.start <= window.first < window.last <= window.stop <= length
        assert window.stop - window.start == min(length, longest)
        # A quarter of a window on both sides, save at the ends of the sequence.
        margin = longest // 4 - 1
        assert window.start == 0 or window.first - window.start >= margin
        assert window.stop == length or window.stop - window.last >= margin
