"""The disk that runs are written to, and what kind of file system a path is on."""

import os
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hvd_yolo.doctor.facts import Facts
from hvd_yolo.doctor.findings import Finding, on

# Types in /proc/self/mountinfo behind which there is a network.
NETWORK = frozenset({
    "nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph", "glusterfs",
    "fuse.glusterfs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.juicefs", "wekafs", "9p",
    "virtiofs", "afs", "orangefs",
})  # fmt: skip

_LARGE, _NUM_SMALL = bytes(8 << 20), 5
_SMALL = bytes(4 << 10)

# A checkpoint of yolov8n with EMA and AdamW takes 51 MB, one of yolov8x 1.1 GB; there are two.
_FULL_BYTES, _TIGHT_BYTES = 128 << 20, 2 << 30

# A checkpoint would take seconds, a line of metrics a quarter of one.
_SLOW_RATE, _SLOW_SECONDS = 10e6, 0.25


@dataclass
class Disk:
    """Where runs are written. error: why they cannot be, empty if they can. write_rate: bytes a
    second that are safe on the disk; small_seconds: to write a small file so, the median."""

    folder: str
    file_system: str
    free: int
    error: str = ""
    write_rate: float = 0.0
    small_seconds: float = 0.0


def try_out(folder: Path) -> Disk:
    """Writes a few megabytes into the folder, or the nearest there is above it, and removes
    them."""
    place = folder.absolute()
    disk = Disk(str(place), "", 0)
    try:
        while not place.exists():
            place = place.parent
        disk = Disk(str(place), file_system(place), shutil.disk_usage(place).free)
        with tempfile.TemporaryDirectory(prefix=".hvd_yolo-doctor-", dir=place) as work:
            seconds = _write(Path(work, "large"), _LARGE)
            disk.write_rate = len(_LARGE) / seconds
            small = [_write(Path(work, str(n)), _SMALL) for n in range(_NUM_SMALL)]
            disk.small_seconds = statistics.median(small)
    except OSError as error:
        disk.error = str(error)
    return disk


def judge(facts: list[Facts], disk: Disk, folder: str) -> Iterator[Finding]:
    """Whether rank 0 can write its runs there."""
    main = facts[:1]
    remedy = "--output FOLDER on another disk"
    room = f"{disk.free / 1e9:.1f} GB are free for output {folder}"
    if disk.error:
        what = f"output {folder} cannot be written: {disk.error}"
        yield on(main, "error", "output-unwritable", what, f"mount it writable, or {remedy}")
    elif disk.free < _TIGHT_BYTES:
        severity = "error" if disk.free < _FULL_BYTES else "warning"
        yield on(main, severity, "output-full", room, f"remove old runs, or {remedy}")
    if not disk.error and (disk.write_rate < _SLOW_RATE or disk.small_seconds > _SLOW_SECONDS):
        yield on(
            main, "warning", "disk-slow",
            f"output {folder}: {disk.write_rate / 1e6:.1f} MB/s, {disk.small_seconds * 1e3:.0f} ms "
            "for a small file",
            f"{remedy}, or fewer checkpoints (--checkpoint.every_updates)",
        )  # fmt: skip


def file_system(path: Path) -> str:
    """The type of the file system that an existing path is on, as mount(8) calls it."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return file_system_type(path.resolve(), mounts)


def file_system_type(path: Path, mounts: list[str]) -> str:
    """The same from the lines of /proc/self/mountinfo; of two on one place the last is seen."""
    found, deepest = "", -1
    for line in mounts:
        fields, _, source = line.partition(" - ")
        # Spaces are written as \040.
        place = Path(re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields.split()[4]))
        if path.is_relative_to(place) and len(place.parts) >= deepest:
            found, deepest = source.split()[0], len(place.parts)
    return found


def _write(file: Path, content: bytes) -> float:
    """Seconds until the disk has it."""
    started = time.perf_counter()
    with open(file, "wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())
    return time.perf_counter() - started
