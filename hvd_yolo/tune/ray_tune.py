"""One trial inside Ray Tune, for those who search with Ray; tried with Ray 2.60."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hvd_yolo.comm import children
from hvd_yolo.errors import InputError
from hvd_yolo.tune.agent import SECONDS_A_LOOK, Agent
from hvd_yolo.tune.space import Value, options

Numbers = dict[str, float | str]


def trainable(fixed: Sequence[str]) -> Callable[[dict[str, Value]], None]:
    """For ray.tune.Tuner(trainable(["--data", "/data/coco.yaml"]), param_space={"optim.lr": ...}):
    trains in one process with the options `fixed` and those of a trial, and reports each eval line.
    Ray changes the working folder, so paths must be absolute."""
    try:
        from ray import tune
    except ImportError as error:
        raise InputError("a search by Ray Tune needs Ray: pip install 'ray[tune]'") from error

    def run(parameters: dict[str, Value]) -> None:
        """One trial, in the folder that Ray gave it."""
        folder = Path(tune.get_context().get_trial_dir(), "run")
        train(folder, fixed, parameters, tune.report)

    return run


def train(
    folder: Path,
    fixed: Sequence[str],
    parameters: Mapping[str, Value],
    report: Callable[[Numbers], object],
) -> None:
    """A training in a process of its own, to its end; `report` gets the numbers of each evaluation.
    Raises RuntimeError when it fails."""
    agent = Agent(children.own_environment(), os.sched_getaffinity(0))
    words = [*fixed, *options(parameters), "--output", str(folder)]
    start = {"do": "start", "folder": str(folder), "rank": 0, "environment": {}, "options": words}
    agent.obey(start, "")
    told: set[float] = set()
    try:
        while True:
            time.sleep(SECONDS_A_LOOK)
            for message in agent.news():
                if message["say"] == "ended" and message["code"] == 0:
                    return
                if message["say"] == "ended":
                    raise RuntimeError(message["words"] or "the training was stopped")
                if message["epoch"] not in told:
                    told.add(message["epoch"])
                    report({**message["numbers"]})
    finally:
        agent.close()
