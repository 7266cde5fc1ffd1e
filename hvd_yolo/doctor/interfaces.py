"""Network interfaces, and a listener on each through which other hosts find out what they reach."""

import fcntl
import ipaddress
import os
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

# linux/sockios.h
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
_CONNECT_SECONDS = 1.5
_ANSWER_SECONDS = 10.0
_TOKEN_BYTES = 16
_CHUNK = bytes(1 << 16)
# Enough to fill a link's pipe; more would only delay the end of a short measurement.
_SEND_BUFFER = 1 << 18


class Interface(NamedTuple):
    """An interface with its IPv4 address and network (CIDR)."""

    name: str
    address: str
    network: str

    @property
    def is_loopback(self) -> bool:
        """Whether nothing but this host is behind it."""
        return ipaddress.ip_address(self.address).is_loopback


def own_interfaces() -> list[Interface]:
    """Those of this host that have an IPv4 address, loopback included."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                address, mask = (
                    socket.inet_ntoa(fcntl.ioctl(asked, number, request)[20:24])
                    for number in (_SIOCGIFADDR, _SIOCGIFNETMASK)
                )
            except OSError:
                # It has none.
                continue
            network = ipaddress.ip_network(f"{address}/{mask}", strict=False)
            found.append(Interface(name, address, str(network)))
    return found


class _Answer(socketserver.BaseRequestHandler):
    """Says who listens, then takes what is sent and says so at its end."""

    def handle(self) -> None:
        """Ends when the other side does."""
        self.request.settimeout(_ANSWER_SECONDS)
        try:
            self.request.sendall(self.server.token)
            while self.request.recv(1 << 20):
                pass
            self.request.sendall(b"\n")
        except OSError:
            # The other side went away, and knows.
            return


class _Listener(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: str, token: bytes) -> None:
        self.token = token
        super().__init__((address, 0), _Answer)


@contextmanager
def listening(interfaces: list[Interface]) -> Iterator[tuple[str, dict[str, int]]]:
    """Inside, this process answers on every interface: the token (hex) by which it is known, and
    the port of each interface by name."""
    token = os.urandom(_TOKEN_BYTES)
    with ExitStack() as stack:
        ports = {}
        for interface in interfaces:
            try:
                listener = stack.enter_context(_Listener(interface.address, token))
            except OSError:
                # An address that cannot be listened on is not reached either.
                continue
            ports[interface.name] = listener.server_address[1]
            threading.Thread(target=listener.serve_forever, args=(0.1,), daemon=True).start()
            stack.callback(listener.shutdown)
        yield token.hex(), ports


def reaches(source: str, address: str, port: int, token: str) -> bool:
    """Whether a connection from the own address `source` ends at the process known by `token`: two
    hosts may have one address, as all that run Docker have 172.17.0.1."""
    try:
        with _connected(source, address, port) as connection:
            return connection.recv(_TOKEN_BYTES, socket.MSG_WAITALL).hex() == token
    except OSError:
        return False


def leads_to(source: str, address: str, port: int) -> bool:
    """Whether a connection from the own address `source` is accepted."""
    try:
        _connected(source, address, port).close()
    except OSError:
        return False
    return True


def speed(source: str, address: str, port: int, seconds: float) -> float:
    """Bytes a second over one TCP connection, measured for about so long; 0 where it breaks."""
    try:
        with _connected(source, address, port) as connection:
            connection.recv(_TOKEN_BYTES, socket.MSG_WAITALL)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            connection.settimeout(_ANSWER_SECONDS)
            sent, started = 0, time.perf_counter()
            while time.perf_counter() - started < seconds:
                sent += connection.send(_CHUNK)
            connection.shutdown(socket.SHUT_WR)
            is_whole = connection.recv(1) == b"\n"
            return sent / (time.perf_counter() - started) if is_whole else 0.0
    except OSError:
        return 0.0


def _connected(source: str, address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), _CONNECT_SECONDS, (source, 0))
