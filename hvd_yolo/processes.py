"""That no process outlives what it belongs to (Linux)."""

import os
import threading
import time

import psutil

from hvd_yolo.comm import launch
from hvd_yolo.stopping import StopRequest, last_words

_SECONDS_TO_END = 5.0
# What a rank hangs on; where horovodrun started it on another host, it is sshd.
_LAUNCHERS = {
    "horovodrun", "mpirun", "mpiexec", "orterun", "orted", "prterun", "prted", "torchrun",
    "torch.distributed.run",
}  # fmt: skip
# horovodrun --mpi becomes a shell with this command.
_AS_HOROVODRUN = "mpirun --allow-run-as-root --tag-output "
_SECONDS_TO_SAVE = 10.0


def end_all() -> None:
    """Ends all that descends from this process: SIGTERM, once, for a rank takes a second one as an
    order to save nothing; SIGKILL after 5 seconds."""
    deadline = time.monotonic() + _SECONDS_TO_END
    asked: set[psutil.Process] = set()
    while alive := psutil.Process().children(recursive=True):
        for process in alive:
            try:
                if time.monotonic() > deadline:
                    process.kill()
                elif process not in asked:
                    process.terminate()
            except psutil.NoSuchProcess:
                continue
        asked |= set(alive)
        psutil.wait_procs(alive, timeout=1)


def end_with_launcher(stop: StopRequest) -> None:
    """From now on the end of the launcher above this process, or of one between them, is a request
    to stop; 10 seconds later it is the end."""
    parents = psutil.Process().parents()
    programs = [_programs(parent) for parent in parents]
    # The topmost: horovodrun may have started mpirun, which would live on without it.
    launchers = [i for i, names in enumerate(programs) if names & _LAUNCHERS]
    launchers = launchers[-1:] or [
        i for i, names in enumerate(programs) if any(name.startswith("sshd") for name in names)
    ]
    if launch.promised() is not None and launchers:
        above = parents[: launchers[0] + 1]
        threading.Thread(target=_watch, args=(above, stop), name="launcher", daemon=True).start()


def _watch(above: list[psutil.Process], stop: StopRequest) -> None:
    while all(map(_is_alive, above)):
        time.sleep(1)
    stop.ask("the end of the launcher")
    time.sleep(_SECONDS_TO_SAVE)
    last_words("the launcher has ended, and so does this rank", 1)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _programs(process: psutil.Process) -> set[str]:
    """The name of what a process runs, a script's included."""
    try:
        words = process.cmdline()
    except psutil.Error:
        return {process.name()}
    if len(words) == 3 and words[2].startswith(_AS_HOROVODRUN):
        return {"horovodrun"}
    names = [os.path.basename(word) for word in words[:3]]
    is_script = bool(names) and names[0].startswith("python")
    # sshd writes what it does into its command line.
    return {process.name(), *(names if is_script else names[:1])}
