"""Pairs of the same training with and without something, in turn: what it costs."""

import os
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.cluster.test_resume import lines


class Cost(NamedTuple):
    """Updates a second from the first line of metrics.jsonl to the last; seconds and CPU seconds of
    the whole command, start and end included."""

    rate: float
    seconds: float
    cpu: float


def cost_of(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Cost:
    """Runs a training that writes into the folder."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    with open(folder.with_suffix(".log"), "wb") as log:
        subprocess.run(command, check=True, env=environment, stdout=log, stderr=subprocess.STDOUT)
    seconds = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = [(line["step"], line["seconds"]) for line in lines(folder) if line["kind"] == "train"]
    (first, start), (last, end) = told[0], told[-1]
    return Cost((last - first) / (end - start), seconds, cpu)


def in_turn(
    run: Callable[[Path, Sequence[str]], Cost],
    without: Sequence[str],
    others: Sequence[str],
    root: Path,
    num_pairs: int,
) -> list[dict[str, dict[str, float]]]:
    """Pairs of run(folder, options), with the options `without` and `others`, as JSON holds them.
    Prints the ratios of each pair, and their medians."""
    pairs = []
    for number in range(num_pairs):
        arms = {"without": without, "with": others}
        # The first of a pair may find the machine otherwise than the second.
        order = sorted(arms, reverse=number % 2 == 0)
        pairs.append({name: run(root / f"{number}{name}", arms[name]) for name in order})
        print(f"pair {number}: {_ratios(pairs[-1:])}", flush=True)
    print(f"median of {num_pairs} pairs on {os.cpu_count()} cores: {_ratios(pairs)}")
    return [{name: cost._asdict() for name, cost in pair.items()} for pair in pairs]


def _ratios(pairs: Sequence[dict[str, Cost]]) -> str:
    ratios = [Cost(*(b / a for a, b in zip(p["without"], p["with"], strict=True))) for p in pairs]
    rate, seconds, cpu = (statistics.median(column) for column in zip(*ratios, strict=True))
    return f"updates/s x {rate:.3f}, seconds x {seconds:.3f}, CPU seconds x {cpu:.3f}"
