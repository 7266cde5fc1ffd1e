"""What the doctor tells: findings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hvd_yolo.doctor.facts import Facts

Severity = Literal["error", "warning", "info"]
_ORDER = ("error", "warning", "info")


@dataclass
class Finding:
    """Something that is wrong, and what to do about it.

    An error ends a job or makes its result worthless; a warning costs time, or may be meant. `code`
    names the kind and stays the same from version to version. `hosts` and `ranks` are those
    concerned, empty when all are. `remedy` is empty where `what` tells it.
    """

    severity: Severity
    code: str
    what: str
    remedy: str
    hosts: list[str] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)


def on(
    concerned: Iterable[Facts], severity: Severity, code: str, what: str, remedy: str
) -> Finding:
    """A finding about these ranks."""
    concerned = list(concerned)
    hosts = list(dict.fromkeys(facts.host for facts in concerned))
    return Finding(severity, code, what, remedy, hosts, [facts.rank for facts in concerned])


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Errors first, else in the order given."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))
