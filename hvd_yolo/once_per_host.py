"""Data sets that one process per host reads, and the other ranks there map into their memory."""

import copyreg
import json
import logging
import os
import pickle
import secrets
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeVar

from hvd_yolo.comm import Comm, agree, gather_json
from hvd_yolo.data import shared_values
from hvd_yolo.data.image_files import ImageFiles
from hvd_yolo.errors import InputError

T = TypeVar("T")

logger = logging.getLogger("hvd_yolo.start")

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CONNECT_SECONDS = 3.0


def read_once_per_host(comm: Comm, data: str, read: Callable[[], T] | None) -> T | None:
    """What `read` returns, on all ranks; every rank calls it. `read` is called by the first rank of
    each host, and by those that cannot get at what that one has read, as in another container.

    data: the file or folder that `read` opens; ranks share what they read if it is the same to
    them. read None: this rank has it already, and gets None. An InputError of `read` is raised on
    all ranks. The other ranks of a host get the same arrays, which are not written to by others.
    """
    if comm.size == 1:
        return None if read is None else read()
    with ExitStack() as stack:
        server, address = _open_server(comm.size)
        stack.callback(server.close)
        views = gather_json(comm, [_view_of_host(data) if read else None, address])
        ranks = [rank for rank, (view, _) in enumerate(views) if view == views[comm.rank][0]]
        is_reader = ranks[0] == comm.rank
        link = None if is_reader or read is None else _called(views[ranks[0]][1])
        if link is not None:
            stack.callback(link.close)
        # Whoever will come is now waiting at the door.
        comm.barrier()
        with agree(comm):
            if read is None:
                return None
            if is_reader:
                return _read_for(_arrived(server, stack), read)
            received = None if link is None else _received(link)
            return read() if received is None else received


def _view_of_host(data: str) -> list[str | int]:
    """What is equal on two ranks that see the same data set: the host, since when it has run, and
    the place of the data on its file systems."""
    view: list[str | int] = [socket.gethostname(), _BOOT_ID.read_text()]
    # What is not there has one message, and a data set that is drawn has no place.
    with suppress(OSError):
        place = os.stat(data)
        view += [place.st_dev, place.st_ino]
    return view


def _open_server(size: int) -> tuple[socket.socket, str]:
    """A socket in the abstract namespace, which leaves no file behind, and its random name."""
    name = f"hvd_yolo-{secrets.token_hex(16)}"
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"\0{name}")
    server.listen(size)
    return server, name


def _called(name: str) -> socket.socket | None:
    """A connection to the process that reads; None where no way leads to it."""
    link = socket.socket(socket.AF_UNIX)
    try:
        link.settimeout(_CONNECT_SECONDS)
        link.connect(f"\0{name}")
        if _is_same_user(link):
            link.settimeout(None)
            return link
    except OSError:
        pass
    link.close()
    return None


def _arrived(server: socket.socket, stack: ExitStack) -> list[socket.socket]:
    """Those who have called, closed with the stack."""
    server.setblocking(False)
    links = []
    with suppress(BlockingIOError):
        while True:
            link = stack.enter_context(server.accept()[0])
            link.setblocking(True)
            if _is_same_user(link):
                links.append(link)
    return links


def _is_same_user(link: socket.socket) -> bool:
    """What comes through the connection is unpickled; so it must be of who may do all that this
    process may do."""
    credentials = link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1] == os.geteuid()


def _read_for(links: list[socket.socket], read: Callable[[], T]) -> T:
    """Reads, and sends what was read, or the error; those who get neither read for themselves."""
    try:
        value = read()
    except InputError as error:
        for link in links:
            _send(link, {"error": str(error)}, [])
        raise
    if not links:
        return value
    try:
        descriptor, lengths = shared_values.store(value, "hvd_yolo-data", _Pickler)
    except OSError as error:
        logger.warning("no memory to share the data set, each rank reads it: %s", error.strerror)
        return value
    for link in links:
        _send(link, {"lengths": lengths}, [descriptor])
    # Its own copy goes: the host needs no more than one.
    value = shared_values.load(descriptor, lengths, is_writable=True)
    os.close(descriptor)
    return value


def _send(link: socket.socket, message: dict[str, Any], descriptors: list[int]) -> None:
    # Who has gone will be missed at the next collective.
    with suppress(OSError):
        socket.send_fds(link, [b" "], descriptors)
        link.sendall(json.dumps(message).encode())
        link.shutdown(socket.SHUT_WR)


def _received(link: socket.socket) -> Any:  # noqa: ANN401
    """What the process that reads has sent; None where that was nothing. Raises its InputError."""
    content, descriptors = b"", []
    try:
        with suppress(ConnectionResetError):
            _, descriptors, _, _ = socket.recv_fds(link, 1, 1)
            while part := link.recv(1 << 16):
                content += part
        if not content:
            return None
        message = json.loads(content)
        if "error" in message:
            raise InputError(message["error"])
        return shared_values.load(descriptors[0], message["lengths"], is_writable=True)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


class _Pickler(pickle.Pickler):
    """Takes a data set of files as it is. By itself it would first determine its value range from
    all images, which is for all ranks to do together."""

    def reducer_override(self, obj: object) -> Any:  # noqa: ANN401
        """See pickle.Pickler."""
        if isinstance(obj, ImageFiles):
            return copyreg.__newobj__, (type(obj),), obj.__dict__
        return NotImplemented
