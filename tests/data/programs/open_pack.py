"""A process that opens a pack of made items and tells in JSON lines what it met; killed, if so
asked, at a moment of its own choice.

python -m tests.data.programs.open_pack '{"folder": ..., "log": ..., ...}'
"""

import hashlib
import json
import logging
import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from hvd_yolo.data.decoding import UnreadableImage
from hvd_yolo.data.pack import in_use, open_pack
from hvd_yolo.data.packing import Place
from hvd_yolo.errors import InputError

NAME = "made-0-abc"


class Made:
    """Items of 0 to 99 bytes; every tenth has no plan, every tenth but one cannot be written."""

    def __init__(self, number, log=None, pause=0.0, dies_at=""):
        self.number, self.log, self.pause, self.dies_at = number, log, pause, dies_at

    def __len__(self):
        return self.number

    def plan(self, index):
        if self.dies_at == "plan" and index == self.number // 2:
            die()
        if index % 10 == 9:
            raise UnreadableImage(f"item {index}")
        return index % 100, index, 7

    def write(self, index, out):
        if self.log:
            with open(self.log, "ab", buffering=0) as file:
                file.write(b"%d %d\n" % (os.getpid(), index))
        time.sleep(self.pause)
        if self.dies_at in (f"write {index}", "any write"):
            die()
        if index % 10 == 8:
            raise UnreadableImage(f"item {index}")
        out[:] = index % 251


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def digest(pack):
    """Of all that is in a pack, item by item."""
    found = hashlib.sha256()
    for index in range(len(pack)):
        item = pack.item(index)
        content = None if item is None else (item.tobytes(), pack.row(index))
        found.update(repr(content).encode())
    return found.hexdigest()


def expected_digest(number):
    found = hashlib.sha256()
    for index in range(number):
        content = None
        if index % 10 < 8:
            pixels = np.full(index % 100, index % 251, dtype=np.uint8).tobytes()
            content = (pixels, [index, 7])
        found.update(repr(content).encode())
    return found.hexdigest()


def place(folder, is_kept=True, free=sys.maxsize):
    return Place(Path(folder), is_kept, lambda: free, 2, "loader.cache", "do without")


def main(asked):
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="LOG %(message)s")
    dies_at = asked.get("dies_at", "")
    if dies_at == "rename":
        target = str(Path(asked["folder"]) / NAME)
        sys.addaudithook(lambda what, about: what == "os.rename" and about[1] == target and die())
    if "file_size" in asked:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_size"],) * 2)
    if "user" in asked:
        os.setresuid(*(asked["user"],) * 3)
    made = Made(asked["number"], asked.get("log"), asked.get("pause", 0.0), dies_at)
    where = place(asked["folder"], asked.get("is_kept", True))
    try:
        if where.is_kept:
            print("DIGEST", digest(open_pack(where, NAME, made)), flush=True)
        else:
            with in_use(where, NAME):
                print("DIGEST", digest(open_pack(where, NAME, made)), flush=True)
                sys.stdin.readline()
    except InputError as error:
        print("REFUSED", error, flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
