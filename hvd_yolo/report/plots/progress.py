"""How runs went: losses, AP, rate, speed and waits over epochs. Of one run the colour tells the
quantity; of several it tells the run, and the style of the line the quantity."""

from collections.abc import Sequence
from itertools import cycle

import numpy as np

from hvd_yolo.report.findings import shared_terms, train_loss, val_loss
from hvd_yolo.report.plots.canvas import (
    COLOURS,
    Plot,
    Series,
    add_legend,
    draw_lines,
    dress,
    line_plot,
    new_figure,
    png,
)
from hvd_yolo.report.runs import Line, Run, column, grown

_STYLES = ("-", "--", ":")
_KEY_COLOUR = "#777777"
_EMPTY = np.zeros(0)
# Per-rank bars with a name below each.
_MOST_NAMED = 16


def all_plots(runs: Sequence[Run]) -> list[Plot]:
    """Every plot that the runs have numbers for."""
    found = [
        loss(runs), loss_terms(runs),
        precision_plot(runs, "ap", "AP", ("AP", "AP50", "AP75")),
        precision_plot(runs, "ap_size", "AP by size", ("AP_small", "AP_medium", "AP_large")),
        field(runs, "lr", "Learning rate", "lr", "learning rate"),
        field(runs, "speed", "Speed", "images_per_s", "images/s over all ranks"),
        waits(runs),
        *([waits_by_rank(runs[0])] if len(runs) == 1 else []),
    ]  # fmt: skip
    return [plot for plot in found if plot is not None]


def loss(runs: Sequence[Run]) -> Plot | None:
    """Training and validation loss, of the terms that both have."""
    series = []
    for run, colour in zip(runs, cycle(COLOURS), strict=False):
        terms = shared_terms(run)
        if terms:
            series += _loss_pair(
                run, train_loss(run, terms), val_loss(run, terms), colour, len(runs)
            )
        else:
            series += _loss_pair(run, column(run.train, "loss"), _EMPTY, colour, len(runs))
    return line_plot(
        "loss", "Loss", [*series, *_key(runs, ("training", "validation"), 2)], "epoch", "loss",
        f"Training and validation loss over epochs of {_names(runs)}.",
    )  # fmt: skip


def loss_terms(runs: Sequence[Run]) -> Plot | None:
    """A panel for each term of the loss."""
    terms = list(
        dict.fromkeys(t for run in runs for line in run.train for t in line.get("losses", {}))
    )
    values = [column(run.train, "losses", term) for run in runs for term in terms]
    if len(terms) < 2 or not any(np.isfinite(own).any() for own in values):
        return None
    figure = new_figure(height=7.1)
    panels = figure.subplots(len(terms), 1, sharex=True, squeeze=False)[:, 0]
    for axes, term in zip(panels, terms, strict=True):
        for run, colour in zip(runs, cycle(COLOURS), strict=False):
            train, val = column(run.train, "losses", term), column(run.evals, "val_losses", term)
            draw_lines(axes, _loss_pair(run, train, val, colour, len(runs)))
        draw_lines(axes, _key(runs, ("training", "validation"), 2))
        dress(axes, "epoch" if axes is panels[-1] else "", term)
    add_legend(figure, panels[0])
    alt = f"Training and validation loss over epochs by term, {', '.join(terms)}: {_names(runs)}."
    return Plot("loss_terms", "Loss terms", png(figure), alt, shape="high")


def precision_plot(
    runs: Sequence[Run], name: str, title: str, metrics: tuple[str, str, str]
) -> Plot | None:
    """Three average precisions over epochs; one without truth, -1, is left out."""
    series = []
    for run, run_colour in zip(runs, cycle(COLOURS), strict=False):
        for metric, style, colour in zip(metrics, _STYLES, COLOURS, strict=False):
            values = column(run.evals, metric)
            values = np.where(values < 0, np.nan, values)
            x = column(run.evals, "epoch")
            if len(runs) == 1:
                series.append(Series(x, values, metric, colour, is_marked=True))
            else:
                label = run.name if metric == metrics[0] else ""
                width = 1.8 if metric == metrics[0] else 1.1
                series.append(Series(x, values, label, run_colour, style, width, True))
    return line_plot(
        name, title, [*series, *_key(runs, metrics)], "epoch", "average precision",
        f"{', '.join(metrics)} over epochs of {_names(runs)}.",
    )  # fmt: skip


def field(runs: Sequence[Run], name: str, title: str, key: str, what: str) -> Plot | None:
    """One field of the train lines."""
    series = [
        Series(column(run.train, "epoch"), column(run.train, key), run.name, colour)
        for run, colour in zip(runs, cycle(COLOURS), strict=False)
    ]
    return line_plot(name, title, series, "epoch", what, f"{what} over epochs of {_names(runs)}.")


def waits(runs: Sequence[Run]) -> Plot | None:
    """What share of its time a rank waited, a mean over ranks."""
    series = []
    whats = ("for images", "for other ranks")
    for run, run_colour in zip(runs, cycle(COLOURS), strict=False):
        for key, what, style, colour in zip(
            ("data_wait", "comm_wait"), whats, _STYLES, COLOURS, strict=False
        ):
            x, y = column(run.train, "epoch"), 100 * column(run.train, key)
            if len(runs) == 1:
                series.append(Series(x, y, what, colour))
            else:
                label = run.name if style == "-" else ""
                series.append(Series(x, y, label, run_colour, style, 1.4))
    return line_plot(
        "waits", "Waits", [*series, *_key(runs, whats, 2)], "epoch", "% of the time",
        f"Share of the time that ranks waited for images and for other ranks, {_names(runs)}.",
        "Means over ranks.",
    )  # fmt: skip


def waits_by_rank(run: Run) -> Plot | None:
    """What share of its time each rank waited, over the whole run."""
    shares = rank_shares(run.ranks)
    if not shares:
        return None
    figure = new_figure()
    axes = figure.subplots()
    ranks = sorted(shares)
    data, comm = (100 * np.array([shares[rank][i] for rank in ranks]) for i in (0, 1))
    width = 0.7 * min(1, len(ranks) / 6)
    axes.bar(ranks, data, width, color=COLOURS[0], label="for images")
    axes.bar(ranks, comm, width, data, color=COLOURS[1], label="for other ranks")
    dress(axes, "rank", "% of the time")
    axes.grid(visible=False, axis="x")
    if len(ranks) <= _MOST_NAMED:
        axes.set_xticks(ranks)
    add_legend(figure, axes)
    total = data + comm
    alt = (
        f"Waits of {len(ranks)} ranks: most {total.max():.1f} % of the time, rank "
        f"{ranks[int(total.argmax())]}, least {total.min():.1f} %, rank "
        f"{ranks[int(total.argmin())]}."
    )
    caption = "A rank that waits least for the others is the one they wait for." * (len(ranks) > 1)
    return Plot("waits_by_rank", "Waits by rank", png(figure), alt, caption)


def rank_shares(lines: Sequence[Line]) -> dict[int, tuple[float, float]]:
    """The share of its time that each rank waited for images and for other ranks, from
    ranks.jsonl."""
    rows: dict[int, list[tuple[Line, Line]]] = {}
    for line in lines:
        for rank in line["ranks"]:
            rows.setdefault(int(rank["rank"]), []).append((line, rank))
    shares = {}
    for rank, found in rows.items():
        seconds = grown(column([line for line, _ in found], "seconds")).sum()
        waited = [
            np.nansum(grown(column([own for _, own in found], key)))
            for key in ("data_wait", "comm_wait")
        ]
        if seconds > 0:
            shares[rank] = (float(waited[0] / seconds), float(waited[1] / seconds))
    return shares


def _loss_pair(
    run: Run, train: np.ndarray, val: np.ndarray, colour: str, num_runs: int
) -> list[Series]:
    """The curves of a loss in training and validation."""
    x_train, x_val = column(run.train, "epoch"), column(run.evals, "epoch")[: len(val)]
    if num_runs == 1:
        return [
            Series(x_train, train, "training", COLOURS[0]),
            Series(x_val, val, "validation", COLOURS[1], is_marked=True),
        ]
    return [
        Series(x_train, train, run.name, colour, "-", 1.4),
        Series(x_val, val, "", colour, "--", 1.4, True),
    ]


def _key(runs: Sequence[Run], whats: Sequence[str], number: int = 3) -> list[Series]:
    """What the styles mean, for the legend, where the colours mean runs: curves of no point."""
    if len(runs) == 1:
        return []
    nowhere = np.array([np.nan])
    return [
        Series(nowhere, nowhere, what, _KEY_COLOUR, style)
        for what, style in zip(whats[:number], _STYLES, strict=False)
    ]


def _names(runs: Sequence[Run]) -> str:
    return ", ".join(run.name for run in runs)
