"""Ranks that come and go while a job runs: `horovodrun --min-np 1 --max-np 3
--host-discovery-script hostfiles/discover_hosts.sh`."""

import gc
import logging
import socket
from collections.abc import Callable
from types import ModuleType

from hvd_yolo.comm import launch

logger = logging.getLogger("hvd_yolo.elastic")


class HostsChanged(Exception):
    """All ranks leave what they do, to begin again with the ranks that there are now."""


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


def run(job: Callable[[], None]) -> None:
    """Calls `job`, which connects the ranks and trains; in an elastic job again whenever ranks have
    come or gone, until it returns. What it keeps in memory for the next time is its own affair.

    All of job is repeated, connecting and opening data included, for ranks that are new make the
    same collectives as those that were there. (hvd.elastic.run, which repeats less, forbids any
    before it.)
    """
    if not launch.is_elastic():
        job()
        return
    from horovod.common.elastic import notification_manager
    from horovod.common.exceptions import HorovodInternalError

    notification_manager.init()
    notification_manager.register_listener(NEWS)
    while True:
        try:
            job()
            return
        except HostsChanged:
            logger.info("hosts have come or gone: the ranks that there are now go on")
        except HorovodInternalError as error:
            # Each rank says so, for rank 0 may be the one that was lost.
            name = f"rank {launch.launched_rank()} on {socket.gethostname()}"
            logger.error("%s has lost other ranks and goes on without them: %s", name, error)
        # The model of before, with its hooks, lives on in the frames of the exception.
        gc.collect()
        _end()


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
