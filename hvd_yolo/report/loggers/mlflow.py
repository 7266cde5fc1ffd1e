"""A run of MLflow, on a server or in files of this machine."""

import itertools
import logging
import os
import re
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hvd_yolo.report.loggers.lines import Bookmark, Entry, Run, curves, measured

if TYPE_CHECKING:
    from mlflow.entities import Metric

# What a finished run leaves there. Not its weights: they are as large as all else together, and
# a tag says where they are.
ARTIFACTS = ("config.yaml", "environment.json", "metrics.jsonl", "plots", "report.html")

# What one call may bring: https://mlflow.org/docs/latest/rest-api.html#log-batch
_MOST_METRICS = 1000
_MOST_PARAMETERS = 100
_LONGEST_PARAMETER = 6000

_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Mlflow:
    """The run mlflow.json in the run's folder names, over all restarts; its parameters are the
    options of the first start, its metrics train/loss, train/losses.box, eval/AP, ... over updates.

    MLflow forgets nothing: an update that is made again after a kill has its metrics twice, equal
    but for those of time; of one step the one with the latest timestamp is that of metrics.jsonl.
    Its databases hold the largest float in place of infinity. The experiment is
    MLFLOW_EXPERIMENT_NAME, or hvd_yolo.
    """

    def __init__(self, uri: str, run: Run) -> None:
        self._uri = uri
        self._run = run

    def open(self) -> None:
        """See Store."""
        self._bookmark = Bookmark(self._run.folder / "mlflow.json", self._run)
        # Training talks to nobody it was not told to.
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if self._uri.startswith("file:") or ":" not in self._uri:
            # MLflow 3 refuses its file store where nobody says so; the option says so.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        from mlflow import MlflowClient

        # Its progress in setting up a database.
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self._make_database()
        self._client = MlflowClient(self._uri)
        self._id = self._known() or self._new()
        self.write(list(self._bookmark.missing(self._run)))

    def write(self, entries: Sequence[Entry]) -> None:
        """See Store."""
        metrics = [metric for entry in measured(entries) for metric in _metrics(entry)]
        for chunk in _chunks(metrics, _MOST_METRICS):
            self._client.log_batch(self._id, metrics=chunk, synchronous=True)
        if entries:
            self._bookmark.move(entries[-1].end)

    def close(self, outcome: str) -> None:
        """See Store."""
        if outcome == "finished":
            for path in (self._run.folder / name for name in ARTIFACTS):
                if path.is_dir():
                    self._client.log_artifacts(self._id, str(path), path.name)
                elif path.is_file():
                    self._client.log_artifact(self._id, str(path))
        if outcome in _STATUS:
            self._client.set_terminated(self._id, _STATUS[outcome])

    def _make_database(self) -> None:
        """Sets up an SQLite file that is not there yet, under another name: MLflow takes seconds
        for it, and what a kill leaves of it, or two runs that do it at once, is of no use."""
        file = _database(self._uri)
        if file is None or file.exists():
            return
        from mlflow import MlflowClient

        file.parent.mkdir(parents=True, exist_ok=True)
        of_this_run = zlib.crc32(bytes(self._run.folder.absolute()))
        making = file.with_name(f".{file.name}.{of_this_run:08x}")
        making.unlink(missing_ok=True)
        MlflowClient(f"sqlite:///{making}").search_experiments()
        with suppress(FileExistsError):
            os.link(making, file)
        making.unlink()

    def _known(self) -> str:
        """The run of an earlier start, going on; empty where there is none, or no longer."""
        from mlflow.exceptions import MlflowException

        said = self._bookmark.content
        if said.get("uri") != self._uri:
            return ""
        try:
            self._client.get_run(said["run_id"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        self._client.update_run(said["run_id"], status="RUNNING")
        return said["run_id"]

    def _new(self) -> str:
        from mlflow.entities import Param

        folder = self._run.folder.absolute()
        made = self._client.create_run(
            self._experiment(), run_name=folder.name, tags={"folder": str(folder)}
        )
        run_id = made.info.run_id
        parameters = [
            Param(key, str(value)[:_LONGEST_PARAMETER]) for key, value in self._run.options.items()
        ]
        for chunk in _chunks(parameters, _MOST_PARAMETERS):
            self._client.log_batch(run_id, params=chunk, synchronous=True)
        self._bookmark.move(0, uri=self._uri, run_id=run_id)
        return run_id

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "hvd_yolo")
        # Not in whatever folder the run was started from, which is MLflow's default.
        file = _database(self._uri)
        artifacts = (file.parent / "mlartifacts").as_uri() if file else None
        if (found := self._client.get_experiment_by_name(name)) is None:
            try:
                return self._client.create_experiment(name, artifact_location=artifacts)
            except MlflowException:
                # Another run was faster, or this raises what is wrong.
                if (found := self._client.get_experiment_by_name(name)) is None:
                    raise
        return found.experiment_id


def _database(uri: str) -> Path | None:
    """The file of an SQLite URI."""
    name = uri.removeprefix("sqlite:///")
    return Path(name).absolute() if name != uri and "?" not in name else None


def _metrics(entry: Entry) -> "list[Metric]":
    from mlflow.entities import Metric

    step, milliseconds = entry.line["step"], round(1000 * entry.line["time"])
    return [
        Metric(re.sub(r"[^\w. /-]", "_", name), value, milliseconds, step)
        for name, value in curves(entry.line).items()
    ]


def _chunks(items: list, size: int) -> list[list]:
    several = iter(items)
    return list(iter(lambda: list(itertools.islice(several, size)), []))
