"""How plots look, and how they become PNGs: small figures of one subject, which a phone can show
whole."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hvd_yolo.data import fonts
from hvd_yolo.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8
# In turn; told apart with red-green blindness too (after Okabe and Ito 2008, "Color universal
# design").
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#6a51a3", "#7f7f7f")
_INK, _GRID, _DPI = "#333333", "#dddddd", 170
_MOST_MARKED = 40
_LONGEST_NAME = 28


@dataclass
class Plot:
    """A finished figure. name: of its file; alt: what it shows, for who cannot see it; shape: how
    the page lays it out, wide and tall ones scroll in a box of their own,
    high ones take two rows."""

    name: str
    title: str
    png: bytes
    alt: str
    caption: str = ""
    shape: str = ""


class Series(NamedTuple):
    """One curve; an empty label has no place in the legend."""

    x: np.ndarray
    y: np.ndarray
    label: str = ""
    colour: str = COLOURS[0]
    style: str = "-"
    width: float = 1.8
    is_marked: bool = False


def new_figure(width: float = WIDTH, height: float = 3.2) -> "Figure":
    """A figure of that size in inches; raises InputError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"{error}; install it: pip install 'hvd_yolo[plots]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def png(figure: "Figure") -> bytes:
    """The figure as a file, with fonts for the scripts of its texts."""
    _use_fonts(figure)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DPI)
    return out.getvalue()


def _use_fonts(figure: "Figure") -> None:
    """Gives texts that are not ASCII the fonts that have their characters, beside the usual one."""
    from matplotlib import font_manager
    from matplotlib.text import Text
    from matplotlib.ticker import FixedFormatter

    texts = [text.get_text() for text in figure.findobj(Text)]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            # Labels of ticks get their texts when they are drawn.
            formatter = axis.get_major_formatter()
            texts += formatter.seq if isinstance(formatter, FixedFormatter) else []
    families: dict[str, None] = {}
    for text in texts:
        for file, _ in [] if text.isascii() else fonts.fonts_for(text):
            if file is not None:
                font_manager.fontManager.addfont(str(file))
                families[font_manager.get_font(str(file)).family_name] = None
        fonts.tell_missing("" if text.isascii() else text)
    if families:
        usual = ["DejaVu Sans", *families]
        for text in figure.findobj(Text):
            text.set_fontfamily(usual)
        for axes in figure.axes:
            axes.tick_params(labelfontfamily=usual)


def dress(axes: "Axes", xlabel: str = "", ylabel: str = "") -> None:
    """Quiet axes: a grid, no frame at the top and right."""
    axes.set_xlabel(xlabel, color=_INK)
    axes.set_ylabel(ylabel, color=_INK)
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, length=0, pad=6)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(side == "bottom")
        axes.spines[side].set_color("#999999")


def draw_lines(axes: "Axes", series: Sequence[Series]) -> None:
    """Draws curves; points that are no numbers are left out."""
    for one in series:
        known = np.isfinite(one.x) & np.isfinite(one.y)
        is_marked = one.is_marked and known.sum() <= _MOST_MARKED
        # A single point has no line.
        marker = "o" if is_marked or known.sum() == 1 else None
        axes.plot(
            one.x[known], one.y[known], one.style, color=one.colour, linewidth=one.width,
            marker=marker, markersize=4, label=shortened(one.label) or "_",
        )  # fmt: skip


def add_legend(figure: "Figure", axes: "Axes", columns: int = 3) -> None:
    """A legend below the axes, where there are two labels to tell apart."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        columns = min(columns, len(labels))
        figure.legend(
            handles, labels, loc="outside lower center", ncol=columns, frameon=False,
            fontsize=9, labelcolor=_INK,
        )  # fmt: skip


def line_plot(
    name: str,
    title: str,
    series: Sequence[Series],
    xlabel: str,
    ylabel: str,
    alt: str,
    caption: str = "",
) -> Plot | None:
    """A figure of curves; None where no point of them is a number."""
    if not any((np.isfinite(one.x) & np.isfinite(one.y)).any() for one in series):
        return None
    figure = new_figure()
    axes = figure.subplots()
    draw_lines(axes, series)
    dress(axes, xlabel, ylabel)
    # No quantity drawn so is below 0, and epochs are counted.
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    if axes.get_xlim()[1] > 2:
        axes.xaxis.get_major_locator().set_params(integer=True)
    columns = 2 if max(len(one.label) for one in series) > 16 else 4
    add_legend(figure, axes, columns)
    return Plot(name, title, png(figure), alt, caption)


def shortened(name: str) -> str:
    """A name that fits into a legend: the middle is left out of a long one."""
    half = (_LONGEST_NAME - 3) // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}...{name[-half:]}"
