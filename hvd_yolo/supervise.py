"""`python -m hvd_yolo.supervise -- horovodrun -np 4 python -m hvd_yolo.train --output runs/x ...`:
starts the job again from its last checkpoint when it fails."""

import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import BinaryIO, NamedTuple

import psutil

from hvd_yolo import cli
from hvd_yolo.comm import launch
from hvd_yolo.config import parse
from hvd_yolo.config.supervise_verb import SuperviseConfig
from hvd_yolo.errors import InputError
from hvd_yolo.prctl import adopt_orphans, die_with_parent
from hvd_yolo.processes import end_all
from hvd_yolo.stopping import ALL_SAVED, EXIT_CODE, SIGNALS
from hvd_yolo.watchdog import VERDICT

# They pass it on to their ranks, and do not end at it themselves.
_PASS_USR1_ON = ("mpirun", "mpiexec", "orterun", "prterun", "srun")
_SIGNALS = (*SIGNALS, signal.SIGHUP)
# What a job says at its end. Not that a rank was stopped at once: a launcher does that to the
# others when one fails.
_REFUSED, _STOPPED = cli.ERROR.encode(), ALL_SAVED.encode()
# What ranks say that end for one that stands still. mpirun waits for the host of that one for ever.
_HUNG = f"hvd_yolo: {VERDICT}".encode()
_SECONDS_AFTER_VERDICT = 20.0
_SECONDS_BETWEEN = 1.0


class End(NamedTuple):
    """How a job ended: its code, and whether it said that it was refused (exit code 2) or stopped
    (75), for not every launcher passes a rank's code on."""

    code: int
    was_refused: bool
    was_stopped: bool


class Job:
    """One start of the command, in a process group of its own."""

    def __init__(self, command: Sequence[str]) -> None:
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=partial(die_with_parent, signal.SIGTERM),  # noqa: PLW1509 (no other thread runs by now)
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"{command[0]} cannot be started: {error.strerror}") from error
        self._said: set[bytes] = set()
        self._hung_at = math.inf
        pairs = (
            (self._process.stdout, sys.stdout.buffer),
            (self._process.stderr, sys.stderr.buffer),
        )
        self._threads = [threading.Thread(target=self._pass_on, args=pair) for pair in pairs]
        for thread in self._threads:
            thread.start()

    def is_over(self) -> bool:
        """Whether the launcher has ended."""
        return self._process.poll() is not None

    def is_hung(self) -> bool:
        """Whether its ranks have ended some time ago for one that stands still, and the launcher
        has not."""
        return time.monotonic() - self._hung_at > _SECONDS_AFTER_VERDICT

    def ask_to_stop(self) -> None:
        """One rank is enough, for it tells the others; launchers give theirs no time to save, so a
        rank of this host is asked, else a launcher that passes the signal on."""
        found = psutil.Process(self._process.pid).children(recursive=True)
        ranks = [process for process in found if _is_rank(process)]
        launchers = [psutil.Process(self._process.pid), *found]
        launchers = [process for process in launchers if process.name() in _PASS_USR1_ON]
        try:
            if ranks or launchers:
                [*ranks, *launchers][0].send_signal(signal.SIGUSR1)
            else:
                os.killpg(self._process.pid, signal.SIGTERM)
        except (psutil.NoSuchProcess, ProcessLookupError):
            # It is ending by itself.
            return

    def end(self) -> End:
        """Ends whatever of the job is still alive."""
        if not self.is_over():
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
        code = self._process.wait()
        end_all()
        for thread in self._threads:
            thread.join()
        return End(
            code,
            code == 2 or _REFUSED in self._said,
            # A launcher that was killed did not stop on request, whatever its ranks did then.
            code == EXIT_CODE or (code > 0 and _STOPPED in self._said),
        )

    def _pass_on(self, pipe: BinaryIO, out: BinaryIO) -> None:
        for line in pipe:
            # Where nobody listens any more, the job must not wait for that.
            with suppress(OSError):
                out.write(line)
                out.flush()
            self._said |= {words for words in (_REFUSED, _STOPPED) if words in line}
            if _HUNG in line:
                self._hung_at = min(self._hung_at, time.monotonic())


def main(argv: Sequence[str]) -> None:
    """Exit code 0 when the job is done, 2 when it was refused, 75 when it was stopped on request, 1
    when it failed once more than max_restarts."""
    argv = list(argv)
    if "--" not in argv and not {"-h", "--help"} & set(argv):
        raise InputError("name the job after --: hvd_yolo.supervise -- horovodrun -np 4 ...")
    place = argv.index("--") if "--" in argv else len(argv)
    config = parse(SuperviseConfig, argv[:place], "hvd_yolo.supervise")
    command = argv[place + 1 :]
    _refuse_new_runs(command)
    adopt_orphans()
    asked: queue.Queue[float] = queue.Queue()

    def ask(number: int, frame: object) -> None:
        """Notes a signal; Slurm and shells give one to the process, and to its group once more."""
        now = time.monotonic()
        if asked.empty() or now - asked.queue[-1] > _SECONDS_BETWEEN:
            asked.put(now)

    for number in _SIGNALS:
        # nohup's choice stays.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, ask)
    sys.exit(_supervise(command, config, asked))


def _supervise(command: Sequence[str], config: SuperviseConfig, asked: "queue.Queue[float]") -> int:
    for restarts in range(config.max_restarts + 1):
        started = time.monotonic()
        end = _run(command, config, asked)
        if end.code == 0:
            return 0
        if end.was_stopped or not asked.empty():
            return EXIT_CODE
        if end.was_refused:
            return 2
        pause = min(config.backoff * 2**restarts, config.most_backoff)
        lived = f"the job ended with code {end.code} after {time.monotonic() - started:.0f} s"
        if restarts == config.max_restarts:
            _say(f"{lived}; it was restarted {restarts} times and is given up")
            return 1
        _say(f"{lived}; restart {restarts + 1} of {config.max_restarts} in {pause:g} s")
        deadline = time.monotonic() + pause
        while asked.empty() and time.monotonic() < deadline:
            time.sleep(0.1)
        if not asked.empty():
            return EXIT_CODE
    raise AssertionError("every way out is above")


def _run(command: Sequence[str], config: SuperviseConfig, asked: "queue.Queue[float]") -> End:
    """One job, to its end. A first signal asks it to stop, within config.grace seconds; a second
    ends it."""
    job = Job(command)
    asked_at = None
    while not job.is_over():
        if asked_at is None and not asked.empty():
            asked_at = time.monotonic()
            job.ask_to_stop()
        is_late = asked_at is not None and time.monotonic() - asked_at > config.grace
        if is_late or asked.qsize() > 1:
            _say("the job has not stopped when asked; it is ended")
            break
        if job.is_hung():
            _say("the launcher has not ended with its ranks; it is ended")
            break
        time.sleep(0.05)
    return job.end()


def _is_rank(process: psutil.Process) -> bool:
    """Whether a launcher promised this process a rank, and not one that it is a child of."""
    try:
        own, above = process.environ(), process.parent().environ()
        is_python = process.name().startswith("python")
    except psutil.Error:
        return False
    return is_python and launch.promised(own) is not None and launch.promised(above) is None


def _refuse_new_runs(command: Sequence[str]) -> None:
    words = {word.split("=")[0] for word in command}
    if not words & {"--output", "--resume", "--config"}:
        raise InputError(
            "the job names no --output: each restart would begin a new run; add --output runs/NAME"
        )


def _say(message: str) -> None:
    print(f"hvd_yolo.supervise: {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
