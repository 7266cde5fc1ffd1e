"""Lines of JSON between rank 0 and every other rank, beside the collectives and whatever these wait
for."""

import json
import secrets
import selectors
import socket
from collections.abc import Iterator
from typing import Any

from hvd_yolo.comm import Comm, broadcast_bytes, gather_json
from hvd_yolo.doctor.interfaces import own_interfaces

_CONNECT_SECONDS = 3.0
# A rank that does not read is given up; the lines are short.
_SEND_SECONDS = 2.0
_LARGEST_LINE = 1 << 20


class Line:
    """One end of a connection. Not to be used by two threads at once."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SEND_SECONDS)
        self.connection = connection
        self.is_open = True
        self._buffer = b""

    def send(self, **message: Any) -> None:  # noqa: ANN401 (whatever json can hold)
        """A message; the other end may be gone, which receive() tells."""
        try:
            self.connection.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            self.is_open = False

    def receive(self) -> Iterator[dict[str, Any]]:
        """The messages that have come; to be called when there is something to read."""
        try:
            content = self.connection.recv(1 << 16)
        except OSError:
            content = b""
        self.is_open = self.is_open and bool(content) and len(self._buffer) < _LARGEST_LINE
        *lines, self._buffer = (self._buffer + content).split(b"\n")
        yield from map(json.loads, lines)

    def close(self) -> None:
        """Hangs up."""
        self.connection.close()


def connect(comm: Comm) -> tuple[dict[int, Line] | None, list[str]]:
    """The lines of this rank by the rank at the other end, of rank 0 to all others, of these to it,
    and the host of each rank. No lines on any rank where one of them finds no way. Every rank calls
    it.
    """
    token = secrets.token_hex(16)
    with socket.create_server(("", 0), backlog=comm.size) as server:
        faces = [face.address for face in own_interfaces()]
        said = json.dumps([token, faces, server.getsockname()[1]]).encode()
        token, addresses, port = json.loads(broadcast_bytes(comm, said))
        lines = {} if comm.is_main else _called(comm.rank, token, addresses, port)
        # A line is there when the kernel has taken the call, so rank 0 need not answer before.
        told = gather_json(comm, [lines is not None, socket.gethostname()])
        are_through = all(is_through for is_through, _ in told)
        if comm.is_main and are_through:
            lines = _answered(server, comm.size, token)
    return lines if are_through else None, [host for _, host in told]


def _called(rank: int, token: str, addresses: list[str], port: int) -> dict[int, Line] | None:
    """By the first address that leads to rank 0 and not to somebody else there."""
    for address in addresses:
        try:
            connection = socket.create_connection((address, port), _CONNECT_SECONDS)
        except OSError:
            continue
        line = Line(connection)
        line.send(token=token, rank=rank)
        if line.is_open:
            return {0: line}
    return None


def _answered(server: socket.socket, size: int, token: str) -> dict[int, Line]:
    """Those who know the token, until all have called."""
    lines: dict[int, Line] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(server, selectors.EVENT_READ)
        while len(lines) < size - 1:
            for key, _ in selector.select():
                if key.fileobj is server:
                    line = Line(server.accept()[0])
                    selector.register(line.connection, selectors.EVENT_READ, line)
                    continue
                line = key.data
                for message in line.receive():
                    if message.get("token") == token:
                        lines[message["rank"]] = line
                if line in lines.values() or not line.is_open:
                    selector.unregister(line.connection)
    return lines
