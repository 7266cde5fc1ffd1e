"""`python -m hvd_yolo.doctor [--data DATA] [--json FILE]` under the launcher of the job: what is
wrong with its hosts, links and files, in under a minute."""

import json
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from hvd_yolo import cli
from hvd_yolo.checkpoint import save_text
from hvd_yolo.comm import Comm, agree, connect, launch
from hvd_yolo.config import DoctorConfig, parse
from hvd_yolo.doctor.deadline import deadline
from hvd_yolo.doctor.examination import Progress, as_json, examine
from hvd_yolo.doctor.findings import Finding, by_severity
from hvd_yolo.doctor.hanging import hung, way_to_the_launcher
from hvd_yolo.doctor.telling import findings_text, report
from hvd_yolo.errors import InputError, OptionError

# So many times the time to meet for all looks together.
_LOOKS_TIMEOUTS = 3
_LAST_WORDS_SECONDS = 4


def main(argv: Sequence[str]) -> None:
    """Tells on rank 0; exit code 1 when something is an error."""
    config = parse(DoctorConfig, argv, "hvd_yolo.doctor")
    if config.timeout < 1:
        raise InputError(f"timeout is {config.timeout}, it must be at least 1 second")
    comm = _met(config)
    progress = Progress()
    # Where nothing hangs, a large data set on a slow disk takes the longest.
    seconds = _LOOKS_TIMEOUTS * config.timeout
    with deadline(seconds, lambda: _give_up_looking(config, seconds, progress)):
        found = examine(config, comm, progress)
    with agree(comm):
        if comm.is_main:
            print(report(found), flush=True)
            _save(config.json, as_json(found))
    # Only now, for a launcher ends all ranks when one returns 1.
    if any(finding.severity == "error" for finding in found.findings):
        sys.exit(1)


def _met(config: DoctorConfig) -> Comm:
    """The job, or exit code 1 and why there is none."""
    seconds = config.timeout
    lost = hung("the ranks did not meet", seconds, "the hosts are slow to start")
    try:
        with deadline(seconds, lambda: _give_up(config, [lost])):
            return connect(config.comm, config.device, may_share_gpus=True)
    except OptionError:
        raise
    except InputError as error:
        what, _, remedy = str(error).partition(" Remedy: ")
        finding = Finding("error", "not-connected", what, remedy)
        rank = launch.launched_rank()
        if rank == 0:
            _tell_alone(config, [finding])
        else:
            # Rank 0 speaks if it has the error too, and its exit ends this rank.
            time.sleep(_LAST_WORDS_SECONDS)
            finding.hosts, finding.what = [socket.gethostname()], f"rank {rank}: {what}"
            print(findings_text([finding]), flush=True)
        sys.exit(1)


def _give_up_looking(config: DoctorConfig, seconds: float, progress: Progress) -> None:
    slow = "a host, or a disk of --data or --output, is slow"
    lost = hung(f"{progress.look} did not end on all ranks", seconds, slow)
    _give_up(config, [*progress.findings, lost])


def _give_up(config: DoctorConfig, findings: list[Finding]) -> None:
    """Each rank tells what it can alone: rank 0 the findings, the first of each other host its way
    to the launcher."""
    way = way_to_the_launcher()
    if way:
        print(way, flush=True)
    _tell_alone(config, findings)
    # A launcher ends all ranks when one ends; the others are heard before.
    time.sleep(_LAST_WORDS_SECONDS)


def _tell_alone(config: DoctorConfig, findings: list[Finding]) -> None:
    """What is known where the ranks cannot talk, told by the one that was promised rank 0."""
    if launch.launched_rank() == 0:
        findings = by_severity(findings)
        print(findings_text(findings), flush=True)
        _save(config.json, {"findings": [vars(finding) for finding in findings]})


def _save(file: str, content: dict[str, Any]) -> None:
    if not file:
        return
    with cli.output_file("json", file) as path:
        save_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    cli.run(main)
