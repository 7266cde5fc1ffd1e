"""Where a launcher told its ranks to meet; for finding out why they do not."""

import os
import re

# As 1271463936.0;tcp://10.0.0.1,172.17.0.1:47047
_MPIRUN = "OMPI_MCA_orte_hnp_uri"

# Launchers name the place of a rank on its host so.
_LOCAL_RANKS = ("HOROVOD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "LOCAL_RANK", "SLURM_LOCALID")


def meeting_places() -> list[tuple[str, int]]:
    """Addresses and ports on the launcher's host that accept connections while the job starts: of
    mpirun (several, of which it takes what it likes), horovodrun over Gloo, and torchrun."""
    uri = re.search(r"tcp://([\d.,]+):(\d+)", os.environ.get(_MPIRUN, ""))
    found = [(address, int(uri[2])) for address in uri[1].split(",")] if uri else []
    for address, port in (
        ("HOROVOD_GLOO_RENDEZVOUS_ADDR", "HOROVOD_GLOO_RENDEZVOUS_PORT"),
        ("MASTER_ADDR", "MASTER_PORT"),
    ):
        if address in os.environ and port in os.environ:
            found.append((os.environ[address], int(os.environ[port])))
    return found


def launched_local_rank() -> int:
    """The rank on its host that this process was promised, 0 when nothing launched it."""
    told = (os.environ[name] for name in _LOCAL_RANKS if name in os.environ)
    return int(next(told, 0))
