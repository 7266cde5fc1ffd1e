"""The thread of a rank that tells what the rank does, whatever else the rank waits for."""

import faulthandler
import os
import selectors
import time
from typing import Any

from hvd_yolo.comm import Comm
from hvd_yolo.stopping import last_words
from hvd_yolo.watchdog.channel import Line
from hvd_yolo.watchdog.pulse import Life, Pulse, life
from hvd_yolo.watchdog.tree import Tree

# How a rank's last message begins; the supervisor looks for it.
VERDICT = "watchdog: "

_RANKS_PER_SECOND = 64


def seconds_between_beats(num_ranks: int) -> float:
    """Between two messages of a rank: one, up to 64 ranks; of more, rank 0 hears as many a
    second."""
    return max(1.0, num_ranks / _RANKS_PER_SECOND)


class Watch:
    """Beats at equal times, and hears what others say in between."""

    def __init__(self, comm: Comm, pulse: Pulse, tree: Tree, timeout: float) -> None:
        self.is_over = False
        self.has_failed = False
        self._beat_seconds = seconds_between_beats(comm.size)
        # So many beats at least, or one that is late would be taken for none.
        self._timeout = timeout if self._beat_seconds == 1 else max(timeout, 4 * self._beat_seconds)
        self._forgiven = time.monotonic()
        self._cpu_seconds = 0.0
        self._rank = comm.rank
        self._is_elastic = comm.is_elastic
        self._comm = comm
        self._pulse = pulse
        self._tree = tree
        self._hosts = tree.hosts
        self._lines: dict[int, Line] = {}
        self._selector = selectors.DefaultSelector()
        for rank, line in tree.lines.items():
            self._add_line(rank, line)

    def run(self) -> None:
        """Until is_over."""
        last = time.monotonic()
        self._beat(last)
        while not self.is_over:
            self._listen(self._beat_seconds)
            now = time.monotonic()
            # This process was stopped itself, and has heard nobody for that long.
            if now - last > 5 * self._beat_seconds:
                self._forgiven = now
                self._forgive(now)
            last = now
            self._beat(now)
        for line in self._lines.values():
            if not self.has_failed:
                line.send(bye=True)
        self._tree.lines = self._lines
        self._tree.close()

    def _add_line(self, rank: int, line: Line) -> None:
        self._lines[rank] = line
        self._selector.register(line.connection, selectors.EVENT_READ, (rank, line))

    def _hang_up(self, rank: int) -> None:
        line = self._lines.pop(rank)
        self._selector.unregister(line.connection)
        line.close()

    def _listen(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.is_over and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(min(left, 0.1)):
                rank, line = key.data
                if self._lines.get(rank) is not line:
                    continue
                for message in line.receive():
                    self._hear(rank, message)
                if not line.is_open and self._lines.get(rank) is line:
                    self._hang_up(rank)
                    self._hear(rank, {"end": True})
            self._welcome()

    def _own_word(self, now: float) -> dict[str, Any]:
        mark = self._pulse.mark
        cpu_seconds = time.process_time()
        if mark.is_computing and cpu_seconds - self._cpu_seconds > self._beat_seconds / 10:
            self._pulse.at(mark.phase, is_computing=True)
            mark = self._pulse.mark
        self._cpu_seconds = cpu_seconds
        age = now - max(mark.since, self._forgiven)
        return {**life(self._comm, self._pulse), **mark._asdict(), "since": None, "age": age}

    def others(self) -> list[Life]:
        """What has been heard of other ranks."""
        return []

    def _own_stack(self) -> str:
        # In memory: a disk may be what the rank waits for.
        with open(os.memfd_create("hvd_yolo-stack"), "w+") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            return f"the Python stack of rank {self._rank}:\n{file.read()}"

    def _end(self, message: str) -> None:
        if not self.is_over:
            last_words(f"{VERDICT}{message}", 1)

    def _welcome(self) -> None:
        """Takes in who has called meanwhile."""

    def _beat(self, now: float) -> None:
        raise NotImplementedError

    def _hear(self, rank: int, message: dict[str, Any]) -> None:
        raise NotImplementedError

    def _forgive(self, now: float) -> None:
        raise NotImplementedError
