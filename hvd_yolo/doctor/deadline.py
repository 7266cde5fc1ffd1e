"""An end for looks that would wait for ever on ranks that do not answer."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def deadline(seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
    """Inside at most so long; then calls give_up and ends the process with exit code 1.

    A rank inside a collective of MPI or Gloo can be waited for by another thread alone, and be
    stopped by nothing less.
    """

    def end() -> None:
        """In the timer's thread."""
        try:
            give_up()
        finally:
            os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
