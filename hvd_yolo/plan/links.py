"""What joins the ranks: named links with what is assumed of them, and links that the doctor
measured."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from hvd_yolo.errors import InputError


@dataclass(frozen=True)
class Link:
    """A link that each rank sends and receives over at once.

    bandwidth: usable bytes a second each way; latency: seconds of one hop of a ring; start: seconds
    from a message's release to its first hop, until the engine looks for work, which is half of its
    cycle on average, and all ranks have agreed on it; cpu: core-seconds a rank spends for each byte
    it sends, the receiving and adding of as many included (0 where a GPU or a network card does
    it).
    """

    name: str
    bandwidth: float
    latency: float
    start: float
    cpu: float
    source: str


_TCP_CPU = 2.5e-9
_TCP_HOP = 50e-6
_TCP = "TCP with 94 % of the line rate"
# Horovod's own, where nothing is said to it.
_CYCLE_MS = 1.0
NAMED = {
    link.name: link
    for link in (
        Link("1GbE", 0.94 * 1e9 / 8, 50e-6, 0.0, _TCP_CPU, _TCP),
        Link("10GbE", 0.94 * 10e9 / 8, 30e-6, 0.0, _TCP_CPU, _TCP),
        Link("25GbE", 0.90 * 25e9 / 8, 10e-6, 0.0, 0.0, "RoCE with 90 % of the line rate"),
        Link("100G-IB", 0.92 * 100e9 / 8, 5e-6, 0.0, 0.0, "RDMA with 92 % of the line rate"),
        Link(
            "NVLink",
            230e9,
            5e-6,
            0.0,
            0.0,
            "bus bandwidth of nccl-tests on 8 A100 with NVSwitch",
        ),
        Link("loopback", 400e6, 50e-6, 0.0, _TCP_CPU, "TCP between processes of one host"),
    )
}


def open_link(text: str, cycle: float, least_hosts: int) -> Link:
    """The link of that name, or the one measured in a JSON file of `hvd_yolo.doctor --json`, as a
    training meets it whose engine looks for work every `cycle` seconds.

    Raises InputError when it is neither, or the file holds no allreduce over so many hosts.
    """
    if text in NAMED:
        return replace(NAMED[text], start=cycle / 2)
    file = Path(text)
    if not file.is_file():
        raise InputError(
            f"link {text}: neither a name ({', '.join(NAMED)}) nor a file that "
            "`python -m hvd_yolo.doctor --json FILE` wrote"
        )
    return _measured(file, cycle, least_hosts)


def _measured(file: Path, cycle: float, least_hosts: int) -> Link:
    """The doctor's fit is of a whole allreduce: bytes a second that a rank sends, and the seconds
    of an empty one. Those are 2 (N - 1) hops of the ring, which grow with N, and the start, which
    does not; it is taken to be all that is above the hops of a TCP link."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        found, settings = content["link"], content["settings"]
        size, num_hosts = int(found["size"]), int(found["hosts"])
        bandwidth, latency = float(found["bandwidth"] or 0.0), float(found["latency"])
        cpu = float(found.get("cpu_seconds_per_byte", _TCP_CPU))
        doctors_cycle = float(settings.get("HOROVOD_CYCLE_TIME", _CYCLE_MS)) / 1e3
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"link {file}: no measured allreduce in it ({error!r}); write it with "
            "`python -m hvd_yolo.doctor --json FILE` on two ranks or more"
        ) from error
    if size < 2 or bandwidth <= 0:
        raise InputError(
            f"link {file}: {size} rank and a bandwidth of {bandwidth:g} tell nothing of a link; "
            "run the doctor on two hosts or more"
        )
    if num_hosts < least_hosts:
        raise InputError(
            f"link {file}: measured within {num_hosts} host, which tells nothing of the link "
            "between hosts; run the doctor on two hosts or more, or give the file as --inner_link"
        )
    hops = 2 * (size - 1)
    hop = min(_TCP_HOP, latency / hops)
    start = max(0.0, latency - hops * hop)
    # torch.distributed has no cycle: a message goes when it is there.
    if "torch.distributed" not in settings:
        # The doctor's message follows a barrier, which ended at the beginning of a cycle, and waits
        # for the next, all of a cycle; a gradient appears at any moment of one, and waits for half.
        start = max(0.0, start - doctors_cycle) + cycle / 2
    source = f"{file}, {size} ranks on {num_hosts} hosts"
    return Link("measured", bandwidth, hop, start, cpu, source)
