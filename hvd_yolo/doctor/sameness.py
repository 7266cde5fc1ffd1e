"""What must be equal on all ranks: packages, source, interpreter and environment."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from hvd_yolo.doctor.facts import Facts
from hvd_yolo.doctor.findings import Finding, on
from hvd_yolo.doctor.routes import INTERFACE_VARIABLES

# Others than these have never been seen to matter from one patch version to the next.
_DECISIVE = ("torch", "horovod", "hvd_yolo", "cuda")

# Variables by which launchers tell each rank its own place, or that may well differ by host.
_OWN = re.compile(
    r"HOROVOD_(RANK|SIZE|LOCAL_|CROSS_|HOSTNAME|GLOO_RENDEZVOUS|GLOO_TIMEOUT|SECRET|THREAD_AFFINITY"
    r"|ELASTIC)|OMPI_MCA_(?!btl|pml|mtl|coll|osc|oob_tcp|opal|mpi_)|OMPI_MCA_mpi_oversubscribe"
    r"|SLURM_|TORCHELASTIC_|UCX_NET_DEVICES"
    r"|CUDA_(VISIBLE_DEVICES|DEVICE_ORDER|HOME|PATH|ROOT|CACHE_PATH)"
)


def judge(facts: list[Facts]) -> list[Finding]:
    """Where ranks differ."""
    return [*_versions(facts), *_code(facts), *_interpreters(facts), *_variables(facts)]


def _odd(facts: list[Facts], values: Sequence[str]) -> list[Facts]:
    """The ranks whose value is not that of the most; the one of rank 0, if as many have it."""
    counts = Counter(values)
    usual = max(counts, key=counts.__getitem__)
    return [found for found, value in zip(facts, values, strict=True) if value != usual]


def _told(facts: list[Facts], values: Sequence[str]) -> str:
    """Which ranks have which value, at most three of them."""
    ranks: dict[str, list[Facts]] = {}
    for found, value in zip(facts, values, strict=True):
        ranks.setdefault(value, []).append(found)
    parts = [
        f"{value} on rank {group[0].rank} ({group[0].host})"
        + ("", " and 1 other", f" and {len(group) - 1} others")[min(len(group), 3) - 1]
        for value, group in list(ranks.items())[:3]
    ]
    more = f", and {len(ranks) - 3} more" if len(ranks) > 3 else ""
    return ", ".join(parts) + more


def _versions(facts: list[Facts]) -> Iterator[Finding]:
    for package in dict.fromkeys(name for found in facts for name in found.versions):
        values = [found.versions.get(package, "missing") for found in facts]
        odd = _odd(facts, values)
        if odd:
            yield on(
                odd, "error" if package in _DECISIVE else "warning", "versions-differ",
                f"{package}: {_told(facts, values)}",
                "set the hosts up alike: `make setup` from one checkout on each, or one container "
                "image",
            )  # fmt: skip


def _code(facts: list[Facts]) -> Iterator[Finding]:
    values = [found.code for found in facts]
    odd = _odd(facts, values)
    if odd:
        yield on(
            odd, "error", "code-differs",
            f"the source of hvd_yolo: {_told(facts, values)}",
            "bring all hosts to one commit (git status --short shows local changes), or put the "
            "checkout on a shared disk",
        )  # fmt: skip


def _interpreters(facts: list[Facts]) -> Iterator[Finding]:
    values = [found.executable for found in facts]
    odd = _odd(facts, values)
    main = facts[0]
    is_alike = all((f.versions, f.code) == (main.versions, main.code) for f in facts)
    if odd:
        yield on(
            odd, "info" if is_alike else "warning", "python-differs",
            f"the interpreter: {_told(facts, values)}",
            "start the job with the full path of one Python that every host has, in place of "
            "`python`",
        )  # fmt: skip


def _variables(facts: list[Facts]) -> Iterator[Finding]:
    for name in sorted({name for found in facts for name in found.variables}):
        values = [found.variables.get(name, "not set") for found in facts]
        is_own = _OWN.match(name) or name in INTERFACE_VARIABLES
        odd = [] if is_own else _odd(facts, values)
        if odd:
            yield on(
                odd, "warning", "environment-differs",
                f"{name}: {_told(facts, values)}",
                f"set it for all ranks: `horovodrun` hands on what it was started with, mpirun "
                f"needs -x {name}; see ~/.bashrc of the hosts",
            )  # fmt: skip
