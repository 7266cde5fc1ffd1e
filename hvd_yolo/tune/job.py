"""The work of rank 0: deals trials to groups, hears what comes of them, and writes it down."""

import logging
import math
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hvd_yolo.errors import InputError
from hvd_yolo.stopping import StopRequest
from hvd_yolo.tune.agent import SECONDS_A_LOOK, Agent
from hvd_yolo.tune.groups import Group
from hvd_yolo.tune.search import Search
from hvd_yolo.tune.space import options
from hvd_yolo.watchdog.channel import Line

logger = logging.getLogger("hvd_yolo.tune")

# So many failures before any trial has been evaluated, and the fault is not a trial's own.
_MOST_FAILURES = 3


class Job:
    """The trials of one start."""

    def __init__(
        self,
        search: Search,
        groups: Sequence[Sequence[int]],
        hosts: Sequence[str],
        lines: Mapping[int, Line],
        agent: Agent,
        stop: StopRequest,
    ) -> None:
        """groups: their ranks; hosts: of all ranks; agent: that of rank 0."""
        self._search, self._lines, self._agent = search, lines, agent
        self._groups = [Group(ranks, hosts, lines, self._send) for ranks in groups]
        self._group_of = {rank: group for group in self._groups for rank in group.ranks}
        self._stop = stop
        self._asked = ""
        self._failures: list[str] = []

    def run(
        self,
        folder: Path,
        fixed: Sequence[str],
        metric: str,
        grace: float,
        write: Callable[[], None],
    ) -> str:
        """To the end of all trials, or till the job is asked to stop, by what is returned then.

        fixed: options of all trials; grace: seconds that trials have to save when they are asked
        to stop; write: called after each trial. Raises InputError where no trial comes to a number
        named `metric`, or the first ones fail.
        """
        try:
            while self._deal(folder, fixed) or self._is_busy():
                for rank, message in self._messages():
                    self._take(rank, message, metric, grace)
                for group in self._groups:
                    if group.trial is not None and (end := group.look()):
                        self._close(group, *end)
                        write()
                self._heed(grace)
            return self._asked
        finally:
            self._agent.close()

    def end(self, code: int) -> None:
        """Ends the other ranks with this exit code; what is still running there is killed."""
        for line in self._lines.values():
            line.send(do="end", code=code)

    def _deal(self, folder: Path, fixed: Sequence[str]) -> bool:
        """Gives each free group a trial, if there is one; those with a trial's folder come
        first. Whether any got one."""
        free = [group for group in self._groups if group.trial is None]
        if self._asked or not free:
            return False
        there = {trial.host for trial in self._search.unfinished}
        free.sort(key=lambda group: group.hosts[0] not in there)
        dealt = False
        for group in free:
            trial = self._search.next(group.hosts[0])
            if trial is None:
                break
            own = folder / f"trial_{trial.number:03}"
            said = ", ".join(f"{key} {_short(v)}" for key, v in trial.parameters.items())
            verb = "continues" if trial.host else "starts"
            logger.info("trial %d %s on %s: %s", trial.number, verb, group.place, said)
            # Plots of each trial are for who asks for them.
            words = ["--report.plots", "false", *fixed]
            words += [*options(trial.parameters), "--output", str(own)]
            group.start(trial, own, words)
            dealt = True
        return dealt

    def _messages(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """What the ranks say, waited for a little."""
        connections = {line.connection: rank for rank, line in self._lines.items()}
        if connections:
            ready = select.select(list(connections), [], [], SECONDS_A_LOOK)[0]
        else:
            ready = []
            time.sleep(SECONDS_A_LOOK)
        for connection in ready:
            rank = connections[connection]
            yield from ((rank, message) for message in self._lines[rank].receive())
        for rank, line in self._lines.items():
            if not line.is_open:
                raise RuntimeError(f"rank {rank} is gone; the same command goes on")
        yield from ((0, message) for message in self._agent.news())

    def _take(self, rank: int, message: dict[str, Any], metric: str, grace: float) -> None:
        if message["say"] == "asked to stop":
            self._asked = self._asked or f"{message['reason']} on rank {rank}"
            return
        group = self._group_of[rank]
        trial = group.trial
        if message["say"] == "ended":
            group.ended(rank, message["code"], message["words"])
            return
        numbers = message["numbers"]
        if metric not in numbers:
            known = [k for k, v in numbers.items() if not isinstance(v, str) and k not in _PLACES]
            raise InputError(
                f"--metric {metric}: an evaluation of trial {trial.number} has none, or it is "
                f"undefined for lack of objects in the val split; it has {', '.join(known)}"
            )
        value, epoch = float(numbers[metric]), math.ceil(message["epoch"])
        if self._search.report(trial.number, epoch, value):
            logger.info(
                "trial %d is behind at epoch %d, %s %.4f", trial.number, epoch, metric, value
            )
            group.stop("pruned", grace)

    def _close(self, group: Group, end: str, reason: str) -> None:
        trial, group.trial = group.trial, None
        seconds = time.monotonic() - group.started
        if end == "unfinished":
            self._search.put_back(trial._replace(host=group.hosts[0]))
        else:
            self._search.tell(trial.number, end, reason)
        found = self._search.trials()[trial.number]
        value = f", {found.value:.4f}" if found.value is not None else ""
        best = self._search.best()
        told = f"; the best is trial {best.number}, {best.value:.4f}" if best else ""
        why = f" ({reason})" if reason else ""
        logger.info("trial %d: %s after %.0f s%s%s%s", trial.number, end, seconds, value, why, told)
        if end == "failed":
            self._failures.append(f"trial {trial.number}, {reason}")
            if len(self._failures) >= _MOST_FAILURES and not self._has_values():
                raise InputError(
                    f"{len(self._failures)} trials failed, none was ever evaluated; the last: "
                    f"{self._failures[-1]}"
                )

    def _is_busy(self) -> bool:
        return any(group.trial is not None for group in self._groups)

    def _has_values(self) -> bool:
        return any(trial.intermediate_values for trial in self._search.trials())

    def _heed(self, grace: float) -> None:
        """Has this rank been asked to stop, or another, so are the trials."""
        if self._stop.reason and not self._asked:
            self._asked = f"{self._stop.reason} on rank 0"
        if self._asked:
            for group in self._groups:
                group.stop("unfinished", grace)

    def _send(self, rank: int, order: dict[str, Any]) -> None:
        if rank == 0:
            self._agent.obey(order, "127.0.0.1")
        else:
            self._lines[rank].send(**order)


# Of an eval line, where it stands.
_PLACES = ("epoch", "step", "seconds")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
