"""The report of a run, and the page that compares several: one file that needs no other."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from hvd_yolo import checkpoint
from hvd_yolo.config import to_yaml
from hvd_yolo.data import open_dataset
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate.confusion import confusion, match
from hvd_yolo.evaluate.curves import Curves, curves
from hvd_yolo.report import findings, html, tables
from hvd_yolo.report.plots import labels, pictures, progress, scores
from hvd_yolo.report.plots.canvas import Plot
from hvd_yolo.report.plots.pictures import Gallery
from hvd_yolo.report.runs import Run, number, read_runs
from hvd_yolo.value_range import set_value_range

# Of the confusion matrix, as users of other YOLO trainers expect it.
_CONFUSION_SCORE = 0.25

Section = tuple[str, str, str]


class _Judged(NamedTuple):
    """The best evaluation of a run, seen from all sides; None without evaluation.npz."""

    curves: Curves | None = None
    matrix: np.ndarray | None = None

    @property
    def threshold(self) -> float:
        """The score at which F1 is best; where nothing is found, that of the confusion matrix."""
        return (self.curves and self.curves.best["threshold"]) or _CONFUSION_SCORE


def write_report(runs: Sequence[Path], output: Path) -> Path:
    """Writes the page on the runs in these folders to `output`, and returns it.

    On one run: everything, and its plots as RUN/plots/*.png. On several: their curves in one
    figure, their numbers and differing options; nothing is written into their folders. Needs
    neither the model nor a GPU. Raises InputError.
    """
    found = read_runs(runs)
    page = _page_of_one(found[0]) if len(found) == 1 else _page_of_several(found)
    checkpoint.save_text(output, page)
    return output


def _page_of_one(run: Run) -> str:
    judged = _judge(run)
    drawn = progress.all_plots([run])
    results = _result_plots(run, judged)
    stats, galleries, missing = _data_set(run, judged)
    label_plots = labels.label_plots(stats) if stats else []
    _save(run.folder / "plots", [*drawn, *results, *label_plots], galleries)

    by_name = {gallery.name: html.gallery(gallery) for gallery in galleries}
    inputs = "".join(v for k, v in by_name.items() if k.startswith("training"))
    outputs = "".join(v for k, v in by_name.items() if not k.startswith("training"))
    head, rows = tables.classes(run, judged.curves, stats, judged.matrix)
    per_class = html.table(head, rows, label="Results by class") if rows and run.evals else ""
    best_and_last = html.table(*tables.results(run), label="Evaluations") if run.evals else ""
    sections = [
        ("training", "Training", html.plots(drawn) or "<p>No update has been told of yet.</p>"),
        ("results", "Results", _result_text(run, judged) + html.plots(results)),
        ("classes", "Classes", per_class),
        ("numbers", "Best and last evaluation", best_and_last),
        ("pictures", "Validation pictures", outputs),
        ("data", "Training data", html.paragraphs(missing) + html.plots(label_plots) + inputs),
        ("environment", "Environment", _environment(run)),
    ]  # fmt: skip
    words = [findings.ap_trend(run), findings.loss_gap(run), findings.waits(run)]
    top = html.key_numbers(_key_numbers(run)) + html.paragraphs(words)
    config = run.config
    about = f"{config.model} on {config.data}, {config.imgsz} pixels, {config.epochs} epochs"
    return _document(f"Report of {run.name}", run.name, about, top, sections)


def _page_of_several(runs: list[Run]) -> str:
    judged = {run.name: _judge(run) for run in runs}
    head, rows, best = tables.compared(runs)
    found = {name: own.curves for name, own in judged.items() if own.curves is not None}
    differing = tables.differences(runs)
    names = [run.name for run in runs]
    words = "".join(
        f"<h3>{html.escape(run.name)}</h3>"
        + html.paragraphs([findings.ap_trend(run), findings.loss_gap(run), findings.waits(run)])
        for run in runs
    )
    details = "".join(
        html.folded(run.name, html.plots(_result_plots(run, judged[run.name])) + _environment(run))
        for run in runs
    )
    told = html.table(["option", *names], differing, label="Differing options")
    sections = [
        ("numbers", "Numbers", html.table(head, rows, best, "Results of the runs")),
        ("options", "Options that differ", told if differing else "<p>None.</p>"),
        ("training", "Training", html.plots(progress.all_plots(runs))),
        ("results", "Results", html.plots(scores.compared_curves(found))),
        ("words", "In words", words),
        ("runs", "Each run", details),
    ]
    title = f"{len(runs)} runs compared"
    about = (
        "Results are those of the evaluation that gave best.pt; the best of a column stands out."
    )
    return _document(title, title, about, "", sections)


def _document(title: str, heading: str, about: str, top: str, sections: Sequence[Section]) -> str:
    body = (
        f'<header><h1>{html.escape(heading)}</h1>\n<p class="quiet">{html.escape(about)}</p>\n'
        f"{html.navigation(sections)}</header>\n<main>{top}\n"
        + "".join(html.section(*part) for part in sections)
        + "</main>\n<footer>Written by hvd_yolo.report.</footer>"
    )
    return html.document(title, body)


def _judge(run: Run) -> _Judged:
    if run.table is None:
        return _Judged()
    found = curves(run.table, len(run.names), run.config.eval.scorer, run.config.eval.max_dets)
    matches = match(run.table, _CONFUSION_SCORE)
    return _Judged(found, confusion(run.table, matches, len(run.names)))


def _result_plots(run: Run, judged: _Judged) -> list[Plot]:
    if judged.curves is None or judged.matrix is None:
        return []
    return [
        *scores.curve_plots(judged.curves, run.names),
        *scores.confusion_plots(judged.matrix, run.names, _CONFUSION_SCORE),
    ]


def _result_text(run: Run, judged: _Judged) -> str:
    if judged.curves is None:
        told = "No detections are kept (evaluation.npz is not there): no curves, no matrix."
        return html.paragraphs([told])
    told = (
        "Curves and matrix are of the evaluation that gave best.pt, from the 100 best detections "
        f"of each of {len(run.table.image_ids):,} images, at IoU 0.5. Recall is known in steps "
        "of 0.01, precision is interpolated as COCO does it."
    )
    return f'<p class="quiet">{told}</p>\n'


def _data_set(run: Run, judged: _Judged) -> tuple[labels.Labels | None, list[Gallery], list[str]]:
    """Label statistics and photographs, and what to say of those that are missing."""
    stats, galleries, missing = None, [], []
    try:
        train_set = open_dataset(run.config.data, "train")
        set_value_range(train_set, run.config.loader.value_range)
        stats = labels.take_labels(train_set)
        if run.config.order.rect:
            missing.append(
                "Training pictures are left out: with order.rect every image would have to be read."
            )
        else:
            shown = pictures.training_updates(run.config, tables.num_ranks(run), train_set)
            galleries += shown
            if not shown:
                missing.append("None of the images of the first updates can be read.")
    except InputError as error:
        missing.append(f"Training pictures are left out: {error}.")
    if judged.curves is not None:
        try:
            val_set = open_dataset(run.config.data, "val")
            set_value_range(val_set, run.config.loader.value_range)
            galleries += _validation(run, judged, val_set)
        except InputError as error:
            missing.append(f"Validation pictures are left out: {error}.")
    return stats, galleries, missing


def _validation(run: Run, judged: _Judged, val_set: Dataset) -> list[Gallery]:
    threshold = judged.threshold
    found = [
        pictures.predictions(run.table, val_set, run.names, threshold),
        pictures.worst_images(
            run.table, match(run.table, threshold), val_set, run.names, threshold
        ),
    ]
    return [gallery for gallery in found if gallery is not None]


def _key_numbers(run: Run) -> list[tuple[str, str]]:
    best = run.best() or {}
    pairs = [
        (what, tables.figure(number(best.get(key)), digits))
        for what, key, digits in (
            ("AP", "AP", 4), ("AP50", "AP50", 4), ("precision", "precision", 3),
            ("recall", "recall", 3), ("best epoch", "epoch", 0),
        )
    ]  # fmt: skip
    last = run.train[-1] if run.train else {}
    return [
        *pairs,
        ("epochs", f"{number(last.get('epoch', 0)):.3g} of {run.config.epochs}"),
        ("images/s", tables.figure(tables.speed(run), 1)),
        ("training time", tables.training_time(run)),
        ("ranks", str(tables.num_ranks(run))),
    ]


def _environment(run: Run) -> str:
    head = ["update", "started", "ranks", "hosts", "devices", "backend"]
    rows = tables.starts(run)
    events = [[str(e.get(key, "")) for key in ("step", "event", "reason")] for e in run.events]
    return "".join((
        html.table(head, rows, label="Starts") if rows else "<p>environment.json is not there.</p>",
        html.table(["update", "event", "reason"], events, label="Events") if events else "",
        html.folded("Command", html.verbatim(tables.command(run))) if rows else "",
        html.table(["package", "version"], tables.versions(run), label="Versions") if rows else "",
        html.folded("Variables and settings", html.verbatim(tables.surroundings(run)))
        if rows else "",
        html.folded("config.yaml", html.verbatim(to_yaml(run.config))),
    ))  # fmt: skip


def _save(folder: Path, plots: Sequence[Plot], galleries: Sequence[Gallery]) -> None:
    """Writes each plot, and each gallery as one sheet, in the place of an earlier report's."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for plot in plots:
            (folder / f"{plot.name}.png").write_bytes(plot.png)
        for gallery in galleries:
            columns = 2 if gallery.name == "val_predictions" else 4
            encoded = cv2.imencode(".png", pictures.sheet(gallery.photos, columns))[1]
            (folder / f"{gallery.name}.png").write_bytes(encoded.tobytes())
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error.strerror or error}") from error
