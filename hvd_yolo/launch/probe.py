"""What one host says of itself, and whether it reaches the others.

`python -m hvd_yolo.launch.probe` is run over ssh by hvd_yolo.launch; each side says a line of JSON
in turn:

    probe: Found                            who it is, and where it listens
    launch: the Found of all hosts
    probe: {own interface: {interface there: [places of the hosts in that list]}}
"""

import json
import platform
import socket
import sys
from typing import Any, NamedTuple

from hvd_yolo.doctor.interfaces import Interface, listening, own_interfaces
from hvd_yolo.doctor.routes import Target, tried
from hvd_yolo.report.environment import versions

# How its lines begin.
MARK = "hvd_yolo.launch.probe "


class Found(NamedTuple):
    """A host: its name and Python, the versions of packages, its interfaces, and by token (hex) and
    port of each interface what listens on it."""

    name: str
    python: str
    packages: dict[str, str]
    interfaces: list[Interface]
    token: str
    ports: dict[str, int]


def parse(line: str) -> Found:
    """What the probe said first."""
    return _found(json.loads(line))


def reached(own: Found, all_hosts: list[Found]) -> dict[str, dict[str, list[int]]]:
    """What of the others answers this host, from each of its interfaces."""
    _, there = tried(
        [
            Target(source, face, other.ports[face.name], other.token, place)
            for place, other in enumerate(all_hosts)
            if other.token != own.token
            for face in other.interfaces
            if face.name in other.ports
            for source in own.interfaces
            if not source.is_loopback
        ]
    )
    return there


def _found(values: list[Any]) -> Found:
    found = Found(*values)
    return found._replace(interfaces=[Interface(*face) for face in found.interfaces])


def main() -> None:
    """Ends early when the other side goes away."""
    interfaces = own_interfaces()
    with listening([face for face in interfaces if not face.is_loopback]) as (token, ports):
        name, python = socket.gethostname(), platform.python_version()
        own = Found(name, python, versions(), interfaces, token, ports)
        print(MARK + json.dumps(own), flush=True)
        heard = sys.stdin.readline()
        if heard:
            all_hosts = [_found(values) for values in json.loads(heard)]
            print(MARK + json.dumps(reached(own, all_hosts)), flush=True)
            # The others may still be trying this host.
            sys.stdin.readline()


if __name__ == "__main__":
    main()
