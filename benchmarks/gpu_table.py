"""The table of `python -m benchmarks gpu`: each figure beside its bar, from the parts' results."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, Final, Literal

Result = Mapping[str, Any]
Outcome = Literal["pass", "fail", "measured", "unmeasured"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table; "measured" is a figure without a bar."""

    part: str
    figure: str
    value: str
    bar: str
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class _Figure:
    """A figure of a part's result, and what it must be.

    Attributes:
        name: words for it.
        value: function that reads it from the result.
        least: least value, or None.
        most: largest value, or None.
        remark: further bars, for the reader.
        is_of_gpu: False for what a rehearsal on CPU proves as well.
    """

    name: str
    value: Callable[[Result], Any]
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

    def outcome(self, value: float) -> Outcome:
        if self.least is None and self.most is None:
            return "measured"
        is_low = self.least is not None and value < self.least
        is_high = self.most is not None and value > self.most
        return "fail" if is_low or is_high else "pass"


def _at(*keys: str) -> Callable[[Result], Any]:
    """Return a function that follows `keys` into a result."""

    def value(result: Result) -> Any:
        for key in keys:
            result = result[key]
        return result

    return value


def _distance(precision: str, path: str) -> _Figure:
    distances = _at(precision, "distances", path)
    return _Figure(
        name=f"{precision}, {path}: distance of logits or gradients",
        value=lambda result: max(distances(result).values()),
        most={"bfloat16": 3e-2, "float16": 4e-3}[precision],
        is_of_gpu=path != "sdpa",
    )


def _runs(name: str, words: str) -> list[_Figure]:
    return [
        _Figure(
            name=f"losses {words}: largest relative difference",
            value=_at("runs", name, "largest_relative_difference"),
            most=2e-2,
            is_of_gpu=False,
        ),
        _Figure(
            name=f"same sequences {words}",
            value=_at("runs", name, "same_sequences"),
            least=True,
            most=True,
            is_of_gpu=False,
        ),
    ]


def _kills(result: Result) -> int:
    runs = (result["runs"][name] for name in ("killed", "killed_deterministic"))
    return sum(len(run["killed_after"]) for run in runs)


def _is_bitwise(result: Result) -> bool:
    run: Mapping[str, bool] = result["runs"]["killed_deterministic"]
    return run["same_losses"] and run["same_weights"]


def _trainer(tokens_per_second: float, remark: str = "") -> list[_Figure]:
    side = ("sides", "trainer")
    peak = _at("after", "peak_device_memory_gib")
    estimate = _at("after", "estimated_memory_gib")
    return [
        _Figure(
            name="unpadded tokens/s",
            value=_at(*side, "unpadded_tokens_per_second"),
            least=tokens_per_second,
            remark=remark,
        ),
        _Figure(name="utilisation", value=_at(*side, "model_flops_utilisation")),
        _Figure(name="peak memory, GiB", value=peak),
        _Figure(
            name="peak memory / estimate",
            value=lambda result: peak(result) / estimate(result),
            least=0.8,
            most=1.1,
        ),
        _Figure(name="compilations", value=_at("after", "compilations"), least=1, most=1),
        _Figure(
            name="compilations with a validation",
            value=_at("after", "compilations_with_validation"),
            least=2,
            most=2,
        ),
        _Figure(name="share lost to the trainer", value=_at("share_lost", "time"), most=0.05),
        _Figure(name="stall of a save, s", value=_at("after", "save_stall_seconds"), most=2),
        _Figure(name="lost until a save is done, s", value=_at("after", "slowed_seconds")),
    ]


def _rate(kind: str) -> Callable[[Result], float]:
    return lambda result: max(
        side["real_tokens_per_second"]
        for name, side in result["sides"].items()
        if name.startswith(kind)
    )


def _peer(kind: str) -> list[_Figure]:
    ours, theirs = _rate("packed"), _rate(kind)
    return [
        _Figure(name=f"Hugging Face {kind}, tokens/s", value=theirs),
        _Figure(
            name=f"ours / Hugging Face {kind}",
            value=lambda result: ours(result) / theirs(result),
            least=1,
        ),
    ]


_FIGURES: Final[dict[str, list[_Figure]]] = {
    "tests": [
        _Figure(name="gpu-marked tests that failed", value=_at("failed_tests"), least=0, most=0),
        _Figure(name="gpu-marked tests that passed", value=_at("passed_tests"), least=1),
    ],
    "correctness": [
        _distance(precision, path)
        for precision in ("bfloat16", "float16")
        for path in ("varlen", "varlen, filled and compiled", "sdpa")
    ],
    "run": [
        *_runs("other_layout", "in another layout"),
        *_runs("killed", "after kills"),
        _Figure(name="kills and resumptions", value=_kills, least=10),
        _Figure(
            name="deterministic kernels: same bits after kills",
            value=_is_bitwise,
            least=True,
            most=True,
            is_of_gpu=False,
        ),
    ],
    "trainer": _trainer(80_000, "leads from 104,000"),
    "peers": [
        _Figure(name="ours, tokens/s", value=_rate("packed")),
        *_peer("padded"),
        *_peer("grouped"),
    ],
    "small": _trainer(330_000),
}

PARTS: Final = tuple(_FIGURES)


def rows(results: Mapping[str, Result]) -> list[Row]:
    """Return the figures of all parts; `results` has those that were run, by name.

    What a part that failed did not find is a failure. What needs a GPU is unmeasured where the
    machine of a result has none.
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


def _row(part: str, figure: _Figure, result: Result | None) -> Row:
    value = "-"
    outcome: Outcome = "unmeasured"
    machine = {} if result is None else result.get("machine", {"gpu": "unknown, as it failed"})
    if result is not None and ("gpu" in machine or not figure.is_of_gpu):
        try:
            found = figure.value(result)
            value, outcome = _shown(found), figure.outcome(found)
        except (KeyError, TypeError, ValueError):
            outcome = "fail"
    return Row(part=part, figure=figure.name, value=value, bar=figure.bar, outcome=outcome)


def _shown(value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    is_whole = isinstance(value, int) or abs(value) >= 1000
    return f"{value:,.0f}" if is_whole else f"{value:.3g}"
