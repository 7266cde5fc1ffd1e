"""What a run's folder tells: config, lines of metrics.jsonl and ranks.jsonl, starts, and the
detections of its best evaluation."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hvd_yolo.config import Config, from_yaml
from hvd_yolo.config.run_options import is_lowest_best
from hvd_yolo.errors import InputError
from hvd_yolo.evaluate.scoring import Table

Line = dict[str, Any]


@dataclass
class Run:
    """A run as its folder has it; what is not there is empty.

    train, evals, events: the lines of metrics.jsonl; ranks: those of ranks.jsonl; starts:
    environment.json; table and names: evaluation.npz.
    """

    folder: Path
    name: str
    config: Config
    train: list[Line]
    evals: list[Line]
    events: list[Line]
    ranks: list[Line]
    starts: list[Line]
    table: Table | None
    names: tuple[str, ...]

    def best(self) -> Line | None:
        """The eval line that gave best.pt: the first with the best eval.metric."""
        return best_by(self.config.eval.metric, self.evals)


def best_by(metric: str, evals: Sequence[Line]) -> Line | None:
    """The first of the eval lines with the best number; None where none is finite."""
    known = [line for line in evals if np.isfinite(number(line.get(metric)))]
    sign = -1 if is_lowest_best(metric) else 1
    return max(known, key=lambda line: sign * number(line[metric]), default=None)


def metric_of(folder: Path) -> str:
    """What the run in the folder chooses its best evaluation by; the usual one where the folder
    does not tell."""
    return (_config(folder) if (folder / "config.yaml").is_file() else Config()).eval.metric


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs, each with a name of its own; raises InputError for a folder that is none."""
    runs = [_read(folder) for folder in folders]
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:
            run.name = str(run.folder)
    return runs


def number(value: Any) -> float:  # noqa: ANN401
    """A number of metrics.jsonl: NaN and infinity are strings there; NaN for what is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def column(lines: Sequence[Line], *path: str) -> np.ndarray:
    """A field of each line, `path` the keys that lead to it; NaN where it is missing."""
    values = []
    for line in lines:
        value: Any = line
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        values.append(number(value))
    return np.array(values, dtype=np.float64)


def grown(values: np.ndarray) -> np.ndarray:
    """(N): how much a counter grew to each of its N values; one that fell began anew at 0."""
    before = np.concatenate(([0.0], values[:-1]))
    return np.where(values < before, values, values - before)


def _config(folder: Path) -> Config:
    file = folder / "config.yaml"
    try:
        return from_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{folder} is no run: {file.name} cannot be read there ({error}); name a folder that "
            "`python -m hvd_yolo.train --output` wrote"
        ) from error
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _read(folder: Path) -> Run:
    config = _config(folder)
    lines = _lines(folder / "metrics.jsonl")
    kinds = {
        kind: [line for line in lines if line.get("kind") == kind]
        for kind in ("train", "eval", "event")
    }
    starts = folder / "environment.json"
    table, names = _evaluation(folder / "evaluation.npz")
    return Run(
        folder, folder.resolve().name, config, kinds["train"], kinds["eval"], kinds["event"],
        _lines(folder / "ranks.jsonl"), _json(starts) if starts.is_file() else [], table, names,
    )  # fmt: skip


def _lines(file: Path) -> list[Line]:
    """The objects of a file of JSON lines; the last line may be under way."""
    if not file.is_file():
        return []
    found = []
    texts = file.read_text(encoding="utf-8", errors="replace").splitlines()
    for place, text in enumerate(texts, 1):
        try:
            found.append(json.loads(text))
        except ValueError as error:
            if place < len(texts):
                raise InputError(f"{file}:{place}: not a line of JSON: {error}") from error
    return found


def _json(file: Path) -> list[Line]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file}: not JSON: {error}") from error


def _evaluation(file: Path) -> tuple[Table | None, tuple[str, ...]]:
    if not file.is_file():
        return None, ()
    try:
        with np.load(file, allow_pickle=False) as arrays:
            table = Table(
                arrays["image_ids"].astype(np.int64),
                arrays["truths"].astype(np.float64).reshape(-1, 8),
                arrays["detections"].astype(np.float64).reshape(-1, 7),
            )
            return table, tuple(str(name) for name in arrays["names"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{file} cannot be read: {error}; remove it and try again") from error
