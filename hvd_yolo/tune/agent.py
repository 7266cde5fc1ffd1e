"""What every rank of the job does: keeps one training process for rank 0, and tells what comes of
it."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from hvd_yolo import cli
from hvd_yolo.comm.children import meet_at
from hvd_yolo.doctor.interfaces import own_interfaces
from hvd_yolo.json_lines import JsonLines
from hvd_yolo.prctl import die_with_parent
from hvd_yolo.stopping import EXIT_CODE, StopRequest
from hvd_yolo.watchdog.channel import Line

# Between two looks at the child: the cores are for it.
SECONDS_A_LOOK = 0.3
_TAIL_BYTES = 1 << 14
_SECONDS_TO_SPEAK = 5.0


class Agent:
    """A rank's child: at most one, in a session of its own, which ends with its agent."""

    def __init__(self, environment: dict[str, str], cpus: set[int]) -> None:
        self._environment, self._cpus = environment, cpus
        self._child: subprocess.Popen[bytes] | None = None
        self._fault = ""

    def obey(self, order: dict[str, Any], rank_0: str) -> None:
        """Starts a child, or asks it to stop, or kills it. rank_0: the address of rank 0 as seen
        from here."""
        if order["do"] == "start":
            try:
                self._start(order, rank_0)
            except OSError as error:
                self._fault = f"{error.filename or 'a process'}: {error.strerror}"
        elif self._child is not None and order["do"] == "stop":
            self._child.terminate()
        elif self._child is not None and order["do"] == "kill":
            self._kill_all(self._child.pid)

    def news(self) -> Iterator[dict[str, Any]]:
        """Evaluations, and the end of the child."""
        if self._fault:
            yield {"say": "ended", "code": 1, "words": self._fault}
            self._fault = ""
        if self._child is None:
            return
        code = self._child.poll()
        yield from self._evaluated(is_over=code is not None)
        if code is not None:
            # Loader processes of a killed one.
            self._kill_all(self._child.pid)
            self._child = None
            yield {"say": "ended", "code": code, "words": _last_words(self._log, code)}

    def _evaluated(self, is_over: bool) -> Iterator[dict[str, Any]]:
        """Epoch and numbers of the evaluations that are new. A training that goes on cuts the file,
        so one may come again, or be overlooked till all are read at its end."""
        if self._lines is None:
            return
        if is_over:
            self._lines.rewind()
        for line in self._lines.new()[1]:
            if line["kind"] == "eval":
                # JSON has no NaN: report/ writes it as a word.
                numbers = {k: v for k, v in line.items() if isinstance(v, int | float | str)}
                yield {"say": "evaluated", "epoch": line["epoch"], "numbers": numbers}

    def close(self) -> None:
        """Kills the child, if there is one."""
        if self._child is not None:
            self._kill_all(self._child.pid)

    def _start(self, order: dict[str, Any], rank_0: str) -> None:
        environment = {**self._environment, **order["environment"]}
        if order["environment"]:
            faces = own_interfaces()
            names = [face.name for face in faces if face.address == order["address"]]
            environment |= meet_at(rank_0, names[0] if names else "", self._environment)
        folder = Path(order["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        self._lines = JsonLines(folder / "metrics.jsonl") if order["rank"] == 0 else None
        self._log = folder / f"rank_{order['rank']}.log"
        with open(self._log, "ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "hvd_yolo.train", *order["options"]],
                env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
                preexec_fn=partial(_prepare, self._cpus),  # noqa: PLW1509 (two system calls)
            )  # fmt: skip

    @staticmethod
    def _kill_all(group: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def serve(agent: Agent, line: Line, stop: StopRequest) -> int:
    """The work of the ranks other than 0, to the end of the job; returns its exit code."""
    asked = ""
    while line.is_open:
        if select.select([line.connection], [], [], SECONDS_A_LOOK)[0]:
            for order in line.receive():
                if order["do"] == "end":
                    agent.close()
                    # Launchers end all at the first that fails, and rank 0 has a word to say.
                    select.select([line.connection], [], [], _SECONDS_TO_SPEAK)
                    return int(order["code"])
                agent.obey(order, line.connection.getpeername()[0])
        for message in agent.news():
            line.send(**message)
        if stop.reason and not asked:
            asked = stop.reason
            line.send(say="asked to stop", reason=asked)
    agent.close()
    return EXIT_CODE if asked else 1


def _prepare(cpus: set[int]) -> None:
    die_with_parent(signal.SIGKILL)
    os.sched_setaffinity(0, cpus)


def _last_words(log: Path, code: int) -> str:
    """Why a training ended, by its code and the end of its log."""
    if code in (0, EXIT_CODE):
        return ""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            said = file.read().decode(errors="replace").split("\n")
    except OSError as error:
        return f"exit code {code}, {log}: {error.strerror}"
    said = [text.strip() for text in said if text.strip()]
    # Without the word that supervise takes for the refusal of the whole job.
    errors = [text.removeprefix(cli.ERROR).strip() for text in said if text.startswith(cli.ERROR)]
    return [f"exit code {code}", *said[-1:], *errors[-1:]][-1]
