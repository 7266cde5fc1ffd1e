"""metrics.csv, for spreadsheets."""

import csv
import io
from collections.abc import Iterable, Sequence

from hvd_yolo.report.loggers.lines import Entry, Run, measured, numbers, replace_text

_Row = dict[str, str | float]


class CsvFile:
    """A row a train or eval line, a column a number, empty where the line has none; written anew
    from metrics.jsonl when a run goes on, and when a line brings new numbers."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._path = run.folder / "metrics.csv"
        self._columns: list[str] = []

    def open(self) -> None:
        """See Store."""
        self._replace([_row(entry) for entry in measured(self._run.kept())])

    def write(self, entries: Sequence[Entry]) -> None:
        """See Store."""
        rows = [_row(entry) for entry in measured(entries)]
        if self._learn(rows):
            with open(self._path, newline="", encoding="utf-8") as file:
                before = [{k: v for k, v in row.items() if v} for row in csv.DictReader(file)]
            self._replace([*before, *rows])
        else:
            with open(self._path, "a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerows(rows)

    def close(self, outcome: str) -> None:
        """See Store."""

    def _learn(self, rows: Iterable[_Row]) -> bool:
        """Whether the rows have columns that are not there yet."""
        count = len(self._columns)
        self._columns = list(dict.fromkeys([*self._columns, *(key for row in rows for key in row)]))
        return len(self._columns) > count

    def _replace(self, rows: Sequence[_Row]) -> None:
        self._learn(rows)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, self._columns)
        writer.writeheader()
        writer.writerows(rows)
        replace_text(self._path, text.getvalue())


def _row(entry: Entry) -> _Row:
    return {"kind": entry.line["kind"], **numbers(entry.line)}
