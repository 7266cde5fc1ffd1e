"""How good the best model is: precision, recall and F1 as curves, and the confusion matrix."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np

from hvd_yolo.evaluate.curves import RECALLS, THRESHOLDS, Curves
from hvd_yolo.report.plots.canvas import (
    COLOURS,
    WIDTH,
    Plot,
    Series,
    add_legend,
    draw_lines,
    dress,
    new_figure,
    png,
    shortened,
)

# More classes than this are grey, and have no place in the legend.
_MOST_COLOURED = 10
# More than this have no numbers in the confusion matrix.
_MOST_NUMBERED = 20
_GREY, _BLACK = "#b9b9b9", "#333333"


def curve_plots(found: Curves, names: Sequence[str]) -> list[Plot]:
    """PR over recall; F1, precision and recall over the score threshold; a line for each class."""
    if not len(found.labels):
        return []
    own = [names[label] for label in found.labels]
    labels = [f"{n} {ap:.3f}" for n, ap in zip(own, found.ap50, strict=True)]
    mean = f"all classes {found.ap50.mean():.3f}"
    plots = [
        _plot(
            "pr_curve", "Precision over recall", RECALLS, found.precision, (labels, mean),
            ("recall", "precision"), "The numbers are AP50, the areas under the curves.",
        )
    ]  # fmt: skip
    best = found.best
    captions = {
        "F1": f"The mean is highest, {best['f1']:.3f}, at score {best['threshold']:.3f}.",
        "precision": "A class's line ends at its highest score.",
        "recall": "",
    }
    for quantity, caption in captions.items():
        plots.append(
            _plot(
                f"{quantity.lower()}_curve", f"{quantity.capitalize()} over score", THRESHOLDS,
                found.at_score[quantity], (own, "all classes"), ("score threshold", quantity),
                caption,
            )
        )  # fmt: skip
    return plots


def compared_curves(found: Mapping[str, Curves]) -> list[Plot]:
    """The means over classes of several runs, by run: PR and F1."""
    found = {name: curves for name, curves in found.items() if len(curves.labels)}
    if len(found) < 2:
        return []
    pr = [(RECALLS, curves.precision.mean(0)) for curves in found.values()]
    f1 = [(THRESHOLDS, curves.at_score["F1"].mean(0)) for curves in found.values()]
    plots = []
    for name, title, lines, axis_names in (
        ("pr_curve", "Precision over recall", pr, ("recall", "precision")),
        ("f1_curve", "F1 over score", f1, ("score threshold", "F1")),
    ):
        series = [
            Series(x, y, run, colour)
            for (x, y), run, colour in zip(lines, found, cycle(COLOURS), strict=False)
        ]
        alt = f"{title} at IoU 0.5, means over classes, of {', '.join(found)}."
        plots.append(Plot(name, title, _unit_square(series, *axis_names), alt))
    return plots


def confusion_plots(matrix: np.ndarray, names: Sequence[str], threshold: float) -> list[Plot]:
    """The confusion matrix normalised over each column, and as counts."""
    columns = np.maximum(matrix.sum(0, keepdims=True), 1)
    shape = "wide" if len(names) > _MOST_NUMBERED else ""
    caption = (
        f"Columns: what is there; rows: what was found, at IoU 0.5 and a score of at least "
        f"{threshold:g}. Background row: missed; background column: found where nothing is."
    )
    right = int(np.trace(matrix[:-1, :-1]))
    alt = (
        f"{right} of {int(matrix[:, :-1].sum())} objects were found with their class, "
        f"{int(matrix[-1].sum())} missed, {int(matrix[:, -1].sum())} found where nothing is."
    )
    return [
        Plot(
            "confusion_normalised", "Confusion, normalised",
            _matrix(matrix / columns, names, "{:.2f}"), alt, caption, shape,
        ),
        Plot("confusion", "Confusion, counts", _matrix(matrix, names, "{:.0f}"), alt, "", shape),
    ]  # fmt: skip


def _plot(
    name: str,
    title: str,
    x: np.ndarray,
    curves: np.ndarray,
    labels: tuple[Sequence[str], str],
    axis_names: tuple[str, str],
    caption: str,
) -> Plot:
    """A line for each class and a thick one for their mean, which is the only one where there is
    one class."""
    of_class, of_mean = labels
    is_coloured = len(curves) <= _MOST_COLOURED
    series = [
        Series(x, y, label if is_coloured else "", colour if is_coloured else _GREY, "-", 1.1)
        for y, label, colour in zip(
            curves, of_class, cycle(COLOURS) if is_coloured else cycle([_GREY]), strict=False
        )
    ]
    if len(curves) > 1:
        known = np.isfinite(curves)
        mean = np.where(
            known.any(0), np.nansum(curves, axis=0) / np.maximum(known.sum(0), 1), np.nan
        )
        series.append(Series(x, mean, of_mean, _BLACK, "-", 2.4))
    if not is_coloured:
        caption = f"Grey: each of {len(curves)} classes. {caption}".strip()
    alt = f"{title} at IoU 0.5 of {len(curves)} classes. {caption}".strip()
    return Plot(name, title, _unit_square(series, *axis_names), alt, caption)


def _unit_square(series: Sequence[Series], xlabel: str, ylabel: str) -> bytes:
    figure = new_figure(height=3.6)
    axes = figure.subplots()
    draw_lines(axes, series)
    dress(axes, xlabel, ylabel)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03))
    add_legend(figure, axes, 2 if max(len(one.label) for one in series) > 16 else 3)
    return png(figure)


def _matrix(values: np.ndarray, names: Sequence[str], form: str) -> bytes:
    labels = [*map(shortened, names), "background"]
    is_numbered = len(names) <= _MOST_NUMBERED
    side = max(WIDTH, 1.5 + (0.42 if is_numbered else 0.125) * len(labels))
    figure = new_figure(side, side * 0.9)
    axes = figure.subplots()
    # The brightest colour is not for the background's counts, which can be many times the others.
    top = values[:-1, :-1].max(initial=0) or values.max(initial=1)
    shown = axes.imshow(
        values, cmap="Blues", vmin=0, vmax=top, aspect="auto", interpolation="nearest"
    )
    size = 9 if is_numbered else 6
    places = np.arange(len(labels))
    axes.set_xticks(places, labels, rotation=90 if len(labels) > 6 else 0, fontsize=size)
    axes.set_yticks(places, labels, fontsize=size)
    dress(axes, "truth", "found")
    axes.grid(visible=False)
    if is_numbered:
        for row, column in zip(*np.nonzero(values >= 0.005), strict=True):
            value = values[row, column]
            ink = "white" if value > 0.6 * top else _BLACK
            text = form.format(value)
            axes.text(
                column, row, text, ha="center", va="center", color=ink, fontsize=9 - len(text) // 4
            )
    else:
        figure.colorbar(shown, ax=axes, shrink=0.6, aspect=40, pad=0.02)
    return png(figure)
