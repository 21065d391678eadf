"""Figures in the style of the report, as SVG files and as parts of the page."""

import io
import re
from collections.abc import Callable
from typing import Any, Final

import matplotlib.style
from markupsafe import Markup
from matplotlib.figure import Figure

WIDTH: Final = 8.6  # of the figures of the page, inches

# The colours of page.css in its light form; on the page they become its variables, so that figures
# follow a dark page too.
INK: Final = "#1d2730"
SOFT: Final = "#5d6b78"
LINE: Final = "#dcd8d0"
TRAINED: Final = "#1f6f8b"
OTHER: Final = "#b5653a"
PAPER: Final = "#ffffff"

_VARIABLES: Final = {
    INK: "--ink",
    SOFT: "--soft",
    LINE: "--line",
    TRAINED: "--trained",
    OTHER: "--other",
    PAPER: "--paper",
}

STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",  # text stays text
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9,
    "text.color": INK,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelcolor": SOFT,
    "axes.labelsize": 8.5,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    **{f"{axis}tick.color": LINE for axis in "xy"},
    **{f"{axis}tick.labelcolor": SOFT for axis in "xy"},
    **{f"{axis}tick.labelsize": 8.5 for axis in "xy"},
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": 0.09,  # inches
}


def render(name: str, width: float, height: float, draw: Callable[[Figure], None]) -> str:
    """Return a figure as SVG, the same bytes each time.

    Args:
        name: name of the figure, from which the ids in the SVG are made.
        width: width in inches.
        height: height in inches.
        draw: function that draws on an empty figure.
    """
    with matplotlib.style.context(["default", {**STYLE, "svg.hashsalt": name}]):
        figure = Figure(figsize=(width, height))
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def inline_svg(svg: str, name: str) -> Markup:
    """Return an SVG of `render` as an element of the page, in the page's colours.

    Ids get the prefix `name`, since several figures share the page.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'( id="| xlink:href="#|url\(#)', rf"\g<1>{name}-", element)
    # Safe as markup: it is our own drawing, and matplotlib escapes the labels.
    for colour, variable in _VARIABLES.items():
        element = element.replace(colour, f"var({variable})")
    return Markup(element)
