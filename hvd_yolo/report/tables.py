"""The report's numbers in rows: results, classes, differing options, and where a run was made."""

import json
import shlex
from collections.abc import Sequence

import numpy as np

from hvd_yolo.config import flatten
from hvd_yolo.evaluate.curves import Curves
from hvd_yolo.report.findings import seconds_of_lines
from hvd_yolo.report.plots.labels import Labels
from hvd_yolo.report.runs import Run, column, number

Rows = list[list[str]]

_RESULTS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "precision", "recall", "f1")
# Options that say where and how a run is kept, not what it is.
_NO_DIFFERENCE = ("output", "resume", "override", "report.")


def figure(value: float, digits: int = 4) -> str:
    """A number for eyes; a dash where there is none, as for pycocotools' -1."""
    return f"{value:.{digits}f}" if np.isfinite(value) and value > -1 else "-"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def training_time(run: Run) -> str:
    """The time of all train lines together."""
    return duration(seconds_of_lines(run).sum()) if run.train else "-"


def speed(run: Run) -> float:
    """Images a second over the run, NaN before the first line."""
    seconds = seconds_of_lines(run).sum()
    return np.nansum(column(run.train, "images")) / seconds if seconds > 0 else float("nan")


def num_ranks(run: Run) -> int:
    """Of the run's first start; 1 where that is not known."""
    return int(run.starts[0]["comm"]["size"]) if run.starts else 1


def compared(runs: Sequence[Run]) -> tuple[list[str], Rows, frozenset[tuple[int, int]]]:
    """A row for each run: its best evaluation, its last AP and losses, speed; and the cells that
    are best."""
    head = [
        "run", *_RESULTS, "best epoch", "last AP", "loss", "val loss", "images/s", "time", "ranks"
    ]  # fmt: skip
    values, rows = [], []
    for run in runs:
        best, last = run.best() or {}, run.evals[-1] if run.evals else {}
        train = run.train[-1] if run.train else {}
        numbers = [
            *(number(best.get(key)) for key in _RESULTS), number(best.get("epoch")),
            number(last.get("AP")), number(train.get("loss")), number(last.get("val_loss")),
            speed(run),
        ]  # fmt: skip
        values.append(numbers)
        digits = [*[4] * len(_RESULTS), 1, 4, 3, 3, 1]
        cells = [figure(value, digit) for value, digit in zip(numbers, digits, strict=True)]
        rows.append([run.name, *cells, training_time(run), str(num_ranks(run))])
    return head, rows, _highest(np.array(values)[:, : len(_RESULTS)])


def differences(runs: Sequence[Run]) -> Rows:
    """Options, by key, whose values are not the same in all runs."""
    flat = [flatten(run.config) for run in runs]
    keys = [key for key in flat[0] if not key.startswith(_NO_DIFFERENCE)]
    return [
        [key, *(str(values[key]) for values in flat)]
        for key in keys
        if len({repr(values[key]) for values in flat}) > 1
    ]


def results(run: Run) -> tuple[list[str], Rows]:
    """The numbers of the best and of the last evaluation, a row each."""
    best, last = run.best(), run.evals[-1] if run.evals else None
    if best is None or last is None:
        return [], []
    keys = [*_RESULTS, "threshold", "AR_100", "val_loss"]
    keys = [key for key in keys if key in best]
    rows = [
        [name, f"{line['epoch']:g}", *(figure(number(line.get(key))) for key in keys)]
        for name, line in (("best", best), ("last", last))
    ]
    return ["evaluation", "epoch", *keys], rows


def classes(
    run: Run, curves: Curves | None, labels: Labels | None, matrix: np.ndarray | None
) -> tuple[list[str], Rows]:
    """A row for each class: objects to learn from and to find, AP, AP50, how many were missed."""
    best = run.best() or {}
    names = list(run.names or best.get("per_class", {}))
    head, columns = ["class"], [names]
    if labels is not None and list(labels.names) == names:
        head.append("training objects")
        columns.append([f"{count:,}" for count in labels.counts])
    if matrix is not None:
        head += ["val objects", "missed"]
        there = matrix[:, :-1].sum(0)
        shares = matrix[-1, :-1] / np.maximum(there, 1)
        columns += [
            [f"{count:,}" for count in there],
            [f"{s:.1%}" if n else "-" for s, n in zip(shares, there, strict=True)],
        ]
    per_class = best.get("per_class", {})
    head += ["AP", "AP50"]
    columns += [
        [figure(number(per_class.get(name, {}).get(key))) for name in names]
        for key in ("AP", "AP50")
    ]
    if curves is not None:
        head.append("best F1")
        f1 = dict(zip(curves.labels.tolist(), curves.at_score["F1"].max(1), strict=True))
        columns.append([figure(f1.get(k, np.nan), 3) for k in range(len(names))])
    return head, [list(row) for row in zip(*columns, strict=True)]


def starts(run: Run) -> Rows:
    """A row for each start of the run."""
    rows = []
    for start in run.starts:
        hosts = [rank["host"] for rank in start["ranks"]]
        counts = ", ".join(f"{host} x {hosts.count(host)}" for host in dict.fromkeys(hosts))
        devices = ", ".join(
            dict.fromkeys(f"{r['device_name']} ({r['device']})" for r in start["ranks"])
        )
        comm = start["comm"]
        rows.append(
            [str(start["step"]), start["started"], str(comm["size"]), counts, devices,
             comm["backend"]]
        )  # fmt: skip
    return rows


def command(run: Run) -> str:
    """The command line of the last start, as it is typed."""
    if not run.starts:
        return ""
    return shlex.join(["python", "-m", "hvd_yolo.train", *run.starts[-1]["command"][1:]])


def versions(run: Run) -> Rows:
    """Packages and their versions at the last start."""
    if not run.starts:
        return []
    last = run.starts[-1]
    packages = {"python": last["python"], **last["packages"], "git": last["git_revision"]}
    return [[name, version] for name, version in packages.items() if version]


def surroundings(run: Run) -> str:
    """The variables and settings of the last start that change how ranks talk or compute."""
    if not run.starts:
        return ""
    last = run.starts[-1]
    return json.dumps({**last["environment"], **last["comm"]["settings"]}, indent=1)


def _highest(values: np.ndarray) -> frozenset[tuple[int, int]]:
    """(row, column + 1) of the highest value in each column of (N, M), where they differ."""
    cells = set()
    for place, own in enumerate(values.T):
        known = own[np.isfinite(own)]
        if len(known) > 1 and known.max() > known.min() and known.max() > -1:
            cells |= {(int(row), place + 1) for row in np.flatnonzero(own == known.max())}
    return frozenset(cells)
