"""A run of Weights & Biases."""

import secrets
import shutil
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from hvd_yolo.report.loggers.lines import Bookmark, Entry, Run, curves, measured
from hvd_yolo.report.loggers.mlflow import ARTIFACTS

# W&B's own process writes what it is given every 15 seconds: x_transaction_log_flush_interval of
# its settings.
_SECONDS_TO_WRITE = 20.0


class WeightsAndBiases:
    """The run that wandb.json in the run's folder names, over all restarts: a row a line, with
    `update` as the axis of train/loss, train/losses.box, eval/AP, ...

    W&B forgets nothing: an update that is made again after a kill, or was logged in the last 20
    seconds before it, may have two rows, equal but for times; the later is that of metrics.jsonl.
    With WANDB_MODE=offline each start leaves RUN/wandb/offline-run-*, all of one run id and with
    row numbers that go on, for `wandb sync --append`.
    """

    def __init__(self, project: str, seconds_to_finish: float, run: Run) -> None:
        self._project = project
        self._seconds_to_finish = seconds_to_finish
        self._of = run

    def open(self) -> None:
        """See Store."""
        self._bookmark = Bookmark(self._of.folder / "wandb.json", self._of)
        said = self._bookmark.content
        if said.get("project") != self._project:
            said = {"project": self._project, "run_id": secrets.token_hex(8), "rows": 0}
            self._bookmark.move(0, **said)
        self._rows = said["rows"]
        self._given: deque[tuple[float, int]] = deque()
        import wandb

        # silent: without an API key it fails, in place of asking at a keyboard. finish_timeout
        # holds at the interpreter's exit too.
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, save_code=False,
            finish_timeout=self._seconds_to_finish,
        )  # fmt: skip
        self._run = wandb.init(
            project=self._project, id=said["run_id"], resume="allow", settings=settings,
            name=self._of.folder.absolute().name, dir=str(self._of.folder.absolute()),
            config=dict(self._of.options),
        )  # fmt: skip
        self._run.define_metric("update")
        self._run.define_metric("*", step_metric="update")
        self.write(list(self._bookmark.missing(self._of)))

    def write(self, entries: Sequence[Entry]) -> None:
        """See Store."""
        for line, _ in measured(entries):
            # A row number that W&B has had is refused.
            row = max(self._rows, self._run.step)
            self._run.log({"update": line["step"], **curves(line)}, step=row, commit=True)
            self._rows = row + 1
        if entries:
            now, had = time.monotonic(), self._bookmark.had
            self._given.append((now, entries[-1].end))
            while now - self._given[0][0] > _SECONDS_TO_WRITE:
                had = self._given.popleft()[1]
            self._bookmark.move(had, rows=self._rows)

    def close(self, outcome: str) -> None:
        """See Store."""
        folder = self._of.folder
        if outcome == "finished":
            # W&B sends what lies in its folder, and has a config.yaml of its own there.
            sent = Path(self._run.dir, "hvd_yolo")
            sent.mkdir(exist_ok=True)
            for path in (folder / name for name in ARTIFACTS):
                if path.is_dir():
                    shutil.copytree(path, sent / path.name)
                elif path.is_file():
                    shutil.copy(path, sent)
        elif outcome != "failed":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if outcome == "finished" else 1)
        if self._given:
            self._bookmark.move(self._given[-1][1])
