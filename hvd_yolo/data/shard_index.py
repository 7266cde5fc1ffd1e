"""What lies where in tar files of images and labels: found by a pass over their headers, and kept
in a file beside them."""

import hashlib
import json
import logging
import os
import tarfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, NamedTuple

from hvd_yolo.data.image_files import NETWORK_THREADS, lengths_and_times
from hvd_yolo.data.image_folders import IMAGE_SUFFIXES
from hvd_yolo.data.text_files import inside
from hvd_yolo.errors import InputError

logger = logging.getLogger(__name__)

# Counts the changes of what is stored: an older index is not read but made anew.
_VERSION = 1

_TAR_BLOCK = 512


class Member(NamedTuple):
    """An image in a tar file: its name, first byte and length there, and the text of its label
    file; None where it has none."""

    name: str
    start: int
    length: int
    labels: str | None


class Shard(NamedTuple):
    """The images of a tar file in their order, and the names of label files without an image."""

    images: list[Member]
    stray_labels: list[str]


def index_shards(shards: Sequence[Path]) -> list[Shard]:
    """What is in each tar file: as kept beside the first, if none has changed since, else looked up
    now and kept.

    Ranks that start together each look; where the folder cannot be written to, every start has to.
    Raises InputError, which names the file, for one that is missing, damaged or has a key twice.
    """
    folder = shards[0].parent
    names = [os.path.relpath(shard, folder) for shard in shards]
    state = (_VERSION, names, _lengths_and_times(shards))
    digest = hashlib.sha256(repr(names).encode()).hexdigest()[:16]
    file = folder / f"hvd_yolo-index-{digest}.json"
    kept = _load(file, state)
    if kept is not None:
        return kept
    started = time.monotonic()
    with ThreadPoolExecutor(NETWORK_THREADS) as pool:
        found = list(pool.map(_look_into, shards))
    logger.info("indexed %d shards in %.1f s: %s", len(shards), time.monotonic() - started, folder)
    _save(file, state, found)
    return found


def _lengths_and_times(shards: Sequence[Path]) -> list[tuple[int, int]]:
    found = lengths_and_times([str(shard) for shard in shards])
    missing = [shard for shard, (length, _) in zip(shards, found, strict=True) if length < 0]
    if missing:
        raise InputError(
            f"{missing[0]}: no such file; {len(missing)} of {len(shards)} shards are not there"
        )
    return found


def _load(file: Path, state: object) -> list[Shard] | None:
    """None unless there is an index, whole and of this state of the shards."""
    try:
        digest, _, body = file.read_bytes().partition(b"\n")
    except OSError:
        return None
    if digest != _digest(state, body):
        return None
    return [
        Shard([Member(*member) for member in images], stray_labels)
        for images, stray_labels in json.loads(body)
    ]


def _save(file: Path, state: object, found: list[Shard]) -> None:
    body = json.dumps(found).encode()
    # Ranks and jobs may save at the same time; all save the same.
    temporary = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(_digest(state, body) + b"\n" + body)
        os.replace(temporary, file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        logger.warning("the index of the shards is not kept, each start makes it anew: %s", error)


def _digest(state: object, body: bytes) -> bytes:
    return hashlib.sha256(repr(state).encode() + body).hexdigest().encode()


def _look_into(shard: Path) -> Shard:
    images: dict[str, Member] = {}
    labels: dict[str, tuple[str, str]] = {}
    try:
        with open(shard, "rb") as file:
            for member in _regular_members(shard, file):
                # As webdataset does it: the key ends at the first dot of the file's name.
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key, suffix = f"{folder}/{stem}", f".{suffix.lower()}"
                if not stem or suffix not in IMAGE_SUFFIXES | {".txt"}:
                    continue
                known, same = (labels, ".txt") if suffix == ".txt" else (images, "image")
                if key in known:
                    raise InputError(
                        f"{shard}: {known[key][0]} and {member.name} are both the {same} of one key"
                    )
                if suffix == ".txt":
                    text = os.pread(file.fileno(), member.size, member.offset_data)
                    labels[key] = member.name, _decoded(text, f"{shard}/{member.name}")
                else:
                    inside(shard, shard / member.name, str(shard))
                    images[key] = Member(member.name, member.offset_data, member.size, None)
    except OSError as error:
        raise InputError(f"{shard}: cannot be read: {error.strerror}") from error
    labelled = [
        member._replace(labels=labels[key][1]) if key in labels else member
        for key, member in images.items()
    ]
    return Shard(labelled, [name for key, (name, _) in labels.items() if key not in images])


def _regular_members(shard: Path, file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    """The files in a tar; raises InputError unless it is whole."""
    length, name = os.fstat(file.fileno()).st_size, "its beginning"
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = member.name
                if not 0 <= member.size <= length - member.offset_data:
                    raise InputError(f"{shard}: truncated in {name}; fetch or write it anew")
                if member.isreg():
                    yield member
            end = tar.offset
    # The last two: a damaged header may claim any length.
    except (tarfile.TarError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(
            f"{shard}: not a whole tar file ({error}, after {name}), or a compressed one, which "
            "cannot be read at random places: unpack it"
        ) from error
    # tarfile takes what it cannot read for the end, which is a block of zeros.
    if os.pread(file.fileno(), _TAR_BLOCK, end) != bytes(_TAR_BLOCK):
        raise InputError(f"{shard}: truncated or damaged after {name}; fetch or write it anew")


def _decoded(text: bytes, where: str) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not a text in UTF-8, save it as such: {error}") from error
