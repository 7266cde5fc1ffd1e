"""The lines of metrics.jsonl as loggers take them, and the small files that loggers keep."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

# How metrics.jsonl spells what JSON has no number for.
_NOT_FINITE = {str(value): value for value in (math.nan, math.inf, -math.inf)}


class Entry(NamedTuple):
    """A line, and how long metrics.jsonl is with it. Lines of kind "ranks" are not in that file."""

    line: Mapping[str, Any]
    end: int


@dataclass(frozen=True)
class Run:
    """Which run it is: its folder, its options by their full keys, its length, and how much of
    metrics.jsonl stays from earlier starts."""

    folder: Path
    options: Mapping[str, Any]
    total_updates: int
    kept_bytes: int

    def kept(self) -> list[Entry]:
        """The lines of earlier starts."""
        with open(self.folder / "metrics.jsonl", "rb") as file:
            text = file.read(self.kept_bytes)
        entries, end = [], 0
        for line in text.splitlines(keepends=True):
            end += len(line)
            entries.append(Entry(json.loads(line), end))
        return entries


class Store(Protocol):
    """Where the lines of a run go. A thread of its own calls it, and any exception ends it. Named
    so that a store is filled again, not twice, when a run goes on: see each one's docstring."""

    def open(self) -> None:
        """Makes the store hold what the run kept from earlier starts."""

    def write(self, entries: Sequence[Entry]) -> None:
        """Adds these lines, the next ones of the run."""

    def close(self, outcome: str) -> None:
        """The run is finished, has stopped, is regrouped (and goes on soon) or has failed."""


def whole_lines(file: Path, most: int) -> int:
    """How many bytes, `most` at most, the whole lines of a file take: a host that went down may
    have left less than was written, and a part of a line."""
    with open(file, "rb") as opened:
        content = opened.read(most)
    return content.rfind(b"\n") + 1


def measured(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Those that hold numbers: no events."""
    return (entry for entry in entries if entry.line["kind"] in ("train", "eval"))


def numbers(line: Mapping[str, Any], with_classes: bool = False) -> dict[str, float]:
    """The numbers of a train or eval line by name, as losses.box; those of a class are left out or
    are per_class.NAME.AP. A value that is not known is left out."""
    found = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            if name != "per_class" or with_classes:
                inner = numbers(value, with_classes)
                found.update({f"{name}.{key}": number for key, number in inner.items()})
        elif isinstance(value, str) and value in _NOT_FINITE:
            found[name] = _NOT_FINITE[value]
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[name] = value
    return found


def curves(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line as curves over updates are called: train/losses.box, eval/AP."""
    found = numbers(line)
    kept = (name for name in found if name not in ("step", "time"))
    return {f"{line['kind']}/{name}": found[name] for name in kept}


def replace_text(file: Path, text: str) -> None:
    """Readers see the old text or the new one. It is not forced to the disk: a power cut may lose
    it, and nobody waits."""
    temporary = file.with_name(f".{file.name}.writing")
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, 0o644), "w", encoding="utf-8") as opened:
            opened.write(text)
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class Bookmark:
    """A file of the run's folder that says, for a store that forgets nothing, which of its runs
    this one is and how much of metrics.jsonl it has had."""

    def __init__(self, file: Path, run: Run) -> None:
        """What is in the file; `had`: bytes of metrics.jsonl."""
        self._file = file
        try:
            self.content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            self.content = {}
        self.had = min(self.content.get("had", 0), run.kept_bytes)
        # Before anything can fail: lines that are made again are new ones.
        self.move(self.had)

    def move(self, had: int, **content: Any) -> None:  # noqa: ANN401 (JSON)
        """Writes that the store has had so much, and what else is to be remembered."""
        self.had = had
        self.content = {**self.content, **content, "had": had}
        replace_text(self._file, json.dumps(self.content) + "\n")

    def missing(self, run: Run) -> Iterator[Entry]:
        """The lines of earlier starts that the store has not had."""
        return (entry for entry in run.kept() if entry.end > self.had)
