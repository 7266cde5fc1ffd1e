"""Several hosts on this machine, by netlab.sh, for tests and benchmarks."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SCRIPT = str(Path(__file__).with_name("netlab.sh"))
REPOSITORY = Path(__file__).parents[2]
NEEDED = ("ip", "tc", "nsenter", "unshare", "ssh-keygen")


def missing() -> str:
    """Why this machine cannot make hosts, empty when it can."""
    if os.geteuid() != 0:
        return "several hosts need root"
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if not Path("/usr/sbin/sshd").exists():
        absent.append("sshd")
    return f"several hosts need {', '.join(absent)}" if absent else ""


@dataclass(frozen=True)
class Hosts:
    """node1 to nodeN, joined by eth0; the file system is shared."""

    names: tuple[str, ...]
    environment: Mapping[str, str]

    def lab(self, *arguments: str) -> None:
        """A command of netlab.sh: rate NODE 100mbit, link NODE down, kill NODE, boot NODE."""
        subprocess.run([SCRIPT, *arguments], check=True, env=self.environment)

    def rate(self, rate: str) -> None:
        """Limits every node's link, both ways; "off" lifts the limit."""
        for name in self.names:
            self.lab("rate", name, rate)

    def start(self, node: str, command: Sequence[str], **environment: str) -> subprocess.Popen[str]:
        """Starts a command in a node, in the repository; its output is in pipes."""
        said = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            **environment,
        }
        exports = [f"{key}={value}" for key, value in said.items()]
        line = f"cd {shlex.quote(str(REPOSITORY))} && exec {shlex.join(command)}"
        return subprocess.Popen(
            [SCRIPT, "exec", node, "env", *exports, "bash", "-c", line],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=self.environment,
        )  # fmt: skip

    def run(
        self, node: str, command: Sequence[str], timeout: float = 300, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a node to its end."""
        process = self.start(node, command, **environment)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def sent_bytes(self, node: str) -> int:
        """Bytes that have left a node's eth0 since it was made."""
        file = "/sys/class/net/eth0/statistics/tx_bytes"
        # sysfs shows the network namespace it was mounted in, so it is mounted anew.
        line = f"mount -t sysfs sysfs /mnt && cat {file.replace('/sys/', '/mnt/')}; umount /mnt"
        command = [SCRIPT, "exec", node, "bash", "-c", line]
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=self.environment
        )
        return int(done.stdout)


def horovodrun(ranks: Mapping[str, int], arguments: Sequence[str], *options: str) -> list[str]:
    """The command that starts `python ARGUMENTS` on so many ranks of each host, over Gloo."""
    hosts = ",".join(f"{name}:{slots}" for name, slots in ranks.items())
    line = ["horovodrun", "-np", str(sum(ranks.values())), "-H", hosts]
    return [*line, "--gloo", "--network-interface", "eth0", *options, sys.executable, *arguments]


def mpirun(ranks: Mapping[str, int], arguments: Sequence[str], *options: str) -> list[str]:
    """The same over MPI."""
    hosts = ",".join(f"{name}:{slots}" for name, slots in ranks.items())
    line = ["mpirun", "-np", str(sum(ranks.values())), "-H", hosts, "--bind-to", "none"]
    exported = [part for name in ("PATH", "OMP_NUM_THREADS") for part in ("-x", name)]
    return [*line, *exported, *options, sys.executable, *arguments]


@contextmanager
def made(number: int, folder: Path) -> Iterator[Hosts]:
    """So many hosts, and none of them afterwards. folder: for their files."""
    prefix = f"hy{os.getpid() % 10000}"
    # What this shell sets for OpenBLAS ssh would not hand on: a difference between the hosts.
    own = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
    environment = {**own, "NETLAB": str(folder), "NETLAB_PREFIX": prefix}
    hosts = Hosts(tuple(f"node{i + 1}" for i in range(number)), environment)
    try:
        hosts.lab("up", str(number))
        yield hosts
    finally:
        hosts.lab("down")
