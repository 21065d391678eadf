"""The figures of the corpus and the training."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from esm1b.plotting import INK, LINE, OTHER, SOFT, TRAINED, WIDTH, render

_MOST_POINTS: Final = 2000  # of a curve: more would not show, but slow the page down


def corpus_figure(manifest: Mapping[str, Any]) -> str:
    """Return lengths and residue composition as SVG, from the manifest of a corpus."""

    def draw(figure: Figure) -> None:
        lengths, residues = figure.subplots(1, 2, width_ratios=(1, 1.15))
        _draw_lengths(lengths, manifest["length_histogram"])
        _draw_composition(residues, manifest["composition"])

    return render("corpus", WIDTH, 2.9, draw)


def training_figure(
    lines: Sequence[Mapping[str, Any]], tokens_per_update: int | None = None
) -> str:
    """Return the training curves as SVG.

    Args:
        lines: content of `metrics.jsonl`.
        tokens_per_update: tokens of an update, for a second axis; None leaves it out.
    """
    training = _thinned([line for line in lines if "loss" in line])
    validation = _thinned([line for line in lines if "validation_loss" in line])
    restarts = _restarts(training)

    def draw(figure: Figure) -> None:
        panels = figure.subplot_mosaic("lllppp;rrggtt")
        loss, perplexity = panels["l"], panels["p"]
        _curve(loss, training, "loss", label="training", color=TRAINED)
        _curve(loss, validation, "validation_loss", label="validation", color=OTHER, marker="o")
        loss.set_title("Loss: cross-entropy, nats")
        loss.legend(loc="upper center")
        _draw_perplexity(perplexity, validation)
        for key, field, title in (
            ("r", "learning_rate", "Learning rate"),
            ("g", "gradient_norm", "Gradient norm"),
            ("t", "tokens_per_second", "Tokens per second"),
        ):
            _curve(panels[key], training, field, color=SOFT, linewidth=1.1)
            panels[key].set_title(title)
            panels[key].set_ylim(bottom=0)
        panels["t"].yaxis.set_major_formatter(EngFormatter(sep=""))
        for panel in panels.values():
            panel.xaxis.set_major_formatter(EngFormatter(sep=""))
            panel.locator_params(axis="x", nbins=5)
            panel.margins(x=0.02)
            for update in restarts:
                panel.axvline(update, color=INK, linewidth=0.8, linestyle=(0, (2, 2)))
        for panel in (loss, perplexity):
            panel.set_xlabel("updates")
            if tokens_per_update is not None:
                _add_token_axis(panel, tokens_per_update)

    return render("training", WIDTH, 5.2, draw)


def _draw_perplexity(axes: Axes, validation: Sequence[Mapping[str, Any]]) -> None:
    """Draw both perplexities of the held-out sequences, where a run has both."""
    axes.set_title("Validation perplexity")
    if not any("validation_mask_perplexity" in line for line in validation):
        _curve(axes, validation, "validation_perplexity", color=OTHER, marker="o")
        return
    for field, label, color in (
        ("validation_mask_perplexity", "at <mask>", TRAINED),
        ("validation_perplexity", "masked as in training", OTHER),
    ):
        _curve(axes, validation, field, label=label, color=color, marker="o")
    axes.legend(loc="upper right")


def _draw_lengths(axes: Axes, histogram: Mapping[str, Sequence[int]]) -> None:
    edges = np.array(histogram["edges"])
    regular = edges
    if len(edges) > 2 and edges[-1] - edges[-2] > edges[1] - edges[0]:
        # The last bin holds the few longest: drawn as wide as the others, it is marked with >=.
        regular = np.append(edges[:-1], 2 * edges[-2] - edges[-3])
        axes.set_xlabel(f"residues (last bin: {edges[-2]:,} and more)")
    else:
        axes.set_xlabel("residues")
    for split, color, fill in (("train", TRAINED, True), ("validation", OTHER, False)):
        counts = np.array(histogram[split], dtype=float)
        axes.stairs(
            counts / max(counts.sum(), 1),
            regular,
            fill=fill,
            color=color,
            alpha=0.55 if fill else 1,
            linewidth=1.2,
            label="training" if split == "train" else split,
        )
    axes.set_title("Length")
    axes.yaxis.set_major_formatter(_percent)
    axes.locator_params(axis="y", nbins=6)
    axes.grid(visible=False, axis="x")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)


def _draw_composition(axes: Axes, composition: Mapping[str, int]) -> None:
    ordered = sorted(composition.items(), key=lambda item: (-item[1], item[0]))
    total = sum(composition.values())
    symbols = [symbol for symbol, _ in ordered]
    axes.bar(symbols, [count / total for _, count in ordered], color=TRAINED, alpha=0.55, width=0.7)
    axes.set_title("Composition")
    axes.yaxis.set_major_formatter(_percent)
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", length=0)


def _percent(share: float, place: float) -> str:
    return f"{100 * share:g}%"


def _curve(
    axes: Axes,
    lines: Sequence[Mapping[str, Any]],
    field: str,
    *,
    color: str,
    marker: str = "",
    label: str | None = None,
    linewidth: float = 1.4,
) -> None:
    points = [(line["update"], line[field]) for line in lines if line.get(field) is not None]
    axes.plot(
        [update for update, _ in points],
        [value for _, value in points],
        color=color,
        marker=marker if len(points) <= 60 else "",
        markersize=3,
        linewidth=linewidth,
        label=label,
    )


def _add_token_axis(axes: Axes, tokens_per_update: int) -> None:
    top = axes.secondary_xaxis(
        "top",
        functions=(
            lambda updates: np.asarray(updates, dtype=float) * tokens_per_update,
            lambda tokens: np.asarray(tokens, dtype=float) / tokens_per_update,
        ),
    )
    top.xaxis.set_major_formatter(EngFormatter(sep=""))
    top.set_xlabel("tokens")
    top.spines["top"].set_color(LINE)


def _restarts(training: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the last update of each attempt that another one followed."""
    return [
        earlier["update"]
        for earlier, later in pairwise(training)
        if later["attempt"] != earlier["attempt"]
    ]


def _thinned(lines: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    return lines[:: -(-len(lines) // _MOST_POINTS) or 1]
