"""The figures of the corpus and the training."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from esm1b.corpus.describe import SPLIT_NAMES
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
    """Return the curves of `metrics.jsonl` as SVG, also by tokens where their number is given."""
    training = _thinned([line for line in lines if "loss" in line])
    validation = _thinned([line for line in lines if "validation_loss" in line])
    # The last update of each attempt that another one followed.
    restarts = [
        earlier["update"]
        for earlier, later in pairwise(training)
        if later["attempt"] != earlier["attempt"]
    ]

    def draw(figure: Figure) -> None:
        panels = figure.subplot_mosaic("lllppp;rrggtt")
        loss = panels["l"]
        _curve(loss, training, "loss", label="training", color=TRAINED)
        _curve(loss, validation, "validation_loss", label="validation", color=OTHER, marker="o")
        loss.set_title("Loss: cross-entropy, nats")
        loss.legend(loc="upper center")
        _draw_perplexity(panels["p"], validation)
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
        for key in "lp":
            panels[key].set_xlabel("updates")
            if tokens_per_update is not None:
                _add_token_axis(panels[key], tokens_per_update)

    return render("training", WIDTH, 5.2, draw)


def _draw_perplexity(axes: Axes, validation: Sequence[Mapping[str, Any]]) -> None:
    """Draw both perplexities of the held-out sequences, where a run has both."""
    axes.set_title("Validation perplexity")
    both = any("validation_mask_perplexity" in line for line in validation)
    if both:
        field, label = "validation_mask_perplexity", "at <mask>"
        _curve(axes, validation, field, label=label, color=TRAINED, marker="o")
    label = "masked as in training"
    _curve(axes, validation, "validation_perplexity", label=label, color=OTHER, marker="o")
    if both:
        axes.legend(loc="upper right")


def _draw_lengths(axes: Axes, histogram: Mapping[str, Sequence[int]]) -> None:
    edges, label = np.array(histogram["edges"]), "residues"
    if len(edges) > 2 and edges[-1] - edges[-2] > edges[1] - edges[0]:
        # The last bin holds the few longest sequences: drawn as wide as the others, and said so.
        label = f"residues (last bin: {edges[-2]:,} and more)"
        edges = np.append(edges[:-1], 2 * edges[-2] - edges[-3])
    axes.set_xlabel(label)
    for split, color, fill in (("train", TRAINED, True), ("validation", OTHER, False)):
        counts = np.array(histogram[split], dtype=float)
        axes.stairs(
            counts / max(counts.sum(), 1),
            edges,
            fill=fill,
            color=color,
            alpha=0.55 if fill else 1,
            linewidth=1.2,
            label=SPLIT_NAMES[split],
        )
    axes.set_title("Length")
    axes.yaxis.set_major_formatter(_percent)
    axes.locator_params(axis="y", nbins=6)
    axes.grid(visible=False, axis="x")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, borderaxespad=0)


def _draw_composition(axes: Axes, composition: Mapping[str, int]) -> None:
    ordered = dict(sorted(composition.items(), key=lambda item: (-item[1], item[0])))
    shares = np.array(list(ordered.values())) / sum(ordered.values())
    axes.bar(list(ordered), shares, color=TRAINED, alpha=0.55, width=0.7)
    axes.set_title("Composition")
    axes.yaxis.set_major_formatter(_percent)
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", length=0)


def _percent(share: float, place: float) -> str:
    return f"{100 * share:g}%"


def _curve(
    axes: Axes, lines: Sequence[Mapping[str, Any]], field: str, *, marker: str = "", **style: Any
) -> None:
    points = [(line["update"], line[field]) for line in lines if line.get(field) is not None]
    updates, values = zip(*points, strict=True) if points else ((), ())
    marker = marker if len(points) <= 60 else ""
    axes.plot(updates, values, marker=marker, markersize=3, **{"linewidth": 1.4, **style})


def _add_token_axis(axes: Axes, tokens_per_update: int) -> None:
    functions = (lambda updates: updates * tokens_per_update, lambda n: n / tokens_per_update)
    top = axes.secondary_xaxis("top", functions=functions)
    top.xaxis.set_major_formatter(EngFormatter(sep=""))
    top.set_xlabel("tokens")
    top.spines["top"].set_color(LINE)


def _thinned(lines: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    return lines[:: -(-len(lines) // _MOST_POINTS) or 1]
