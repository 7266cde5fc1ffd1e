"""The watchdog: every rank tells rank 0 what it does, beside the collectives, and rank 0 tells all
who stands still. So a job that hangs ends with the name of the culprit, over Gloo, MPI and NCCL
alike. The ranks of a host speak through the first of them."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hvd_yolo.comm import Comm
from hvd_yolo.errors import InputError, Stopped
from hvd_yolo.watchdog.coordinator import Coordinator
from hvd_yolo.watchdog.pulse import Pulse, WatchedComm, marked, pulse_of
from hvd_yolo.watchdog.reporter import Reporter
from hvd_yolo.watchdog.tree import connect
from hvd_yolo.watchdog.watch import VERDICT

__all__ = ["VERDICT", "Pulse", "WatchedComm", "marked", "pulse_of", "watched"]

logger = logging.getLogger("hvd_yolo.watchdog")


@contextmanager
def watched(comm: Comm, timeout: float, tell: Callable[[str, str], None]) -> Iterator[WatchedComm]:
    """The comm to use inside, of which every rank's state is watched; every rank calls it.

    A rank that the others have waited for longer than `timeout` seconds and that stands still is
    named, with its Python stack, on every rank's standard error, and to `tell` (what kind of fault,
    and the message) on rank 0; then all ranks end with exit code 1. timeout 0: not watched. A rank
    that ends is, in an elastic job, no reason for the others to.
    """
    pulse = Pulse(comm.device)
    tree = connect(comm) if timeout and comm.size > 1 else None
    if tree is None:
        if timeout and comm.size > 1:
            logger.warning(
                "comm.stall_timeout: ranks find no way to rank 0 but the collectives', so one that "
                "stands still will not be named; open all TCP ports between the hosts"
            )
        yield WatchedComm(comm, pulse)
        return
    watch: Coordinator | Reporter
    if comm.is_main:
        watch = Coordinator(comm, pulse, tree, timeout, tell)
    else:
        watch = Reporter(comm, pulse, tree, timeout)
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
