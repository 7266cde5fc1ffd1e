"""Lines of JSON between rank 0 and every other rank, beside the collectives and whatever these wait
for."""

import json
import secrets
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from hvd_yolo.comm import Comm, broadcast_bytes, gather_json
from hvd_yolo.doctor.interfaces import own_interfaces

_CONNECT_SECONDS = 3.0
# A rank that does not read is given up; the lines are short.
_SEND_SECONDS = 2.0
_LARGEST_LINE = 1 << 24


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

    def notice_silence(self) -> None:
        """From now on a host at the other end that has gone for 40 seconds closes the line."""
        for option, value in (
            (socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 6),
            (socket.TCP_USER_TIMEOUT, 40_000),
        ):  # fmt: skip
            self.connection.setsockopt(socket.IPPROTO_TCP, option, value)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def close(self) -> None:
        """Hangs up."""
        self.connection.close()


def connect(comm: Comm) -> tuple[dict[int, Line] | None, list[str]]:
    """The lines of this rank by the rank at the other end, of rank 0 to all others, of these to it,
    and the host of each rank. No lines on any rank where one of them finds no way. Every rank calls
    it.
    """
    token = secrets.token_hex(16)
    lines: dict[int, Line] = {}
    with socket.create_server(("", 0), backlog=comm.size) as server:
        faces = [face.address for face in own_interfaces()]
        said = json.dumps([token, faces, server.getsockname()[1]]).encode()
        token, addresses, port = json.loads(broadcast_bytes(comm, said))
        with answering(server, token, lines):
            if not comm.is_main and (line := call(comm.rank, token, addresses, port)):
                lines[0] = line
            # Rank 0 has answered whoever says that it is through.
            told = gather_json(comm, [comm.is_main or bool(lines), socket.gethostname()])
    are_through = all(is_through for is_through, _ in told)
    return lines if are_through else None, [host for _, host in told]


def call(rank: int, token: str, addresses: Sequence[str], port: int) -> Line | None:
    """A line to the process that knows the token, by the first address that leads to it and not to
    somebody else; None where none does."""
    for address in addresses:
        try:
            line = Line(socket.create_connection((address, port), _CONNECT_SECONDS))
            line.send(token=token, rank=rank)
            if next(line.receive(), {}).get("token") == token:
                return line
        except (OSError, ValueError):
            continue
        line.close()
    return None


@contextmanager
def answering(server: socket.socket, token: str, lines: dict[int, Line]) -> Iterator[None]:
    """Inside, whoever calls and knows the token is added to `lines`, by its rank."""
    server.settimeout(0.1)
    is_over = threading.Event()

    thread = threading.Thread(target=_answer_all, args=(server, token, lines, is_over))
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _answer_all(
    server: socket.socket, token: str, lines: dict[int, Line], is_over: threading.Event
) -> None:
    while not is_over.is_set():
        if caller := answer(server, token):
            lines[caller[0]] = caller[1]


def answer(server: socket.socket, token: str) -> tuple[int, Line] | None:
    """The rank that calls, and its line, if it knows the token, which is said back; None where
    nobody has called, or a stranger."""
    try:
        line = Line(server.accept()[0])
    except (TimeoutError, BlockingIOError):
        return None
    try:
        hello = next(line.receive(), {})
    except ValueError:
        hello = {}
    if hello.get("token") == token:
        line.send(token=token)
        return hello["rank"], line
    line.close()
    return None
