"""Which interfaces reach all hosts, how fast each host is, and what names the wrong interface."""

import ipaddress
import statistics
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from hvd_yolo.comm import Comm, gather_json
from hvd_yolo.doctor.facts import Facts, leaders
from hvd_yolo.doctor.findings import Finding, on
from hvd_yolo.doctor.interfaces import Interface, listening, own_interfaces, reaches, speed

# Tried at the same time: most of those that do not answer cost their whole timeout.
_THREADS = 128
_NUM_SPEEDS, _SPEED_SECONDS = 2, 0.2

# A host with less than this share of the usual speed has a link of another kind, not another load.
_SLOW_SHARE = 0.25

# Variables by which a library is told its interfaces, and whose flags() set them right; in that of
# NCCL a name stands for all that begin with it.
INTERFACE_VARIABLES = {
    "HOROVOD_GLOO_IFACE": "horovodrun",
    "GLOO_SOCKET_IFNAME": "Gloo",
    "NCCL_SOCKET_IFNAME": "NCCL",
    "OMPI_MCA_btl_tcp_if_include": "mpirun",
    "OMPI_MCA_oob_tcp_if_include": "mpirun",
}


@dataclass
class Host:
    """A host as its first rank sees the network.

    reached: for each of its interfaces by name, and each that it reaches, by its name there, the
    ranks of the hosts that have it. Tried are those of the same name or network; all, where these
    do not join the hosts. outgoing: bytes a second to the next host through each own one.
    """

    rank: int
    interfaces: list[Interface]
    reached: dict[str, dict[str, list[int]]]
    outgoing: dict[str, float]


class Target(NamedTuple):
    """An interface of the host whose first rank is `rank`, tried from the own one `source`."""

    source: Interface
    face: Interface
    port: int
    token: str
    rank: int

    @property
    def is_alike(self) -> bool:
        """Whether the two have one name or one network."""
        return self.face.name == self.source.name or self.face.network == self.source.network


def explore(comm: Comm, facts: list[Facts]) -> list[Host]:
    """What each host reaches; every rank calls it, the first of each host acts."""
    first = [leader.rank for leader in leaders(facts)]
    is_acting = comm.rank in first and len(first) > 1
    own = [face for face in own_interfaces() if not face.is_loopback]
    with listening(own if is_acting else []) as (token, ports):
        told = gather_json(comm, [own_interfaces(), token, ports])
        targets = [
            Target(source, face, ports[face.name], token, rank)
            for rank, (faces, token, ports) in enumerate(told)
            for face in map(Interface._make, faces)
            for source in own
            if is_acting and rank in first and rank != comm.rank and face.name in ports
        ]
        seen = {rank: [Interface._make(face) for face in told[rank][0]] for rank in first}
        good, hosts = _tried(comm, seen, [target for target in targets if target.is_alike])
        if len(hosts) > 1 and not (common_names(hosts) or common_networks(hosts)):
            good, hosts = _tried(comm, seen, targets)
        following = _after(first, comm.rank)
        outgoing = _outgoing(comm, first, [t for t in good if t.rank == following])
        rates = gather_json(comm, outgoing)
        for host in hosts:
            host.outgoing = rates[host.rank]
    return hosts


def tried(targets: list[Target]) -> tuple[list[Target], dict[str, dict[str, list[int]]]]:
    """Those that answer, and their ranks as in Host.reached."""
    with ThreadPoolExecutor(_THREADS) as pool:
        answers = pool.map(_is_reached, targets)
        good = [target for target, answer in zip(targets, answers, strict=True) if answer]
    reached: dict[str, dict[str, list[int]]] = {}
    for target in good:
        there = reached.setdefault(target.source.name, {})
        there.setdefault(target.face.name, []).append(target.rank)
    return good, reached


def _tried(
    comm: Comm, seen: dict[int, list[Interface]], targets: list[Target]
) -> tuple[list[Target], list[Host]]:
    """The targets that this rank reaches, and what all hosts reach; every rank calls it."""
    good, reached = tried(targets)
    told = gather_json(comm, reached)
    return good, [Host(rank, faces, told[rank], {}) for rank, faces in seen.items()]


def common_names(hosts: list[Host]) -> list[str]:
    """The interfaces through which every host reaches every other by that name, the fastest
    first."""
    names = [face.name for face in hosts[0].interfaces if not face.is_loopback]
    common = [name for name in names if _all_reach(hosts, {host.rank: {name} for host in hosts})]
    return sorted(common, key=lambda name: -min(h.outgoing.get(name, 0.0) for h in hosts))


def common_networks(hosts: list[Host]) -> list[str]:
    """The networks (CIDR) in which every host has an interface that reaches every other."""
    networks = {face.network for face in hosts[0].interfaces if not face.is_loopback}
    return sorted(
        network
        for network in networks
        if _all_reach(hosts, {
            host.rank: {face.name for face in host.interfaces if face.network == network}
            for host in hosts
        })
    )  # fmt: skip


def flags(hosts: list[Host]) -> dict[str, str]:
    """What to give each launcher and library so that it takes an interface that reaches all."""
    names, networks = common_names(hosts), common_networks(hosts)
    if len(hosts) == 1 or not (names or networks):
        return {}
    if names:
        return flags_for(names[0])
    network = networks[0]
    there = dict.fromkeys(f.name for host in hosts for f in host.interfaces if f.network == network)
    found = flags_for(network)
    return {"mpirun": found["mpirun"], "NCCL": f"NCCL_SOCKET_IFNAME={','.join(there)}"}


def flags_for(name: str, open_mpi: int = 4) -> dict[str, str]:
    """What makes each launcher and library take one interface; open_mpi: its major version."""
    daemons = "--mca oob_tcp_if_include" if open_mpi == 4 else "--prtemca prte_if_include"
    return {
        "mpirun": f"--mca btl_tcp_if_include {name} {daemons} {name}",
        "horovodrun": f"--network-interface {name}",
        "NCCL": f"NCCL_SOCKET_IFNAME={name}",
        "Gloo": f"GLOO_SOCKET_IFNAME={name}",
    }


def judge(facts: list[Facts], hosts: list[Host]) -> Iterator[Finding]:
    """No common interface, a wrong one named, a host slower than the others."""
    if len(hosts) == 1:
        return
    advice = flags(hosts)
    if not advice:
        yield _none_common(facts, hosts)
    for variable, who in INTERFACE_VARIABLES.items():
        yield from _named(facts, hosts, variable, advice.get(who, f"unset {variable}"))
    yield from _slow(facts, hosts)


def _none_common(facts: list[Facts], hosts: list[Host]) -> Finding:
    """An error where IPv4 does not join the hosts; a warning where it does, by interfaces that
    have nothing in common, and where there is none, for the ranks have talked over IPv6."""
    names = {
        host.rank: {face.name for face in host.interfaces if not face.is_loopback} for host in hosts
    }
    if all(names.values()) and not _all_reach(hosts, names):
        lonely = [facts[host.rank] for host in hosts if not host.reached]
        return on(
            lonely or [facts[host.rank] for host in hosts], "error", "interface-none",
            "no interface by which every host reaches every other",
            "open the TCP ports between the hosts (firewall, security group), and see `ip addr` "
            "and `ip route` on each",
        )  # fmt: skip
    leading = dict.fromkeys(name for host in hosts for name in host.reached)
    return on(
        [facts[host.rank] for host in hosts], "warning", "interface-none",
        "the hosts reach each other, but by interfaces none of one name or IPv4 network",
        "where a job hangs, name those of all hosts (NCCL_SOCKET_IFNAME="
        f"{','.join(leading) or 'NAME,NAME'}), or give them one name (ip link set dev NAME name "
        "lan0)",
    )  # fmt: skip


def _is_reached(target: Target) -> bool:
    return reaches(target.source.address, target.face.address, target.port, target.token)


def _reaches_others(host: Host, hosts: list[Host], chosen: dict[int, set[str]]) -> bool:
    """Whether one host reaches every other, of the chosen interfaces (names by rank) from one of
    its own at one of the other's."""
    return all(
        any(
            other.rank in ranks
            for here, reached in host.reached.items()
            for there, ranks in reached.items()
            if here in chosen[host.rank] and there in chosen[other.rank]
        )
        for other in hosts
        if other is not host
    )


def _all_reach(hosts: list[Host], chosen: dict[int, set[str]]) -> bool:
    return all(_reaches_others(host, hosts, chosen) for host in hosts)


def _named(facts: list[Facts], hosts: list[Host], variable: str, remedy: str) -> Iterator[Finding]:
    """What a variable of the environment names, against what is there and reaches the others."""
    absent, useless = [], []
    everything = {host.rank: {face.name for face in host.interfaces} for host in hosts}
    meant = {}
    for host in hosts:
        value = facts[host.rank].variables.get(variable, "")
        if not value or value.startswith("^"):
            continue
        names = {face.name for face in host.interfaces if _is_named(face, variable, value)}
        if not names:
            absent.append(facts[host.rank])
        elif not _reaches_others(host, hosts, everything | {host.rank: names}):
            useless.append(facts[host.rank])
        else:
            meant[host.rank] = names
    # Each of them leads to the others, but maybe to another interface than the others name.
    for host in hosts:
        if host.rank in meant and not _reaches_others(host, hosts, everything | meant):
            useless.append(facts[host.rank])
    if absent:
        value = absent[0].variables[variable]
        what = f"{variable}={value}: no such interface with an IPv4 address"
        yield on(absent, "error", "interface-missing", what, remedy)
    if useless:
        value = useless[0].variables[variable]
        what = f"{variable}={value}: it does not reach the other hosts"
        yield on(useless, "error", "interface-unreachable", what, remedy)


def _is_named(face: Interface, variable: str, value: str) -> bool:
    for part in value.split(","):
        if "/" in part:
            network = ipaddress.ip_network(part.strip(), strict=False)
            if ipaddress.ip_address(face.address) in network:
                return True
        elif variable.startswith("NCCL") and not value.startswith("="):
            if face.name.startswith(part.strip()):
                return True
        elif face.name == part.strip().removeprefix("="):
            return True
    return False


def _slow(facts: list[Facts], hosts: list[Host]) -> Iterator[Finding]:
    """Of a host's two measurements, to the next and from the one before, the better counts: the
    other may be the neighbour's."""
    outgoing = [max(host.outgoing.values(), default=0.0) for host in hosts]
    best = [max(rate, outgoing[i - 1]) for i, rate in enumerate(outgoing)]
    usual = statistics.median(best)
    for host, rate in zip(hosts, best, strict=True):
        if rate < _SLOW_SHARE * usual:
            yield on(
                [facts[host.rank]], "warning", "link-slow",
                f"{rate / 1e6:.0f} MB/s to and from {facts[host.rank].host}, the others have "
                f"{usual / 1e6:.0f} MB/s: all ranks wait for it",
                "ethtool INTERFACE shows the speed that was agreed on; see cable, switch port and "
                "tc qdisc, or leave the host out",
            )  # fmt: skip


def _after(first: list[int], rank: int) -> int:
    return first[(first.index(rank) + 1) % len(first)] if rank in first else -1


def _outgoing(comm: Comm, first: list[int], routes: list[Target]) -> dict[str, float]:
    """Bytes a second to the next host through each own interface; no two measurements share a host
    at a time."""
    if len(first) == 1:
        return {}
    place = first.index(comm.rank) if comm.rank in first else -1
    is_last_of_odd = place == len(first) - 1 and len(first) % 2
    turn = 2 if is_last_of_odd else place % 2
    rates: dict[str, float] = {}
    for now in range(2 + len(first) % 2):
        for route in routes if now == turn else ():
            # The best of some: a host that is busy for a moment has no slow link.
            found = max(
                speed(route.source.address, route.face.address, route.port, _SPEED_SECONDS)
                for _ in range(_NUM_SPEEDS)
            )
            rates[route.source.name] = max(found, rates.get(route.source.name, 0.0))
        comm.barrier()
    return rates
