"""The table of `python -m benchmarks gpu`: each figure beside its bar, from the parts' results."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from typing import Any, Final, Literal

from benchmarks.gpu_correctness import BOUNDS
from benchmarks.gpu_run import LOSS_BOUND

Outcome = Literal["pass", "fail", "measured", "unmeasured"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table; "measured" is a figure without a bar."""

    part: str
    figure: str
    value: str
    bar: str
    outcome: Outcome


@dataclass(frozen=True)
class _Figure:
    """A figure of a part's result, and what it must be.

    Attributes:
        name: words for it.
        path: keys to it in the result, or places among values, from 0.
        least: least value, or None.
        most: largest value, or None.
        remark: further bars, for the reader.
        is_of_gpu: False for what a rehearsal on CPU proves as well.
    """

    name: str
    path: tuple[str | int, ...]
    least: float | None = None
    most: float | None = None
    remark: str = ""
    is_of_gpu: bool = True

    @property
    def bar(self) -> str:
        if self.least is not None and self.least == self.most:
            return _shown(self.least)
        ends = (("at least", self.least), ("at most", self.most))
        bars = [f"{words} {_shown(end)}" for words, end in ends if end is not None]
        return ", ".join([*bars, self.remark] if self.remark else bars) or "-"

    def value_in(self, result: Any) -> float:
        for key in self.path:
            result = list(result.values())[key] if isinstance(key, int) else result[key]
        return result if isinstance(result, int) else float(result)

    def outcome(self, value: float) -> Outcome:
        if self.least is None and self.most is None:
            return "measured"
        is_low = self.least is not None and value < self.least
        is_high = self.most is not None and value > self.most
        return "fail" if is_low or is_high else "pass"


def _distances() -> Iterator[_Figure]:
    for precision, bound in BOUNDS.items():
        for path in ("varlen", "varlen, filled and compiled", "sdpa"):
            for what in ("logits", "gradients"):
                name = f"{precision}, {path}: distance of {what}"
                keys = (precision, "distances", path, what)
                yield _Figure(name, keys, most=bound, is_of_gpu=path != "sdpa")


def _disturbed(run: str, words: str) -> Iterator[_Figure]:
    losses, same = (("runs", run, key) for key in ("largest_relative_difference", "same_sequences"))
    yield _Figure(f"losses {words}: difference", losses, most=LOSS_BOUND, is_of_gpu=False)
    yield _Figure(f"same sequences {words}", same, True, True, is_of_gpu=False)


def _trainer(tokens_per_second: float, remark: str = "") -> Iterator[_Figure]:
    rate, share = (
        ("sides", "trainer", key)
        for key in ("unpadded_tokens_per_second", "model_flops_utilisation")
    )
    yield _Figure("unpadded tokens/s", rate, least=tokens_per_second, remark=remark)
    yield _Figure("utilisation", share)
    yield _Figure("peak memory, GiB", ("after", "peak_device_memory_gib"))
    yield _Figure("peak memory / estimate", ("after", "peak_over_estimate"), 0.8, 1.1)
    yield _Figure("compilations", ("after", "compilations"), 1, 1)
    yield _Figure(
        "compilations, validation included", ("after", "compilations_with_validation"), 2, 2
    )
    yield _Figure("stall of a save, s", ("after", "save_stall_seconds"), most=2)
    yield _Figure("lost until a save is done, s", ("after", "slowed_seconds"))


def _peers() -> Iterator[_Figure]:
    names = ("ours", "Hugging Face padded", "Hugging Face grouped")
    for place, name in enumerate(names):
        yield _Figure(f"{name}, tokens/s", ("sides", place, "real_tokens_per_second"))
    for place, name in enumerate(names[1:]):  # of times
        yield _Figure(f"ours / {name}", ("ratios", place, "time"), least=1)


_FIGURES: Final[dict[str, list[_Figure]]] = {
    "tests": [
        _Figure("gpu-marked tests that failed", ("failed_tests",), 0, 0),
        _Figure("gpu-marked tests that passed", ("passed_tests",), least=1),
    ],
    "correctness": [*_distances()],
    "run": [
        *_disturbed("other_layout", "in another layout"),
        *_disturbed("killed", "after kills"),
        _Figure("kills", ("kills",), least=10),
        *(
            _Figure(
                f"deterministic kernels: same {what} after kills",
                ("runs", "killed_deterministic", f"same_{what}"),
                *(True, True),
                is_of_gpu=False,
            )
            for what in ("losses", "weights")
        ),
    ],
    "trainer": [
        *_trainer(80_000, "leads from 104,000"),
        _Figure("share lost to the trainer", ("share_lost", "time"), most=0.05),
    ],
    "peers": [*_peers()],
    "small": [*_trainer(330_000)],
}

PARTS: Final = tuple(_FIGURES)


def rows(results: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Return the figures of all parts; `results` has those that were run, by name.

    What a part that failed did not find is a failure where it has a bar. What needs a GPU is
    unmeasured where the machine of a result has none.
    """
    return [
        _row(part, figure, results.get(part))
        for part, figures in _FIGURES.items()
        for figure in figures
    ]


def table(lines: Iterable[Row]) -> str:
    """Return rows as text, in columns."""
    cells = [("part", "figure", "value", "bar", "result"), *map(astuple, lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def _row(part: str, figure: _Figure, result: Mapping[str, Any] | None) -> Row:
    value = "-"
    outcome: Outcome = "unmeasured"
    machine = {} if result is None else result.get("machine", {"gpu": "unknown, as it failed"})
    if "gpu" in machine or (machine and not figure.is_of_gpu):
        try:
            found = figure.value_in(result)
            value, outcome = _shown(found), figure.outcome(found)
        except (KeyError, IndexError, TypeError):
            outcome = "unmeasured" if figure.bar == "-" else "fail"
    return Row(part=part, figure=figure.name, value=value, bar=figure.bar, outcome=outcome)


def _shown(value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    is_whole = isinstance(value, int) or abs(value) >= 1000
    return f"{value:,.0f}" if is_whole else f"{value:.3g}"
