"""Rank 2 unshares its network, so that it finds no way to rank 0, which reads for its host."""

import ctypes
import sys

import numpy as np

from hvd_yolo.comm import connect
from hvd_yolo.config import CommConfig
from hvd_yolo.data import Dataset, open_dataset
from hvd_yolo.once_per_host import read_once_per_host

# CLONE_NEWNET of linux/sched.h.
_NEW_NETWORK = 0x40000000


def main() -> None:
    """Prints how each rank came to the data set that is named, whose value range is not known."""
    comm = connect(CommConfig(), "cpu")
    if comm.rank == 2:
        assert ctypes.CDLL(None).unshare(_NEW_NETWORK) == 0
    has_read = []

    def read() -> Dataset:
        has_read.append(comm.rank)
        return open_dataset(sys.argv[1], "train")

    dataset = read_once_per_host(comm, sys.argv[1], read)
    expected = open_dataset(sys.argv[1], "train")
    assert dataset.value_range is None
    assert vars(dataset).keys() == vars(expected).keys()
    for name, value in vars(expected).items():
        if isinstance(value, np.ndarray):
            assert np.array_equal(vars(dataset)[name], value)
        elif name != "storage":
            assert vars(dataset)[name] == value
    assert np.array_equal(dataset.encoded(0), expected.encoded(0))
    # Its own from now on, for whoever writes into it.
    dataset.boxes[comm.rank] = -1
    comm.barrier()
    assert (dataset.boxes < 0).all(1).sum() == 1
    assert read_once_per_host(comm, sys.argv[1], None) is None
    # At once, for the ranks write to one pipe.
    print(f"{comm.rank}:{'read' if has_read else 'got'}\n", end="", flush=True)


main()
