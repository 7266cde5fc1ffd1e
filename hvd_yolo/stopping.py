"""Requests to stop, of a signal or of the clock."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn

from hvd_yolo.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)

# Of a job that was stopped on request and goes on when it is started again: sysexits' EX_TEMPFAIL,
# at which supervisors and Slurm's scripts start it again.
EXIT_CODE = 75
# How the last message of such a job ends; the supervisor looks for it, for not every launcher
# passes the code on.
ALL_SAVED = ", all is saved; the same command goes on"

# A launcher passes on the signal that its whole process group has had already.
_SECONDS_BETWEEN = 1.0
# For the main thread to leave what it is in, caches in memory above all.
_SECONDS_TO_UNWIND = 5.0


class StopRequest:
    """Whether this process has been asked to stop.

    Inside `with`, SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 are requests. Where there is something to
    lose the first is only noted, for the ranks to agree and save; elsewhere it raises Stopped in
    the main thread, for exit code 75, and a second ends the process anywhere, with the code that
    shells give to its signal. A thread sees to that, and to the first where the main thread does
    not come to it, for it may wait for a rank that never comes.
    """

    def __init__(self) -> None:
        self.max_hours = 0.0
        self._started = time.monotonic()
        self._wish = ""
        # Why this rank cannot go on; a stop that is no request, and not to be started again.
        self.fault = ""
        self._asked_by = ""
        self._asked_at = 0.0
        self._is_deferred = False
        self._is_unwinding = False
        # What must be over before a first signal ends the process.
        self.before_exit: Callable[[], None] = lambda: None

    def ask(self, reason: str) -> None:
        """Asks for a stop in the midst of updates, whatever is going on now."""
        self._wish = reason

    @property
    def reason(self) -> str:
        """Who asked: a signal's name, the clock after max_hours (0: never), or ask(); empty while
        nobody did."""
        if self.max_hours and time.monotonic() - self._started > 3600 * self.max_hours:
            return self._asked_by or f"--max_hours {self.max_hours:g}"
        return self._asked_by or self._wish or self.fault

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal is only noted."""
        self._is_deferred, self._is_unwinding = True, False
        try:
            yield
        except BaseException:
            # The launcher of a job that ends may signal ranks that have not quite ended yet.
            self._is_unwinding = True
            raise
        finally:
            self._is_deferred = False

    @contextmanager
    def at_once(self, unless: bool = False) -> Iterator[None]:
        """Inside, which is within deferred(), nothing would be lost: the first signal ends the
        process, also one that came just before; unless others would go on without it."""
        if unless:
            yield
            return
        self._is_deferred = False
        if self._asked_by:
            self._is_unwinding = True
            raise _stopped(self._asked_by)
        yield
        self._is_deferred = True

    def __enter__(self) -> "StopRequest":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._old = {number: signal.signal(number, self._handle) for number in SIGNALS}
        self._old_descriptor = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        signal.set_wakeup_fd(self._old_descriptor)
        for number, handler in self._old.items():
            # None: it was not Python that had set it. Who is stopping already says so in peace.
            before = signal.SIG_DFL if handler is None else handler
            signal.signal(number, signal.SIG_IGN if isinstance(error, Stopped) else before)
        # The thread ends with its pipe.
        os.close(self._writer)

    def _listen(self) -> None:
        """Reads the numbers of the signals that come, which the interpreter writes at once,
        whatever the main thread waits for."""
        while numbers := os.read(self._reader, 1):
            if numbers[0] in SIGNALS:
                self._take(signal.Signals(numbers[0]))
        os.close(self._reader)

    def _take(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if not self._asked_by:
            self._asked_by, self._asked_at = number.name, now
            if not self._is_deferred:
                # In a thread of its own: this one must hear the second signal.
                threading.Thread(target=self._end_first, args=(number.name,), daemon=True).start()
        elif now - self._asked_at > _SECONDS_BETWEEN:
            last_words(f"stopped at once by a second signal, {number.name}", 128 + number)

    def _handle(self, number: int, frame: object) -> None:
        """In the main thread, when it comes to it. Once: the next signal must not disturb what the
        first has set going."""
        if not (self._is_deferred or self._is_unwinding):
            self._is_unwinding = True
            raise _stopped(signal.Signals(number).name)

    def _end_first(self, asked_by: str) -> None:
        time.sleep(_SECONDS_TO_UNWIND)
        if self._is_deferred and not self._is_unwinding:
            # It came at the last moment, and will be agreed on.
            return
        self.before_exit()
        last_words(str(_stopped(asked_by)), EXIT_CODE)


def _stopped(asked_by: str) -> Stopped:
    message = f"stopped by {asked_by}; the same command goes on from the last checkpoint"
    return Stopped(message, is_alone=True)


def last_words(message: str, code: int) -> NoReturn:
    """Ends this process, whether or not anybody takes the message any more."""
    try:
        print(f"hvd_yolo: {message}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)
