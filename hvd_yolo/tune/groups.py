"""Groups of ranks, each of which trains one trial at a time, as rank 0 sees them."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hvd_yolo.comm.children import Meeting
from hvd_yolo.stopping import EXIT_CODE
from hvd_yolo.tune.search import Trial
from hvd_yolo.watchdog.channel import Line

Wish = Literal["", "pruned", "unfinished"]
End = Literal["complete", "pruned", "failed", "unfinished"]
Send = Callable[[int, dict[str, Any]], None]

# For the others of a trial to say what they have to say, when one has failed; they cannot go on.
_SECONDS_TO_FAIL = 5.0
# Between the ends of ranks that have all done what they should.
_SECONDS_BETWEEN_ENDS = 60.0


def divide(hosts: Sequence[str], size: int) -> tuple[list[list[int]], list[int]]:
    """Groups of so many ranks, and the ranks that are left over. hosts: of each rank. A group is on
    one host where it can be."""
    groups, rest = [], []
    for host in dict.fromkeys(hosts):
        there = [rank for rank, name in enumerate(hosts) if name == host]
        whole = len(there) // size * size
        groups += [there[i : i + size] for i in range(0, whole, size)]
        rest += there[whole:]
    whole = len(rest) // size * size
    groups += [rest[i : i + size] for i in range(0, whole, size)]
    return sorted(groups), rest[whole:]


class Group:
    """Some ranks of the job, and the trial that they train."""

    def __init__(
        self, ranks: Sequence[int], hosts: Sequence[str], lines: Mapping[int, Line], send: Send
    ) -> None:
        """hosts: of all ranks of the job; send: takes an order to a rank."""
        self.ranks = list(ranks)
        self.hosts = [hosts[rank] for rank in ranks]
        self.trial: Trial | None = None
        self.started = 0.0
        self._addresses = _addresses(self.ranks, hosts, lines)
        self._meeting = Meeting() if len(ranks) > 1 else None
        self._send = send

    @property
    def place(self) -> str:
        """For messages."""
        hosts = ", ".join(dict.fromkeys(self.hosts))
        ranks = f"{self.ranks[0]}-{self.ranks[-1]}" if len(self.ranks) > 1 else self.ranks[0]
        return f"rank{'s' if len(self.ranks) > 1 else ''} {ranks} on {hosts}"

    def start(self, trial: Trial, folder: Path, options: Sequence[str]) -> None:
        """Trains the trial with these options."""
        self.trial, self.started = trial, time.monotonic()
        self._wish: Wish = ""
        self._failures: list[tuple[bool, str]] = []
        self._was_ended = False
        self._codes: dict[int, int] = {}
        self._deadline = math.inf
        wiring = self._meeting.expect(self.hosts) if self._meeting else [{}]
        for place, rank in enumerate(self.ranks):
            order = {
                "do": "start", "options": list(options), "folder": str(folder), "rank": place,
                "environment": wiring[place], "address": self._addresses[place],
            }  # fmt: skip
            self._send(rank, order)

    def stop(self, wish: Wish, seconds: float) -> None:
        """Asks the trial to save and end, within so many seconds; once."""
        if self.trial is not None and not self._wish:
            self._wish = wish
            self._deadline = min(self._deadline, time.monotonic() + seconds)
            self._order("stop")

    def ended(self, rank: int, code: int, words: str) -> None:
        """A rank's process has ended with that code, and said that at last."""
        self._codes[rank] = code
        has_failed = code not in (0, EXIT_CODE)
        if has_failed and not self._was_ended:
            self._failures.append((code < 0, f"rank {self.ranks.index(rank)}: {words}"))
        seconds = _SECONDS_TO_FAIL if has_failed else _SECONDS_BETWEEN_ENDS
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def look(self) -> tuple[End, str] | None:
        """How the trial ended and why, None while it runs; kills what should have ended by now."""
        if len(self._codes) < len(self.ranks):
            if time.monotonic() > self._deadline:
                self._order("kill")
                self._was_ended, self._deadline = True, math.inf
            return None
        # Ranks end with 0 together; who took long after that had no more to do for the trial.
        is_over = self._was_ended and not self._failures and 0 in self._codes.values()
        if is_over or not any(self._codes.values()):
            return "complete", ""
        if self._wish:
            return self._wish, ""
        if self._failures:
            # The others fail for one that was killed, and may be heard first.
            return "failed", max(self._failures, key=lambda failure: failure[0])[1]
        # Somebody else asked it to stop, or --max_hours did.
        return "unfinished", ""

    def _order(self, what: str) -> None:
        for rank in self.ranks:
            if rank not in self._codes:
                self._send(rank, {"do": what})


def _addresses(ranks: Sequence[int], hosts: Sequence[str], lines: Mapping[int, Line]) -> list[str]:
    """Of each rank's host, by which the others of its group reach it: those that lead to rank 0,
    and for its own host the one that leads to others."""
    away = [rank for rank in ranks if hosts[rank] != hosts[0]]
    if len({hosts[rank] for rank in ranks}) == 1:
        return ["127.0.0.1"] * len(ranks)
    own = lines[away[0]].connection.getsockname()[0]
    return [lines[rank].connection.getpeername()[0] if rank in away else own for rank in ranks]
