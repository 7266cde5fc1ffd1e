"""Rank 0's watch, which hears of all ranks and names the one that stands still."""

import threading
import time
from collections.abc import Callable
from typing import Any

from hvd_yolo.comm import Comm
from hvd_yolo.watchdog.judgement import Verdict, Word, judge
from hvd_yolo.watchdog.pulse import Life, Pulse
from hvd_yolo.watchdog.tree import Tree
from hvd_yolo.watchdog.watch import Watch

_REPORTED = tuple(key for key in Life.__annotations__ if key != "silence")
_STACK_SECONDS = 3.0
_TELL_SECONDS = 2.0


class Coordinator(Watch):
    """Hears of each rank by its own line or that of its relay. What a relay does not say because it
    is silent itself, or has ended, is held against the relay alone; its ranks then call."""

    def __init__(
        self,
        comm: Comm,
        pulse: Pulse,
        tree: Tree,
        timeout: float,
        tell: Callable[[str, str], None],
    ) -> None:
        super().__init__(comm, pulse, tree, timeout)
        self._tell = tell
        now = time.monotonic()
        others = range(1, comm.size)
        self._relay = {rank: tree.relays[rank] or rank for rank in others}
        self._heard: dict[int, float] = dict.fromkeys(others, now)
        first = {"count": 0, "phase": "the start", "is_waiting": False, "age": 0.0}
        first |= dict.fromkeys(("updates", "data_wait", "comm_wait", "memory", "gpu_memory"), 0)
        self._words: dict[int, dict[str, Any]] = {
            rank: {**first, "rank": rank, "host": self._hosts[rank]} for rank in others
        }
        self._ended: set[int] = set()
        self._stacks: list[str] = []

    def _welcome(self) -> None:
        """A rank that has lost its relay."""
        for rank, line in self._tree.arrived():
            if rank in self._lines:
                self._hang_up(rank)
            self._add_line(rank, line)
            self._relay[rank] = rank
            self._ended.discard(rank)
            self._heard[rank] = time.monotonic()

    def _hear(self, rank: int, message: dict[str, Any]) -> None:
        """From the line of that rank, of itself or of those whose relay it is."""
        now = time.monotonic()
        self._heard[rank] = now
        for word in message.get("words", ()):
            own = word["rank"]
            if self._relay[own] == rank and own in self._words:
                self._words[own] = word
                self._heard[own] = now - word["silence"]
        about = message.get("about", rank)
        # It has called meanwhile, and speaks for itself.
        if self._relay[about] not in (rank, about) or (about != rank and about in self._lines):
            return
        if "bye" in message:
            self._words.pop(about, None)
        elif "end" in message and self._is_elastic:
            # Horovod will tell.
            for gone in [about, *self._ranks_behind(about)]:
                self._words.pop(gone, None)
        elif "end" in message:
            self._ended.add(about)
        elif "stack" in message:
            self._stacks.append(message["stack"])
        if about == rank and ("bye" in message or "end" in message):
            for orphan in self._ranks_behind(rank):
                self._relay[orphan] = orphan
                # It has the whole time to call.
                self._heard[orphan] = now

    def _ranks_behind(self, relay: int) -> list[int]:
        return [rank for rank, own in self._relay.items() if own == relay and rank != relay]

    def others(self) -> list[Life]:
        """See WatchedComm.lives; called by other threads."""
        now = time.monotonic()
        return [
            Life(**{key: word[key] for key in _REPORTED}, silence=now - self._heard[rank])
            for rank, word in self._words.copy().items()
        ]

    def _forgive(self, now: float) -> None:
        self._heard = dict.fromkeys(self._heard, now)
        for word in self._words.values():
            word["age"] = 0.0

    def _beat(self, now: float) -> None:
        for line in self._lines.values():
            line.send(beat=True)
        words = [self._word(0, self._own_word(now), 0.0)]
        for rank, word in self._words.items():
            words.append(self._word(rank, word, self._silence(rank, now)))
        verdict = judge(words, self._timeout)
        if verdict is not None:
            self._pronounce(verdict)

    def _silence(self, rank: int, now: float) -> float:
        """Seconds; of a rank behind a relay, those that the relay has noticed."""
        relay = self._relay[rank]
        return (now if relay == rank else self._heard[relay]) - self._heard[rank]

    def _pronounce(self, verdict: Verdict) -> None:
        """Tells all, with the stacks of those that stand still, and ends."""
        self._stacks = [self._own_stack()] if 0 in verdict.culprits else []
        for rank in verdict.culprits:
            if line := self._lines.get(self._relay.get(rank, 0)):
                line.send(stack=True, about=rank)
        deadline = time.monotonic() + _STACK_SECONDS
        while len(self._stacks) < len(verdict.culprits) and time.monotonic() < deadline:
            self._listen(0.2)
        message = "\n".join([verdict.message, *self._stacks])
        for line in self._lines.values():
            line.send(verdict=message)
        # The disk may be what this rank waits for.
        telling = threading.Thread(target=self._tell, args=(verdict.kind, message), daemon=True)
        telling.start()
        telling.join(_TELL_SECONDS)
        self._end(message)

    def _word(self, rank: int, word: dict[str, Any], silence: float) -> Word:
        count, phase, is_waiting = word["count"], word["phase"], word["is_waiting"]
        has_ended = rank in self._ended
        host = self._hosts[rank]
        return Word(rank, host, silence, count, phase, is_waiting, word["age"], has_ended)
