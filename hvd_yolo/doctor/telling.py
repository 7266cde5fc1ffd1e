"""The doctor's findings as text for eyes."""

from collections.abc import Sequence

from hvd_yolo.doctor import routes
from hvd_yolo.doctor.examination import Examination
from hvd_yolo.doctor.facts import Facts
from hvd_yolo.doctor.findings import Finding

# Rows of the rank map; a job of many hosts has its whole in the JSON file.
_MOST_ROWS = 32
_MOST_NAMES = 4


def report(found: Examination) -> str:
    """The rank map, what is in use, the link, and the findings."""
    parts = [_rank_map(found.facts), _overview(found)]
    if found.link.samples:
        parts.append(_link(found))
    return "\n\n".join([*parts, findings_text(found.findings)])


def findings_text(findings: Sequence[Finding]) -> str:
    """Each finding with its remedy, where it has one, below it; or that nothing was found."""
    if not findings:
        return "nothing found"
    return "\n".join(
        f"{finding.severity}: {finding.code}{_where(finding)}: {finding.what}"
        + (f"\n    remedy: {finding.remedy}" if finding.remedy else "")
        for finding in findings
    )


def _where(finding: Finding) -> str:
    names = finding.hosts[:_MOST_NAMES]
    more = len(finding.hosts) - len(names)
    return f" on {', '.join(names)}{f' and {more} more' if more else ''}" if names else ""


def _rank_map(facts: list[Facts]) -> str:
    rows = [["rank", "host", "local", "device", "gpu", "NUMA", "CPUs", "threads", "workers"]]
    for found in facts[:_MOST_ROWS]:
        nodes = ",".join(map(str, found.cpu_nodes)) or "-"
        cells = (found.rank, found.host, found.local_rank, found.device, found.gpu or "-", nodes,
                 found.cpus, found.threads, found.workers)  # fmt: skip
        rows.append([str(cell) for cell in cells])
    table = _table(rows)
    return table if len(facts) <= _MOST_ROWS else f"{table}\nand {len(facts) - _MOST_ROWS} more"


def _overview(found: Examination) -> str:
    main = found.facts[0]
    versions = ", ".join(f"{name} {version}" for name, version in main.versions.items())
    engine = ", ".join(f"{what} {name}" for what, name in main.engine.items())
    lines = [
        f"versions: {versions}; source {main.code}",
        f"engine: {engine or 'one process'}"
        + "".join(f", {name}={value}" for name, value in found.settings.items()),
        f"clocks: within {max(abs(clock.ahead) for clock in found.clocks):.3f} s, measured to "
        f"{max(clock.error for clock in found.clocks):.3f} s",
        f"/dev/shm: {min(f.shm_free for f in found.facts) / 1e9:.1f} GB free at least",
        f"output: {found.disk.folder} ({found.disk.file_system}), {found.disk.free / 1e9:.0f} GB "
        f"free, {found.disk.write_rate / 1e6:.0f} MB/s, {found.disk.small_seconds * 1e3:.1f} ms a "
        "small file",
    ]
    for rank, look in list(found.data_sets.items())[:1]:
        counts = ", ".join(f"{split} {number}" for split, number in look.splits.items())
        kind = f" ({look.file_system}, {look.read_seconds * 1e3:.1f} ms a file)"
        on_disk = kind if look.file_system else ""
        lines.append(f"data: {counts or 'not seen'} on {found.facts[rank].host}{on_disk}")
    advice = routes.flags(found.hosts)
    if advice:
        names = routes.common_names(found.hosts) + routes.common_networks(found.hosts)
        lines.append(f"interfaces that reach all hosts: {', '.join(names)}")
        lines += [f"    {who}: {flag}" for who, flag in advice.items()]
    return "\n".join(lines)


def _link(found: Examination) -> str:
    link = found.link
    ring = 2 * (link.size - 1) / link.size
    rows = [["allreduce", "ms", "MB/s on the wire"]]
    for sample in link.samples:
        rate = ring * sample.bytes / sample.seconds / 1e6
        rows.append([_size(sample.bytes), f"{sample.seconds * 1e3:.2f}", f"{rate:.1f}"])
    rate = "too little time for the bandwidth"
    if link.bandwidth is not None:
        rate = f"{link.bandwidth / 1e6:.1f} MB/s"
    return (
        f"{_table(rows)}\n"
        f"{link.size} ranks on {link.hosts} host{'s' if link.hosts > 1 else ''}: {rate} and "
        f"{link.latency * 1e3:.2f} ms a sum"
    )


def _size(num_bytes: int) -> str:
    for factor, unit in ((1_000_000, "MB"), (1_000, "kB")):
        if num_bytes >= factor:
            return f"{num_bytes // factor} {unit}"
    return f"{num_bytes} B"


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Columns two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
