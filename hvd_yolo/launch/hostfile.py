"""Lists of hosts, as horovodrun and Open MPI read them."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hvd_yolo.errors import InputError

# Open MPI's `slots=8` with or without max_slots, horovodrun's `:8`.
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)"
    r"(\s*:\s*(?P<count>\d+)|\s+slots\s*=\s*(?P<slots>\d+))?(\s+max[_-]slots\s*=\s*\d+)?"
)
_AS = "write `node1 slots=8` (or node1:8), one host a line"


class Slots(NamedTuple):
    """A host, and how many ranks it takes."""

    host: str
    count: int


def read(file: Path) -> list[Slots]:
    """The hosts of a file; raises InputError that names the line."""
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--hostfile {file} cannot be read: {error}") from error
    rows = [
        (f"{file}:{number}", line.split("#")[0].strip()) for number, line in enumerate(lines, 1)
    ]
    return _parsed(str(file), [(place, text) for place, text in rows if text])


def parse(hosts: str) -> list[Slots]:
    """The hosts of `node1:8,node2:8`; raises InputError."""
    return _parsed("--hosts", [("--hosts", part.strip()) for part in hosts.split(",")])


def first(slots: list[Slots], np: int, source: str) -> list[Slots]:
    """The places of ranks 0 to np - 1, or all for 0: hosts are filled in the order of the list, as
    launchers do. Raises InputError where there are not so many."""
    total = sum(count for _, count in slots)
    if np > total:
        raise InputError(
            f"--np {np}, but {source} has {total} slots ({shown(slots)}): lower --np, or raise the "
            "slots of the hosts that have more GPUs"
        )
    left, taken = np or total, []
    for host, count in slots:
        if left:
            taken.append(Slots(host, min(count, left)))
            left -= taken[-1].count
    return taken


def shown(slots: Iterable[Slots]) -> str:
    """node1:8,node2:8"""
    return ",".join(f"{host}:{count}" for host, count in slots)


def _parsed(source: str, rows: list[tuple[str, str]]) -> list[Slots]:
    found: dict[str, Slots] = {}
    places: dict[str, str] = {}
    for place, text in rows:
        match = _LINE.fullmatch(text)
        if not match:
            raise InputError(f"{place}: {text!r} is no host and its slots; {_AS}")
        name, count = match["name"], int(match["count"] or match["slots"] or 1)
        if count == 0:
            raise InputError(f"{place}: {name} has 0 slots; leave it out, or {_AS}")
        if name in found:
            before = f", first at {places[name]}" if places[name] != place else ""
            raise InputError(
                f"{place}: {name} is there twice{before}; give all its slots in one place "
                f"({name} slots={found[name].count + count})"
            )
        found[name], places[name] = Slots(name, count), place
    if not found:
        raise InputError(f"{source} names no host; {_AS}")
    return list(found.values())
