"""How every verb ends: its exit code, and one voice for an error that all ranks have."""

import itertools
import logging
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

from tqdm import tqdm

from hvd_yolo import closed_output
from hvd_yolo.comm import launch
from hvd_yolo.errors import InputError, Stopped
from hvd_yolo.out_of_memory import describe, is_out_of_memory
from hvd_yolo.stopping import EXIT_CODE, last_words

T = TypeVar("T")

# How an error with exit code 2 begins.
ERROR = "hvd_yolo: error:"

# Between two lines of progress where there is no bar.
_SECONDS_A_LINE = 10.0
# For rank 0 to tell what all ranks have found, on a host that is busy starting many.
_SECONDS_TO_SPEAK = 8.0


def next_free(stem: str) -> Path:
    """runs/STEM, or the first of runs/STEM2, runs/STEM3, ... that is not there yet."""
    names = (f"{stem}{number}" if number > 1 else stem for number in itertools.count(1))
    return next(Path("runs", name) for name in names if not Path("runs", name).exists())


def progress(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, while rank 0 shows on standard error how many have been taken: a bar on a
    terminal, now and then a line under a launcher or in a file."""
    if launch.launched_rank() != 0:
        yield from items
    elif sys.stderr.isatty() and launch.promised() is None:
        yield from tqdm(items, desc=what, dynamic_ncols=True, file=sys.stderr)
    else:
        told = time.monotonic()
        for number, item in enumerate(items):
            if time.monotonic() - told > _SECONDS_A_LINE:
                told = time.monotonic()
                print(f"{what}: {number} of {len(items)}", file=sys.stderr, flush=True)
            yield item


@contextmanager
def output_file(option: str, name: str) -> Iterator[Path]:
    """The file of that option, to be written within, its folder made; raises InputError when it
    cannot be written."""
    file = Path(name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield file
    except OSError as error:
        raise InputError(f"{option} {file} cannot be written: {error}") from error


def speak_as(rank: int) -> None:
    """What all ranks find alike is said by rank 0, what is an error on one rank by that rank; this
    is rank `rank`."""
    logging.getLogger("hvd_yolo").setLevel(logging.INFO if rank == 0 else logging.ERROR)


def run(main: Callable[[Sequence[str]], None], memory_remedy: str = "") -> None:
    """Runs a verb's main on the command line: exit code 0 when done, 2 for an InputError told in
    one message and for want of memory, 75 for a run that was stopped on request, 141 where the
    reader of its output has gone.

    memory_remedy: what helps where the memory does not suffice.
    """
    logging.basicConfig(format="%(message)s", handlers=[closed_output.Handler(sys.stdout)])
    speak_as(launch.launched_rank())
    try:
        try:
            _run(main, memory_remedy)
        finally:
            # Here, for what the interpreter meets at its end nobody can handle.
            sys.stdout.flush()
    except BrokenPipeError:
        if not closed_output.mute_closed():
            if launch.promised() is not None:
                _fail()
            raise
        if launch.promised() is not None:
            # No orderly exit, at which Horovod waits for ranks that wait for this one.
            os._exit(closed_output.EXIT_CODE)
        sys.exit(closed_output.EXIT_CODE)


def _run(main: Callable[[Sequence[str]], None], memory_remedy: str) -> None:
    try:
        main(sys.argv[1:])
    except BrokenPipeError:
        # It may be that of an output that nobody reads, which is no failure.
        raise
    except InputError as error:
        if error.rank is None and launch.launched_rank() != 0:
            # Rank 0 has the same error and speaks; its exit ends this rank while it waits here. Who
            # is still there afterwards was alone with the error.
            time.sleep(_SECONDS_TO_SPEAK)
        print(f"{ERROR} {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except Stopped as stopped:
        if stopped.is_alone:
            # At an orderly exit Horovod would tell the others, which would fail before this one
            # has ended, with a code of their own.
            last_words(str(stopped), EXIT_CODE)
        if launch.launched_rank() == 0:
            print(f"hvd_yolo: {stopped}", file=sys.stderr, flush=True)
        sys.exit(EXIT_CODE)
    except Exception as error:
        if is_out_of_memory(error):
            # No orderly exit, at which Horovod waits for ranks that wait for this one.
            sys.stdout.flush()
            place = f"{_own_name()}: " if launch.promised() is not None else ""
            last_words(f"error: {place}{describe(error, memory_remedy)}", 2)
        if launch.promised() is not None:
            _fail()
        raise


def _fail() -> NoReturn:
    """Ends a rank by the exception that is being handled, and says whose it is: its traceback may
    be one of many."""
    # At an orderly exit Horovod waits for the others, which may wait for this rank.
    sys.stdout.flush()
    last_words(f"{_own_name()} failed:\n{traceback.format_exc()}", 1)


def _own_name() -> str:
    return f"rank {launch.launched_rank()} on {socket.gethostname()}"
