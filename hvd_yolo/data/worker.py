"""Loader processes: each fills numbered batches into memory shared with the process that trains.

A worker is a fresh interpreter without torch, CUDA or MPI: a fork of a process with any of these
may hang or crash, and an import of torch would cost seconds and memory in each. Arrays of the data
set are shared, not copied, and inputs are written where the GPU fetches them, once.
"""

import mmap
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Protocol

import cv2
import numpy as np

from hvd_yolo.data.inputs import Filled
from hvd_yolo.data.shared_values import load, store
from hvd_yolo.prctl import die_with_parent

# For a worker that reads from a file system which does not answer.
_SECONDS_TO_END = 5


class Inputs(Protocol):
    """What is loaded: batches by number, pure functions of it."""

    slot_bytes: int

    def fill(self, number: int, out: np.ndarray) -> Filled:
        """Writes batch `number` to the start of `out` (slot_bytes) uint8, and tells what it is."""
        ...


class WorkerPool:
    """`num_workers` processes that fill `slots` (num_slots, slot_bytes) uint8 with batches of any
    of the `sources`, the largest of which needs slot_bytes.

    The memory is anonymous (memfd), so that a small /dev/shm, as in a container, is no limit, and
    nothing stays behind whatever ends the processes.
    """

    def __init__(self, sources: Sequence[Inputs], num_workers: int, num_slots: int) -> None:
        slot_bytes = max(source.slot_bytes for source in sources)
        memory = os.memfd_create("hvd_yolo-slots")
        os.ftruncate(memory, max(1, num_slots * slot_bytes))
        self.slots = _slots(memory, num_slots, slot_bytes)
        content, lengths = store(list(sources), "hvd_yolo-inputs")
        self._connections: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        for _ in range(num_workers):
            own, theirs = Pipe()
            descriptors = (theirs.fileno(), memory, content)
            self._processes.append(_start(descriptors))
            theirs.close()
            own.send((lengths, num_slots, slot_bytes))
            self._connections.append(own)
        os.close(memory)
        os.close(content)
        weakref.finalize(self, _end, self._connections, self._processes)

    def ask(self, worker: int, source: int, number: int, slot: int) -> None:
        """Sets a worker to fill batch `number` of a source into a slot."""
        try:
            self._connections[worker].send((source, number, slot))
        except BrokenPipeError as error:
            raise self._died(worker) from error

    def answer(self, worker: int) -> Filled:
        """Waits for the next of the batches that the worker was asked for, in their order."""
        try:
            return self._connections[worker].recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._died(worker) from error

    def _died(self, worker: int) -> RuntimeError:
        code = self._processes[worker].wait()
        killed = "; killed, perhaps for want of memory" if code == -signal.SIGKILL else ""
        return RuntimeError(
            f"loader worker {worker} ended with code {code}{killed}; what it said is above"
        )


def main(connection: int, memory: int, content: int) -> None:
    """A worker: fills what it is asked for until the other end is closed."""
    # Launchers and Ctrl-C signal the whole process group; the training process decides what it
    # means.
    die_with_parent(signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    link = Connection(connection)
    try:
        lengths, num_slots, slot_bytes = link.recv()
        sources: list[Inputs] = load(content, lengths)
        slots = _slots(memory, num_slots, slot_bytes)
        while True:
            source, number, slot = link.recv()
            link.send(sources[source].fill(number, slots[slot]))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The training process is gone, or needs no more.
        return


def _start(descriptors: tuple[int, int, int]) -> subprocess.Popen[bytes]:
    """A fresh interpreter that finds the same modules as this one.

    One thread, for there is a worker a core; and freed memory is kept, for the next image needs as
    much and the kernel would have to clear it again.
    """
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; "
        f"from hvd_yolo.data.worker import main; main(*{descriptors!r})"
    )
    settings = [
        "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1",
        "MALLOC_MMAP_MAX_=0", "MALLOC_TRIM_THRESHOLD_=4294967296",
    ]  # fmt: skip
    command = ["env", *settings, sys.executable, "-c", code]
    return subprocess.Popen(command, pass_fds=descriptors, stdin=subprocess.DEVNULL)


def _end(connections: list[Connection], processes: list[subprocess.Popen[bytes]]) -> None:
    for connection in connections:
        connection.close()
    for process in processes:
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _slots(memory: int, num_slots: int, slot_bytes: int) -> np.ndarray:
    shared = mmap.mmap(memory, max(1, num_slots * slot_bytes))
    flat = np.frombuffer(shared, dtype=np.uint8, count=num_slots * slot_bytes)
    return flat.reshape(num_slots, slot_bytes)
