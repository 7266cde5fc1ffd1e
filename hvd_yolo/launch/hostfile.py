"""Lists of hosts, as horovodrun, Open MPI and batch systems write them."""

import codecs
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from hvd_yolo.errors import InputError

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9.])?")
_AS = "write `node1 slots=8` (or node1:8), one host a line"
_MOST_HOSTS = 100_000


class Slots(NamedTuple):
    """A host, and how many ranks it takes."""

    host: str
    count: int


def read(file: Path) -> list[Slots]:
    """The hosts of a file; raises InputError that names the line."""
    try:
        content = file.read_bytes()
        # PowerShell's > writes UTF-16, other editors of Windows a mark before UTF-8.
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        lines = content.decode("utf-16" if is_wide else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--hostfile {file} cannot be read: {error}") from error
    rows = [(f"{file}:{number}", line.split("#")[0]) for number, line in enumerate(lines, 1)]
    return _parsed(str(file), [(place, part) for place, text in rows for part in _parts(text)])


def parse(hosts: str) -> list[Slots]:
    """The hosts of `node1:8,node2:8`; raises InputError."""
    return _parsed("--hosts", [("--hosts", part) for part in _parts(hosts)])


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


def _parts(text: str) -> list[str]:
    """The hosts of a comma separated list, with what belongs to each; a comma within brackets
    separates none."""
    return [part.strip() for part in re.split(r",(?![^\[\]]*\])", text) if part.strip()]


def _parsed(source: str, rows: list[tuple[str, str]]) -> list[Slots]:
    """The slots of each host, in the order of their first lines; those of a host that is listed
    again add up, as in the node files of PBS, OAR and LSF."""
    counts: dict[str, int] = {}
    for place, text in rows:
        names, count = _entry(place, text)
        for name in names:
            if count == 0:
                raise InputError(f"{place}: {name} has 0 slots; leave it out, or {_AS}")
            counts[name] = counts.get(name, 0) + count
    if not counts:
        raise InputError(f"{source} names no host; {_AS}")
    return [Slots(name, count) for name, count in counts.items()]


def _entry(place: str, text: str) -> tuple[list[str], int]:
    """The hosts that an entry names, and the slots of each, 1 where it says nothing: Open MPI's
    `node1 slots=8 max_slots=8`, horovodrun's and MPICH's `node1:8`, and the Grid Engine's
    `node1 8 queue@node1 UNDEFINED`."""
    first, *rest = re.sub(r"\s*([=:])\s*", r"\1", text).split()
    _refuse_address(place, text, first)
    pattern, colon, count = first.partition(":")
    if not colon and rest and rest[0].isdecimal():
        count, rest = rest[0], rest[3:]
    pairs = [word.partition("=") for word in rest]
    keys = [key for key, _, _ in pairs]
    counts = [value for _, _, value in pairs] + ([count] if colon or count else [])
    names = _names(place, pattern)
    is_right = (
        # What a host may have at most does not matter where all of its slots are taken.
        set(keys) <= {"slots", "max_slots", "max-slots"}
        and len(set(keys)) == len(keys)
        and not (count and "slots" in keys)
        and all(number.isdecimal() for number in counts)
        and all(_NAME.fullmatch(name) for name in names)
    )
    if not is_right:
        raise InputError(f"{place}: {text!r} is no host and its slots; {_AS}")
    return names, int(count or dict(zip(keys, counts, strict=False)).get("slots", 1))


def _refuse_address(place: str, text: str, first: str) -> None:
    """Raises InputError for what ssh would take, and launchers do not."""
    user, at, host = first.partition("@")
    if at:
        name = host.split(":")[0]
        raise InputError(
            f"{place}: {text!r} names a user, which launchers do not take: write {host}, and put "
            f"into ~/.ssh/config the lines `Host {name}` and `User {user}`"
        )
    is_address = first.count(":") > 1 or re.match(r"\[[0-9A-Fa-f]*:", first)
    if is_address:
        raise InputError(
            f"{place}: {text!r} is an IPv6 address, which horovodrun and mpirun cannot tell from a "
            "name and its slots: give the host's name or IPv4 address (a name may be put into "
            "/etc/hosts on every host)"
        )


def _names(place: str, pattern: str) -> list[str]:
    """node01 to node04 for node[01-04], as Slurm writes lists; [01-04,07] may stand in several
    places."""
    match = re.fullmatch(r"([^\[\]]*)\[([^\[\]]*)\](.*)", pattern)
    if not match:
        return [pattern]
    before, ranges, after = match.groups()
    names = []
    for part in ranges.split(","):
        bounds = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        start, end = (bounds[1], bounds[2] or bounds[1]) if bounds else ("1", "0")
        if not 0 <= int(end) - int(start) < _MOST_HOSTS:
            raise InputError(
                f"{place}: {pattern!r} is no range of hosts; write node[01-04] or node[01,03-04], "
                "the lower number first"
            )
        numbers = range(int(start), int(end) + 1)
        tails = _names(place, after)
        if len(numbers) * len(tails) > _MOST_HOSTS:
            raise InputError(f"{place}: {pattern!r} is more than {_MOST_HOSTS:,} hosts")
        names += [f"{before}{n:0{len(start)}}{tail}" for n in numbers for tail in tails]
    return names
