"""Who speaks with whom: the ranks of a host with its first rank, their relay, and the relays with
rank 0, which so has a connection a host."""

import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

from hvd_yolo.comm import Comm, gather_json
from hvd_yolo.doctor.interfaces import own_interfaces
from hvd_yolo.watchdog.channel import Line, answer, answering, call


@dataclass
class Tree:
    """What a rank has of it.

    hosts and relays: of each rank, its host and the rank that it speaks through, 0 for those of
    rank 0's host and for relays. lines: to the ranks at the other ends. On rank 0, `server` takes
    in those that have lost their relay; others have its addresses and port.
    """

    token: str
    hosts: list[str]
    relays: list[int]
    addresses: list[str]
    port: int
    lines: dict[int, Line] = field(default_factory=dict)
    server: socket.socket | None = None

    def call_main(self, rank: int) -> Line | None:
        """A line of this rank to rank 0 itself."""
        return call(rank, self.token, self.addresses, self.port)

    def arrived(self) -> list[tuple[int, Line]]:
        """On rank 0, the ranks that have called since it was last asked."""
        callers = []
        while self.server is not None and (caller := answer(self.server, self.token)):
            callers.append(caller)
        return callers

    def close(self) -> None:
        """Hangs up, and takes in nobody any more."""
        for line in self.lines.values():
            line.close()
        if self.server is not None:
            self.server.close()


def relays_of(hosts: Sequence[str]) -> list[int]:
    """Through which rank each one speaks: the first of its host, which itself speaks with rank
    0."""
    first = {host: rank for rank, host in reversed(list(enumerate(hosts)))}
    return [0 if first[host] == rank else first[host] for rank, host in enumerate(hosts)]


def connect(comm: Comm) -> Tree | None:
    """The tree; None on all ranks where one of them finds no way into it. Every rank calls it."""
    server = socket.create_server(("", 0), backlog=comm.size)
    faces = [face.address for face in own_interfaces()]
    own = [socket.gethostname(), faces, server.getsockname()[1], secrets.token_hex(16)]
    told = gather_json(comm, own)
    hosts = [host for host, _, _, _ in told]
    _, addresses, port, token = told[0]
    tree = Tree(token, hosts, relays_of(hosts), addresses, port)
    answered: dict[int, Line] = {}
    parent = -1
    with answering(server, token, answered):
        if not comm.is_main:
            relay = tree.relays[comm.rank]
            line = call(comm.rank, token, *told[relay][1:3])
            # Another host may have the same name.
            if line is None and relay:
                relay, line = 0, tree.call_main(comm.rank)
            if line is not None:
                parent, tree.lines[relay] = relay, line
        # Who has said so has been answered.
        parents = gather_json(comm, parent)
    tree.lines |= answered
    tree.relays = [max(parent, 0) for parent in parents]
    if comm.is_main:
        server.setblocking(False)
        tree.server = server
    else:
        server.close()
    if -1 in parents[1:]:
        tree.close()
        return None
    return tree
