"""Standard output or error whose reader has gone, as after `| head`."""

import logging
import os
import select
import signal
import sys

# What shells report of a program that SIGPIPE has ended, as it ends most programs then.
EXIT_CODE = 128 + signal.SIGPIPE


def mute_closed() -> bool:
    """Leads the standard streams whose reader has gone to nowhere; returns whether one had."""
    closed = [stream for stream in (sys.stdout, sys.stderr) if _is_closed(stream.fileno())]
    for stream in closed:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
    return bool(closed)


def _is_closed(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


class Handler(logging.StreamHandler):
    """A log on a standard stream that is silent once nobody reads it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Called while an exception is handled."""
        if not (isinstance(sys.exc_info()[1], BrokenPipeError) and mute_closed()):
            super().handleError(record)
