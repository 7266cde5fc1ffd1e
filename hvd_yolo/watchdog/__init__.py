"""The watchdog: every rank tells rank 0 what it does, beside the collectives, and rank 0 tells all
who stands still. So a job that hangs ends with the name of the culprit, over Gloo, MPI and NCCL
alike."""

import faulthandler
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hvd_yolo.comm import Comm
from hvd_yolo.errors import InputError, Stopped
from hvd_yolo.stopping import last_words
from hvd_yolo.watchdog.channel import Line, connect
from hvd_yolo.watchdog.judgement import Word, judge
from hvd_yolo.watchdog.pulse import Life, Pulse, WatchedComm, life, marked, pulse_of

__all__ = ["VERDICT", "Pulse", "WatchedComm", "marked", "pulse_of", "watched"]

logger = logging.getLogger("hvd_yolo.watchdog")

# How a rank's last message begins; the supervisor looks for it.
VERDICT = "watchdog: "

_TOLD = tuple(key for key in Life.__annotations__ if key != "silence")
_BEAT_SECONDS = 1.0
_STACK_SECONDS = 3.0
_TELL_SECONDS = 2.0


@contextmanager
def watched(comm: Comm, timeout: float, tell: Callable[[str, str], None]) -> Iterator[WatchedComm]:
    """The comm to use inside, of which every rank's state is watched; every rank calls it.

    A rank that the others have waited for longer than `timeout` seconds and that stands still is
    named, with its Python stack, on every rank's standard error, and to `tell` (what kind of fault,
    and the message) on rank 0; then all ranks end with exit code 1. timeout 0: not watched. A rank
    that ends is, in an elastic job, no reason for the others to.
    """
    pulse = Pulse(comm.device)
    lines, hosts = connect(comm) if timeout and comm.size > 1 else (None, [])
    if lines is None:
        if timeout and comm.size > 1:
            logger.warning(
                "comm.stall_timeout: ranks find no way to rank 0 but the collectives', so one that "
                "stands still will not be named; open all TCP ports between the hosts"
            )
        yield WatchedComm(comm, pulse)
        return
    watch = (_Judge if comm.is_main else _Witness)(comm, pulse, lines, hosts, timeout, tell)
    thread = threading.Thread(target=watch.run, name="watchdog", daemon=True)
    thread.start()
    try:
        yield WatchedComm(comm, pulse, watch.others)
    except (InputError, Stopped):
        raise
    except BaseException:
        # Whether its process really ends remains to be seen by the others.
        watch.has_failed = True
        raise
    finally:
        watch.is_over = True
        thread.join()


class _Watch:
    """The thread of a rank: a beat a second, and what others say in between."""

    def __init__(
        self,
        comm: Comm,
        pulse: Pulse,
        lines: dict[int, Line],
        hosts: list[str],
        timeout: float,
        tell: Callable[[str, str], None],
    ) -> None:
        self.is_over = False
        self.has_failed = False
        self._forgiven = time.monotonic()
        self._cpu_seconds = 0.0
        self._rank = comm.rank
        self._is_elastic = comm.is_elastic
        self._comm = comm
        self._pulse = pulse
        self._lines = lines
        self._hosts = hosts
        self._timeout = timeout
        self._tell = tell
        self._selector = selectors.DefaultSelector()
        for rank, line in lines.items():
            self._selector.register(line.connection, selectors.EVENT_READ, rank)

    def run(self) -> None:
        """Until is_over."""
        last = time.monotonic()
        self._beat(last)
        while not self.is_over:
            self._listen(_BEAT_SECONDS)
            now = time.monotonic()
            # This process was stopped itself, and has heard nobody for that long.
            if now - last > 5 * _BEAT_SECONDS:
                self._forgiven = now
                self._forgive(now)
            last = now
            self._beat(now)
        for line in self._lines.values():
            if not self.has_failed:
                line.send(bye=True)
            line.close()

    def _listen(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self.is_over and (left := deadline - time.monotonic()) > 0:
            for key, _ in self._selector.select(min(left, 0.1)):
                line = self._lines[key.data]
                for message in line.receive():
                    self._hear(key.data, message)
                if not line.is_open:
                    self._selector.unregister(line.connection)
                    self._hear(key.data, {"end": True})

    def _own_word(self, now: float) -> dict[str, Any]:
        mark = self._pulse.mark
        cpu_seconds = time.process_time()
        if mark.is_computing and cpu_seconds - self._cpu_seconds > _BEAT_SECONDS / 10:
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

    def _beat(self, now: float) -> None:
        raise NotImplementedError

    def _hear(self, rank: int, message: dict[str, Any]) -> None:
        raise NotImplementedError

    def _forgive(self, now: float) -> None:
        raise NotImplementedError


class _Judge(_Watch):
    """Rank 0."""

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments)
        now = time.monotonic()
        self._heard: dict[int, float] = dict.fromkeys(self._lines, now)
        first = {"count": 0, "phase": "the start", "is_waiting": False, "age": 0.0}
        first |= dict.fromkeys(("updates", "data_wait", "comm_wait", "memory", "gpu_memory"), 0)
        self._words: dict[int, dict[str, Any]] = {
            rank: {**first, "rank": rank, "host": self._hosts[rank]} for rank in self._lines
        }
        self._ended: set[int] = set()
        self._stacks: list[str] = []

    def _hear(self, rank: int, message: dict[str, Any]) -> None:
        self._heard[rank] = time.monotonic()
        if "bye" in message:
            self._words.pop(rank, None)
        elif "end" in message and self._is_elastic:
            # Horovod will tell.
            self._words.pop(rank, None)
        elif "end" in message:
            self._ended.add(rank)
        elif "stack" in message:
            self._stacks.append(message["stack"])
        elif rank in self._words:
            self._words[rank] = message

    def others(self) -> list[Life]:
        """See WatchedComm.lives; called by other threads."""
        now = time.monotonic()
        return [
            Life(**{key: told[key] for key in _TOLD}, silence=now - self._heard[rank])
            for rank, told in self._words.copy().items()
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
            words.append(self._word(rank, word, now - self._heard[rank]))
        verdict = judge(words, self._timeout)
        if verdict is None:
            return
        culprits = [self._lines[rank] for rank in verdict.culprits if rank]
        self._stacks = [self._own_stack()] if 0 in verdict.culprits else []
        for line in culprits:
            line.send(stack=True)
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

    def _word(self, rank: int, told: dict[str, Any], silence: float) -> Word:
        count, phase, is_waiting = told["count"], told["phase"], told["is_waiting"]
        has_ended = rank in self._ended
        host = self._hosts[rank]
        return Word(rank, host, silence, count, phase, is_waiting, told["age"], has_ended)


class _Witness(_Watch):
    """Any other rank."""

    def __init__(self, *arguments: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments)
        self._heard = time.monotonic()

    def _hear(self, rank: int, message: dict[str, Any]) -> None:
        self._heard = time.monotonic()
        if "stack" in message:
            self._lines[0].send(stack=self._own_stack())
        elif "verdict" in message:
            self._end(message["verdict"])
        elif "end" in message and self._is_elastic:
            self.is_over = True

    def _forgive(self, now: float) -> None:
        self._heard = now

    def _beat(self, now: float) -> None:
        self._lines[0].send(**self._own_word(now))
        silence = now - self._heard
        if silence > self._timeout:
            self._end(
                f"rank 0 on {self._hosts[0]} has given no sign of life to rank {self._rank} on "
                f"{self._hosts[self._rank]} for {silence:.0f} s: it has ended or is stopped, or "
                "its host or the way to it is down"
            )
