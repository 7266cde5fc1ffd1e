"""Ranks that come and go while a job runs: `horovodrun --min-np 1 --max-np 3
--host-discovery-script hostfiles/discover_hosts.sh`."""

import gc
import logging
import socket
from collections.abc import Callable
from types import ModuleType

from hvd_yolo.comm import launch

logger = logging.getLogger("hvd_yolo.elastic")


# Failures, one after the other, without a new commit: it is not the hosts then.
_MOST_FAILURES = 5


class HostsChanged(Exception):
    """All ranks leave what they do, to begin again with the ranks that there are now; the message,
    if any, is a fault of a host that has come."""


class News:
    """What the launcher tells this process of hosts that come and go; see
    horovod.common.elastic."""

    def __init__(self) -> None:
        self.have_come = False

    def on_hosts_updated(self, timestamp: int, update: object) -> None:
        """Called by Horovod, in a thread of its own."""
        self.have_come = True


# Horovod has one listener in a process too.
NEWS = News()


def run(job: Callable[[], None], progress: Callable[[], int]) -> None:
    """Calls `job`, which connects the ranks and trains; in an elastic job again whenever ranks have
    come or gone, until it returns. What it keeps in memory for the next time is its own affair;
    `progress` tells of it, and job is given up when it fails again and again without any.

    All of job is repeated, connecting and opening data included, for ranks that are new make the
    same collectives as those that were there. (hvd.elastic.run, which repeats less, forbids any
    before it.)
    """
    if not launch.is_elastic():
        job()
        return
    from horovod.common.elastic import notification_manager

    notification_manager.init()
    notification_manager.register_listener(NEWS)
    failures, made = 0, progress()
    while True:
        name = f"rank {launch.launched_rank()} on {socket.gethostname()}"
        try:
            job()
            return
        except _changes() as error:
            failures = failures + 1 if progress() == made else 0
            made = progress()
            if failures == _MOST_FAILURES:
                raise
            # Each rank says what failed, for rank 0 may be the one that was lost.
            if str(error):
                logger.error("%s: %s; going on with the ranks that there are", name, error)
            else:
                logger.info("hosts have come or gone; going on with the ranks that there are")
        # The model of before, with its hooks, lives on in the frames of the exception.
        gc.collect()
        _end()


def begins_again_after(error: BaseException | None) -> bool:
    """Whether it says that ranks have come or gone, after which run() calls its job again."""
    return launch.is_elastic() and isinstance(error, _changes())


def _changes() -> tuple[type[Exception], ...]:
    from horovod.common.exceptions import HorovodInternalError

    return HostsChanged, HorovodInternalError


def begin(hvd: ModuleType) -> None:
    """hvd.init(), in an elastic job with the place that this process has by now. Of a process that
    has none any more it is the end: Horovod says so and aborts it."""
    hvd.init()
    if launch.is_elastic():
        launch.renumber(hvd.rank(), hvd.size(), hvd.local_rank(), hvd.local_size())


def _end() -> None:
    import horovod.torch as hvd

    # What comes from here on may be younger than the places that ranks are given next.
    NEWS.have_come = False
    hvd.shutdown()
