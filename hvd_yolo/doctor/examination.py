"""All the looks, in their order, and what they found."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hvd_yolo.comm import Comm, gather_json
from hvd_yolo.config import DoctorConfig
from hvd_yolo.doctor import allreduce, clocks, data_sets, disks, limits, ranks, routes, sameness
from hvd_yolo.doctor.facts import Facts, gather_facts, leaders
from hvd_yolo.doctor.findings import Finding, by_severity


@dataclass
class Examination:
    """Everything the doctor learnt; data_sets is empty when none was named."""

    settings: dict[str, str]
    facts: list[Facts]
    clocks: list[clocks.Clock]
    hosts: list[routes.Host]
    link: allreduce.Link
    disk: disks.Disk
    data_sets: dict[int, data_sets.Look]
    findings: list[Finding]


@dataclass
class Progress:
    """How far the looks have come: the one under way, and what those before it found."""

    look: str = ""
    findings: list[Finding] = field(default_factory=list)


def examine(config: DoctorConfig, comm: Comm, progress: Progress) -> Examination:
    """Looks at the whole job; every rank calls it and gets the same. progress: kept up to date, for
    whoever gives up waiting."""
    findings, loader = progress.findings, config.loader
    progress.look = "gathering the facts of all ranks"
    facts = gather_facts(comm, config.workers)
    findings += ranks.judge(facts, config.device) + sameness.judge(facts)
    findings += limits.judge(facts, loader.prefetch)
    progress.look = "comparing the clocks"
    found_clocks = clocks.measure(comm)
    findings += clocks.judge(facts, found_clocks)
    progress.look = "trying the interfaces"
    hosts = routes.explore(comm, facts)
    findings += routes.judge(facts, hosts)
    progress.look = f"reading --data {config.data}"
    looks = _looks(config.data, comm, facts)
    is_kept = bool(loader.stage) or loader.cache != "none"
    findings += data_sets.judge(facts, looks, is_kept)
    progress.look = f"writing to --output {config.output}"
    disk = disks.try_out(Path(config.output)) if comm.is_main else None
    disk = disks.Disk(**gather_json(comm, dataclasses.asdict(disk) if disk else None)[0])
    findings += disks.judge(facts, disk, config.output)
    progress.look = "measuring sums over all ranks"
    # Last, for the others would disturb it where they wait for a disk.
    link = allreduce.measure(comm, len(hosts), _link_seconds(config, findings))
    return Examination(
        comm.settings, facts, found_clocks, hosts, link, disk, looks,
        by_severity(findings),
    )  # fmt: skip


def as_json(found: Examination) -> dict[str, Any]:
    """The examination as JSON holds it."""
    asdict = dataclasses.asdict
    return {
        "findings": [asdict(finding) for finding in found.findings],
        "engine": found.facts[0].engine,
        "settings": found.settings,
        "ranks": [asdict(facts) for facts in found.facts],
        "clocks": [asdict(clock) for clock in found.clocks],
        "hosts": [
            {**asdict(host), "interfaces": [face._asdict() for face in host.interfaces]}
            for host in found.hosts
        ],
        "interfaces": {
            "names": routes.common_names(found.hosts),
            "networks": routes.common_networks(found.hosts),
            "flags": routes.flags(found.hosts),
        },
        "link": asdict(found.link),
        "output": asdict(found.disk),
        "data": data_sets.as_json(found.data_sets),
    }


def _link_seconds(config: DoctorConfig, findings: list[Finding]) -> float:
    """None where a fault that was found would make the sums fail or wait for ever."""
    is_broken = any(
        finding.code == "gpu-shared"
        or (finding.severity == "error" and finding.code.startswith("interface-"))
        for finding in findings
    )
    return 0.0 if is_broken else config.link_seconds


def _looks(data: str, comm: Comm, facts: list[Facts]) -> dict[int, data_sets.Look]:
    """What the first rank of each host sees of the data set."""
    if not data:
        return {}
    first = [leader.rank for leader in leaders(facts)]
    own = dataclasses.asdict(data_sets.look(data)) if comm.rank in first else None
    told = gather_json(comm, own)
    return {rank: data_sets.Look(**told[rank]) for rank in first}
