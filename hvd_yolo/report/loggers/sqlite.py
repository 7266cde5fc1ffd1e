"""Runs in an SQLite file, for those who query."""

import json
import math
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

from hvd_yolo.report.loggers.lines import Entry, Run, numbers

# Another run that writes to the file holds it for milliseconds; one that is just filled again, from
# a long metrics.jsonl, for seconds.
_SECONDS_TO_WAIT = 60.0

_TABLES = (
    """CREATE TABLE IF NOT EXISTS runs (
        id INTEGER PRIMARY KEY, folder TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
        started TEXT NOT NULL, state TEXT NOT NULL, total_updates INTEGER NOT NULL,
        config TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS numbers (
        run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE, kind TEXT NOT NULL,
        name TEXT NOT NULL, step INTEGER NOT NULL, epoch REAL NOT NULL, value REAL,
        PRIMARY KEY (run, kind, name, step)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS events (
        run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE, step INTEGER NOT NULL,
        event TEXT NOT NULL, reason TEXT NOT NULL)""",
)


class Sqlite:
    """The tables runs, numbers and events of a database file that many runs may share and write to
    at once.

    A run is its folder; when it goes on its rows are written anew from metrics.jsonl. Numbers of
    classes are there too, as per_class.NAME.AP; NaN, which SQLite does not know, is NULL;
    runs.config is JSON. SQLite's own journal, not its WAL, which needs memory that hosts of a
    network file system do not share.
    """

    def __init__(self, file: Path, run: Run) -> None:
        self._file = file.absolute()
        self._run = run

    def open(self) -> None:
        """See Store."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        folder = self._run.folder.absolute()
        row = (
            str(folder), folder.name, time.strftime("%Y-%m-%dT%H:%M:%S%z"), "running",
            self._run.total_updates, json.dumps(dict(self._run.options)),
        )  # fmt: skip
        # With no isolation level Python begins no transaction by itself.
        self._base = sqlite3.connect(self._file, timeout=_SECONDS_TO_WAIT, isolation_level=None)
        with self._base:
            # From here on others wait: two that read first and then write would be in each other's
            # way for good.
            self._base.execute("BEGIN IMMEDIATE")
            for table in _TABLES:
                self._base.execute(table)
            self._base.execute(
                "INSERT INTO runs (folder, name, started, state, total_updates, config) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (folder) DO UPDATE SET "
                "state = excluded.state, total_updates = excluded.total_updates, "
                "config = excluded.config",
                row,
            )
            found = self._base.execute("SELECT id FROM runs WHERE folder = ?", row[:1])
            self._id = found.fetchone()[0]
            for table in ("numbers", "events"):
                self._base.execute(f"DELETE FROM {table} WHERE run = ?", (self._id,))
            self._insert(self._run.kept())

    def write(self, entries: Sequence[Entry]) -> None:
        """See Store."""
        with self._base:
            self._base.execute("BEGIN IMMEDIATE")
            self._insert(entries)

    def close(self, outcome: str) -> None:
        """See Store."""
        self._base.execute("UPDATE runs SET state = ? WHERE id = ?", (outcome, self._id))
        self._base.close()

    def _insert(self, entries: Sequence[Entry]) -> None:
        rows, events = [], []
        for line, _ in entries:
            if line["kind"] == "event":
                events.append((self._id, line["step"], line["event"], line["reason"]))
                continue
            found = numbers(line, with_classes=True)
            step, epoch = found.pop("step"), found.pop("epoch")
            for name, value in found.items():
                known = None if math.isnan(value) else value
                rows.append((self._id, line["kind"], name, step, epoch, known))
        self._base.executemany("INSERT OR REPLACE INTO numbers VALUES (?, ?, ?, ?, ?, ?)", rows)
        self._base.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", events)
