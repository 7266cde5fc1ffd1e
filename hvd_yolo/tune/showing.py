"""What a study leaves for its reader: trials.csv, best.yaml and plots/."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hvd_yolo.checkpoint import save_text
from hvd_yolo.config import load, to_yaml
from hvd_yolo.errors import InputError
from hvd_yolo.tune.search import HOST, REASON, Search
from hvd_yolo.tune.space import Choice, Range, Space, options

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {"COMPLETE": "tab:blue", "PRUNED": "tab:orange"}


def check_plots() -> None:
    """Raises InputError when there is nothing to draw with."""
    try:
        import matplotlib  # noqa: F401 (whether it is there)
    except ImportError as error:
        raise InputError(
            "--plots needs matplotlib: pip install 'hvd_yolo[tune]', or --plots false"
        ) from error


def write_trials(file: Path, search: Search, space: Space) -> None:
    """A line a trial. seconds: from its first start to its end."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(
        ["trial", "state", "value", "epochs", *space, "host", "start", "seconds", "reason"]
    )
    for trial in search.trials():
        seconds = round(trial.duration.total_seconds(), 1) if trial.duration else ""
        lines.writerow([
            trial.number, trial.state.name.lower(), "" if trial.value is None else trial.value,
            trial.last_step or 0, *(trial.params.get(key, "") for key in space),
            trial.user_attrs.get(HOST, ""), trial.datetime_start.isoformat(timespec="seconds"),
            seconds, trial.user_attrs.get(REASON, ""),
        ])  # fmt: skip
    save_text(file, text.getvalue())


def write_best(
    file: Path, search: Search, fixed: Sequence[str], metric: str, num_ranks: int
) -> None:
    """All options of the best trial, for `python -m hvd_yolo.train --config`; nothing while no
    trial is complete."""
    best = search.best()
    if best is None:
        return
    found = "\n".join(f"#   {key}: {value}" for key, value in best.params.items())
    head = (
        f"# Trial {best.number} of {len(search.trials())}, {metric} {best.value:.4f}, found on "
        f"{num_ranks} rank{'s' if num_ranks > 1 else ''} a trial:\n{found}\n"
    )
    save_text(file, head + to_yaml(load([*fixed, *options(best.params)])))


def draw(folder: Path, search: Search, space: Space, metric: str) -> None:
    """history.png: the trials in their order and the best so far; parameters.png: each parameter
    against the value; epochs.png: what trials had after each epoch."""
    trials = [trial for trial in search.trials() if trial.value is not None]
    if not trials:
        return
    folder.mkdir(exist_ok=True)
    _draw_history(trials, metric, search.is_lowest_best).savefig(folder / "history.png")
    _draw_parameters(trials, space, metric).savefig(folder / "parameters.png")
    _draw_epochs(trials, metric).savefig(folder / "epochs.png")


def _draw_history(
    trials: Sequence["optuna.trial.FrozenTrial"], metric: str, is_lowest_best: bool
) -> "Figure":
    figure, (axes,) = _figure(1)
    _scatter(axes, trials, [trial.number for trial in trials])
    better = min if is_lowest_best else max
    done = [trial for trial in trials if trial.state.name == "COMPLETE"]
    best = [better(t.value for t in done[: i + 1]) for i in range(len(done))]
    axes.step([t.number for t in done], best, where="post", color="tab:green", label="best so far")
    axes.set(xlabel="trial", ylabel=metric)
    axes.legend()
    return figure


def _draw_parameters(
    trials: Sequence["optuna.trial.FrozenTrial"], space: Space, metric: str
) -> "Figure":
    figure, all_axes = _figure(len(space))
    for axes, (key, values) in zip(all_axes, space.items(), strict=True):
        if isinstance(values, Choice):
            names = [str(value) for value in values.values]
            _scatter(axes, trials, [names.index(str(trial.params[key])) for trial in trials])
            axes.set_xticks(range(len(names)), names)
        else:
            _scatter(axes, trials, [trial.params[key] for trial in trials])
        if isinstance(values, Range) and values.log:
            axes.set_xscale("log")
        axes.set(xlabel=key, ylabel=metric)
    all_axes[0].legend()
    return figure


def _draw_epochs(trials: Sequence["optuna.trial.FrozenTrial"], metric: str) -> "Figure":
    figure, (axes,) = _figure(1)
    for trial in trials:
        epochs = sorted(trial.intermediate_values)
        values = [trial.intermediate_values[epoch] for epoch in epochs]
        color = _COLORS[trial.state.name]
        axes.plot(epochs, values, color=color, alpha=0.6, marker=".", linewidth=1)
    axes.set(xlabel="epoch", ylabel=metric)
    return figure


def _figure(count: int) -> "tuple[Figure, list[Axes]]":
    """So many axes, three in a row."""
    from matplotlib.figure import Figure

    columns, rows = min(3, count), -(-count // 3)
    figure = Figure(figsize=(max(6, 4 * columns), 4 * rows), layout="constrained", dpi=120)
    grid = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def _scatter(
    axes: "Axes", trials: Sequence["optuna.trial.FrozenTrial"], places: Sequence[float]
) -> None:
    for state, color in _COLORS.items():
        points = [
            (place, trial.value)
            for place, trial in zip(places, trials, strict=True)
            if trial.state.name == state
        ]
        if points:
            axes.scatter(*zip(*points, strict=True), color=color, s=24, label=state.lower())
