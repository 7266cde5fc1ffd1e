"""Asks every host over ssh, before anything is started there, and names what is wrong with it."""

import json
import os
import queue
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import NamedTuple

from hvd_yolo.doctor.interfaces import own_interfaces
from hvd_yolo.errors import InputError
from hvd_yolo.launch.hostfile import Slots
from hvd_yolo.launch.probe import MARK, Found, parse
from hvd_yolo.report.environment import versions

_CONNECT_SECONDS, _ANSWER_SECONDS, _SECONDS_BETWEEN = 10, 60.0, 1.0
# Others than these are the user's own, or differ without harm.
_DECISIVE = ("hvd_yolo", "torch", "horovod")

# What ssh says, and what it means; the first that is found, for a key with a wrong mode is refused
# too. {host}, {port}: how to name the host, and its port, to ssh tools; {file}: what ssh names.
_REFUSALS = (
    (
        r"Could not resolve hostname",
        "there is no host of this name: check it in the list, or add it to DNS or /etc/hosts",
    ),
    (
        r"Permissions \d+ for '([^']+)' are too open|Bad owner or permissions on (\S+)",
        "ssh does not use {file}, which others may read: chmod 600 {file}",
    ),
    (
        r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed",
        "its host key is not the one that is known: if it was set up anew, ssh-keygen -R {host}, "
        "and then ssh {port}{host} once",
    ),
    (
        r"Permission denied",
        "ssh refuses your key: ssh-copy-id {port}{host}; and there ~/.ssh must have mode 700, "
        "~/.ssh/authorized_keys mode 600",
    ),
    (
        r"Connection refused",
        "no ssh server listens: start sshd there, or name its port by --ssh_port",
    ),
    (
        r"timed out|No route to host|Network is unreachable",
        "it does not answer: it is off, or a firewall is between",
    ),
)  # fmt: skip


# What may be over by the next time.
_MAY_PASS = re.compile(
    r"Connection (refused|reset|closed)|timed out|No route to host|Network is unreachable"
)


class HostsDown(InputError):
    """Nothing is wrong with what was asked for, but hosts do not answer now."""


class Ssh(NamedTuple):
    """How ssh reaches the hosts; port 0 and an empty identity leave it to ~/.ssh/config."""

    port: int
    identity: str

    @property
    def options(self) -> list[str]:
        """For the command line of ssh."""
        port = ["-p", str(self.port)] if self.port else []
        return [*port, *(["-i", self.identity] if self.identity else [])]


def is_here(host: str) -> bool:
    """Whether a name leads to this machine, as horovodrun has it: by its address, which must be
    that of an interface (127.0.1.1 is of none), for it reaches others by ssh."""
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return False
    return address in {face.address for face in own_interfaces()}


class _Probe:
    """The probe on one host, as it runs."""

    def __init__(self, host: str, ssh: Ssh) -> None:
        self.host, self._ssh = host, ssh
        self.is_down = False
        command = [sys.executable, "-m", "hvd_yolo.launch.probe"]
        if not is_here(host):
            # Where the folder is missing, horovodrun goes on too.
            line = f"cd {shlex.quote(os.getcwd())} 2>/dev/null; exec {shlex.join(command)}"
            quiet = ("-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=accept-new")
            limit = ("-o", f"ConnectTimeout={_CONNECT_SECONDS}")
            command = ["ssh", *quiet, *limit, *ssh.options, host, line]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        # A shell may say something before, in its .bashrc.
        for line in self._process.stdout:
            if line.startswith(MARK):
                self._lines.put(line.removeprefix(MARK))
        self._lines.put("")

    def answer(self, deadline: float) -> str:
        """A line of it, or empty where it ended, or did not answer in time."""
        try:
            return self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            return ""

    def tell(self, line: str) -> None:
        """Says a line to it."""
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            # That it is gone is seen when it does not answer.
            return

    def fault(self) -> str:
        """Why it gave no answer, with the remedy; sets is_down."""
        if self._process.poll() is None:
            time.sleep(0.2)
        if self._process.poll() is None:
            self.is_down = True
            return f"it has not answered within {_ANSWER_SECONDS:g} s: look at its load and disks"
        said = self._process.stderr.read().strip()
        if self._process.returncode == 255:
            return self._refusal(said)
        last = said.splitlines()[-1] if said else f"code {self._process.returncode}"
        if self._process.returncode in (126, 127):
            return (
                f"it has no {sys.executable} ({last}): set it up at the same path (make setup), "
                "or put the checkout on a shared disk"
            )
        return (
            f"{sys.executable} is there, but cannot run hvd_yolo ({last}): it is another one, or "
            "not whole; make setup in the checkout there"
        )

    def _refusal(self, said: str) -> str:
        port = f"-p {self._ssh.port} " if self._ssh.port else ""
        self.is_down = _MAY_PASS.search(said) is not None
        for pattern, meaning in _REFUSALS:
            if match := re.search(pattern, said):
                file = next((name for name in match.groups() if name), "")
                return meaning.format(host=self.host, port=port, file=file)
        return f"ssh: {said.splitlines()[-1] if said else 'no reason given'}"

    def end(self) -> None:
        """Lets it go."""
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._process.stderr.close()


def ask(
    slots: Sequence[Slots], ssh: Ssh, seconds: float = 0
) -> tuple[list[Found], list[dict[str, dict]]]:
    """What the hosts are, and what each reaches of the others (see probe.reached), asked again for
    so many seconds while one does not answer; and at the end of both this machine, which they must
    reach too, if it is none of them. Raises InputError with a line for each host that cannot train,
    HostsDown where they all are down."""
    hosts = [host for host, _ in slots]
    lonely = [host for host in hosts if host in ("localhost", "127.0.0.1")]
    if lonely and len(hosts) > 1:
        raise InputError(
            f"{lonely[0]} is in a list of several hosts, where it means another one on each: give "
            f"the name by which the others reach it ({socket.gethostname()})"
        )
    with ExitStack() as stack:
        here = [] if any(map(is_here, hosts)) else ["localhost"]
        probes, lines = _begun([*hosts, *here], ssh, time.monotonic() + seconds)
        for probe in probes:
            stack.callback(probe.end)
        found = [parse(line) for line in lines]
        _refuse_unlike(hosts, found[: len(hosts)])
        for probe in probes:
            probe.tell(json.dumps(found))
        reached = [json.loads(line) for line in _answers(probes)]
    return found, reached


def _begun(hosts: list[str], ssh: Ssh, deadline: float) -> tuple[list[_Probe], list[str]]:
    """The probes of all hosts, and the first line of each."""
    while True:
        probes = [_Probe(host, ssh) for host in hosts]
        try:
            return probes, _answers(probes)
        except InputError:
            for probe in probes:
                probe.end()
            if time.monotonic() > deadline:
                raise
            time.sleep(_SECONDS_BETWEEN)


def _answers(probes: list[_Probe]) -> list[str]:
    """A line of each."""
    deadline = time.monotonic() + _ANSWER_SECONDS
    lines = [probe.answer(deadline) for probe in probes]
    silent = [probe for probe, line in zip(probes, lines, strict=True) if not line]
    faults = [f"{probe.host}: {probe.fault()}" for probe in silent]
    _refuse(faults, HostsDown if all(probe.is_down for probe in silent) else InputError)
    return lines


def _refuse_unlike(hosts: list[str], found: list[Found]) -> None:
    """One machine under two names, and hosts that are not set up as this one."""
    names = [one.name for one in found]
    own, python = versions(), ".".join(map(str, sys.version_info[:2]))
    faults = []
    for host, one in zip(hosts, found, strict=True):
        first = hosts[names.index(one.name)]
        if first != host:
            faults.append(
                f"{host}: it calls itself {one.name}, as {first} does: list one machine once, and "
                "give each host a name of its own (hostnamectl set-hostname)"
            )
        if one.python.split(".")[:2] != python.split("."):
            faults.append(
                f"{host}: {sys.executable} is Python {one.python} there and {python} here: set the "
                "hosts up alike (make setup from one checkout), or use one container image"
            )
        for package in _DECISIVE:
            here, there = own.get(package), one.packages.get(package)
            if here != there:
                faults.append(
                    f"{host}: {package} is {there or 'missing'} there and {here or 'missing'} "
                    "here: make setup in the checkout there, or use one container image"
                )
    _refuse(faults)


def _refuse(faults: Sequence[str], kind: type[InputError] = InputError) -> None:
    """One message, a host a line."""
    if faults:
        raise kind("\n  ".join(faults if len(faults) == 1 else ["", *faults]))
