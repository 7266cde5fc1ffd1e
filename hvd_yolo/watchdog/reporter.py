"""The watch of all ranks but rank 0: it tells what its rank does and, as the relay of its host,
what the others there do."""

import time
from typing import Any

from hvd_yolo.comm import Comm
from hvd_yolo.watchdog.pulse import Pulse
from hvd_yolo.watchdog.tree import Tree
from hvd_yolo.watchdog.watch import Watch


class Reporter(Watch):
    """Speaks with rank 0 through the relay of its host or, where it is that or has lost it,
    itself."""

    def __init__(self, comm: Comm, pulse: Pulse, tree: Tree, timeout: float) -> None:
        super().__init__(comm, pulse, tree, timeout)
        self._parent = tree.relays[comm.rank]
        self._has_relay_left = False
        # Of the ranks that speak through this one.
        self._words: dict[int, dict[str, Any]] = {}
        now = time.monotonic()
        self._heard: dict[int, float] = dict.fromkeys(self._lines, now)

    def _hear(self, rank: int, message: dict[str, Any]) -> None:
        self._heard[rank] = time.monotonic()
        if rank == self._parent:
            self._obey(message)
        elif "words" in message:
            (self._words[rank],) = message["words"]
        elif self._parent in self._lines:
            self._lines[self._parent].send(**message, about=rank)
            if "bye" in message or "end" in message:
                self._words.pop(rank, None)

    def _obey(self, message: dict[str, Any]) -> None:
        about = message.get("about", self._rank)
        if "stack" in message and about == self._rank:
            self._lines[self._parent].send(stack=self._own_stack())
        elif "stack" in message and about in self._lines:
            self._lines[about].send(stack=True)
        elif "verdict" in message:
            for rank, line in self._lines.items():
                if rank != self._parent:
                    line.send(**message)
            self._end(message["verdict"])
        elif "end" in message and self._is_elastic:
            self.is_over = True
        elif "bye" in message:
            # Most likely all do, and this rank within a beat.
            self._has_relay_left = True
        elif "end" in message and self._parent and not self._has_relay_left:
            self._turn_to_main()

    def _turn_to_main(self) -> None:
        """Calls rank 0: the relay has ended, or says nothing."""
        if self._parent in self._lines:
            self._hang_up(self._parent)
        self._heard[0] = self._heard[self._parent]
        self._parent = 0
        if line := self._tree.call_main(self._rank):
            self._add_line(0, line)
            self._heard[0] = time.monotonic()

    def _forgive(self, now: float) -> None:
        self._heard = dict.fromkeys(self._heard, now)

    def _beat(self, now: float) -> None:
        is_lost = self._parent not in self._lines
        if self._parent and (is_lost or now - self._heard[self._parent] > self._timeout / 2):
            self._turn_to_main()
        words = [self._own_word(now)]
        for rank, word in self._words.items():
            words.append({**word, "silence": now - self._heard[rank]})
        for rank, line in self._lines.items():
            if rank == self._parent:
                line.send(words=words)
            else:
                line.send(beat=True)
        silence = now - self._heard[self._parent]
        if silence > self._timeout:
            self._end(
                f"rank 0 on {self._hosts[0]} has given no sign of life to rank {self._rank} on "
                f"{self._hosts[self._rank]} for {silence:.0f} s: it has ended or is stopped, or "
                "its host or the way to it is down"
            )
