"""Files of JSON lines, read while they grow: metrics.jsonl and ranks.jsonl of a run."""

import json
from pathlib import Path
from typing import Any


class JsonLines:
    """A growing file of JSON lines, of which each is read once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._end = 0

    def new(self) -> tuple[bool, list[dict[str, Any]]]:
        """The lines since the last look; True: the file was cut off, and these are all it has."""
        try:
            return self._read()
        except ValueError:
            # It was cut off and has grown again, or a host that went down has left a part of a
            # line: from the start, without it.
            self._end = 0
            return True, self._read(skip=True)[1]

    def rewind(self) -> None:
        """The next look begins at the first line."""
        self._end = 0

    def _read(self, skip: bool = False) -> tuple[bool, list[dict[str, Any]]]:
        try:
            with open(self._path, "rb") as file:
                is_cut = file.seek(0, 2) < self._end
                self._end = 0 if is_cut else self._end
                file.seek(self._end)
                # The last line may still be under way.
                whole = file.read().rpartition(b"\n")[0]
        except FileNotFoundError:
            return False, []
        self._end += len(whole) + 1 if whole else 0
        return is_cut, [json.loads(x) for x in whole.splitlines() if not skip or _is_json(x)]


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
