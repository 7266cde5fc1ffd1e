"""Host-device synchronizations and operators of each training step of a run in this process."""

import collections
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from hvd_yolo.step import Step
from hvd_yolo.train import main

Syncs = Callable[[], AbstractContextManager[collections.Counter[str]]]

# What allocates, learns names or fills queues happens in the first steps; the last one reads what
# is outstanding.
NUM_WARMUP, NUM_STEPS = 3, 6


@dataclass
class PerStep:
    """Means over the steps after the warmup: synchronizations by place, all of them, the most in
    one step, and operators that reached the device (0 on a real one)."""

    by_place: dict[str, float]
    syncs: float
    most: int
    launches: float


def steps_of(arguments: Sequence[str], sync_counts: Syncs) -> PerStep:
    """Trains, and counts from the start of each step to the start of the next."""
    steps: list[collections.Counter[str]] = []
    launches: list[int] = []
    with _counted(sync_counts, steps, launches):
        main([*arguments, "--max_updates", str(NUM_WARMUP + NUM_STEPS + 1), *_QUIET])
    inner = steps[NUM_WARMUP : NUM_WARMUP + NUM_STEPS]
    total = sum(inner, collections.Counter())
    between = [b - a for a, b in itertools.pairwise(launches)][NUM_WARMUP:]
    return PerStep(
        by_place={place: number / NUM_STEPS for place, number in total.most_common()},
        syncs=total.total() / NUM_STEPS,
        most=max(step.total() for step in inner),
        launches=sum(between) / max(1, len(between)),
    )


_QUIET = ("--eval.every", "0", "--report.every", "1000", "--report.plots", "false")


@contextmanager
def _counted(
    sync_counts: Syncs, steps: list[collections.Counter[str]], launches: list[int]
) -> Iterator[None]:
    original = Step.update
    with ExitStack() as counting:

        def update(self: Step, *arguments: object) -> object:
            counting.close()
            launches.append(_num_launches())
            steps.append(counting.enter_context(sync_counts()))
            return original(self, *arguments)

        Step.update = update
        try:
            yield
        finally:
            Step.update = original


def _num_launches() -> int:
    from tests.pretend_cuda import extension

    return sum(extension.extension().launches().values()) if extension.is_loaded() else 0
