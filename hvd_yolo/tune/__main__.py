"""`horovodrun -np 8 python -m hvd_yolo.tune --space space.yaml --trials 40 --ranks_per_trial 2 --
--data coco.yaml --epochs 30`: searches for the best options of training inside one job."""

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from hvd_yolo import cli
from hvd_yolo.comm import Comm, agree, children, connect, gather_json, launch
from hvd_yolo.config import CommConfig, parse, parse_train
from hvd_yolo.config.run_options import is_lowest_best
from hvd_yolo.config.tune_verb import TuneConfig
from hvd_yolo.errors import InputError, Stopped
from hvd_yolo.processes import end_with_launcher
from hvd_yolo.stopping import ALL_SAVED, StopRequest
from hvd_yolo.tune import showing
from hvd_yolo.tune.agent import Agent, serve
from hvd_yolo.tune.groups import divide
from hvd_yolo.tune.job import Job
from hvd_yolo.tune.search import Rules, Search, journal
from hvd_yolo.tune.space import Space, check_space, read_space
from hvd_yolo.watchdog import channel

logger = logging.getLogger("hvd_yolo.tune")


class Ranks(NamedTuple):
    """How rank 0 reaches the others, the host of each, and what it does for its own child."""

    lines: dict[int, channel.Line]
    hosts: list[str]
    agent: Agent


def main(argv: Sequence[str]) -> None:
    """Exit code 0 when all trials are over, 2 when the search was refused, 75 when it was stopped
    on request. Every rank calls it."""
    argv = list(argv)
    place = argv.index("--") if "--" in argv else len(argv)
    config = parse(TuneConfig, argv[:place], "hvd_yolo.tune")
    fixed = [*argv[place + 1 :], "--eval.metric", config.metric]
    with_gpus = parse_train(fixed).device != "cpu"
    environment = children.own_environment()
    with StopRequest() as stop:
        end_with_launcher(stop)
        comm = connect(CommConfig(), "cpu")
        cli.speak_as(comm.rank)
        with agree(comm):
            space = _check(config, fixed, comm)
        ranks = _ranks(comm, environment, with_gpus)
        children.leave(comm)
        with stop.deferred():
            if comm.rank != 0:
                sys.exit(serve(ranks.agent, ranks.lines[0], stop))
            _lead(config, fixed, space, ranks, stop)


def _check(config: TuneConfig, fixed: Sequence[str], comm: Comm) -> Space:
    """The space, on rank 0; all else that can be wrong before the ranks are agents."""
    if launch.is_elastic():
        raise InputError("a search does not go with --host-discovery-script: name the hosts")
    if config.ranks_per_trial > comm.size:
        raise InputError(
            f"--ranks_per_trial {config.ranks_per_trial}, but the job has {comm.size} ranks"
        )
    if config.ranks_per_trial > 1:
        children.check_gloo()
    said = parse_train(fixed)
    on_cpu = said.device == "cpu" or torch.cuda.device_count() == 0
    if said.batch_size == -1 and on_cpu and comm.size > config.ranks_per_trial:
        raise InputError(
            "batch_size -1: trials side by side would each take the memory of the host; give "
            "--batch_size a number"
        )
    if not comm.is_main:
        return {}
    if config.plots:
        showing.check_plots()
    space = read_space(config.space, config.sampler == "grid")
    if "eval.metric" in space:
        raise InputError(f"{config.space}: eval.metric is told by --metric")
    check_space(space, fixed)
    with journal(Path(config.output)) as storage:
        _open_search(config, fixed, space, storage)
    return space


def _open_search(config: TuneConfig, fixed: Sequence[str], space: Space, storage: object) -> Search:
    """The search of --output, which may be an old one."""
    rules = Rules(
        config.sampler, config.pruner, config.min_epochs, config.reduction, config.seed,
        is_lowest_best(config.metric),
    )  # fmt: skip
    settings = {
        "space": {key: repr(values) for key, values in space.items()},
        "options after --": list(fixed),
        **{f"--{name}": getattr(config, name) for name in _KEPT},
    }
    return Search(storage, space, rules, config.trials, settings)


# What all trials of a search have in common.
_KEPT = ("ranks_per_trial", "metric", "sampler", "pruner", "min_epochs", "reduction", "seed")


def _ranks(comm: Comm, environment: dict[str, str], with_gpus: bool) -> Ranks:
    """Joins the ranks by lines, and finds what is this one's own: CPUs and a GPU."""
    places = gather_json(comm, launch.place(comm.device))
    with agree(comm):
        gpu = children.gpu_of(comm, environment) if with_gpus else {}
    lines, hosts = channel.connect(comm)
    if lines is None:
        raise InputError(
            "ranks find no TCP connection to rank 0: open all ports between the hosts; "
            "`python -m hvd_yolo.doctor`, started the same way, tells more"
        )
    for line in lines.values():
        line.notice_silence()
    cpus = children.cpus_of(comm.rank, places, comm.own_cpus)
    return Ranks(lines, hosts, Agent({**environment, **gpu}, cpus))


def _lead(
    config: TuneConfig, fixed: Sequence[str], space: Space, ranks: Ranks, stop: StopRequest
) -> None:
    """Rank 0 alone."""
    groups, idle = divide(ranks.hosts, config.ranks_per_trial)
    folder = Path(config.output)
    if idle:
        logger.info("idle, for trials take %d ranks: rank %s", config.ranks_per_trial, _join(idle))
    with journal(folder) as storage:
        search = _open_search(config, fixed, space, storage)
        logger.info(
            "%d trials, %d side by side; %d are over, %d go on: %s", search.num_trials,
            len(groups), len(search.trials()) - len(search.unfinished), len(search.unfinished),
            folder,
        )  # fmt: skip
        job = Job(search, groups, ranks.hosts, ranks.lines, ranks.agent, stop)
        write = partial(_write, folder, search, space, fixed, config)
        try:
            asked = job.run(folder, fixed, config.metric, config.grace, write)
            # Also where all was over, and the job before was killed before it wrote.
            write()
            if config.plots:
                showing.draw(folder / "plots", search, space, config.metric)
        except InputError:
            job.end(2)
            raise
        if asked:
            job.end(75)
            raise Stopped(f"stopped by {asked}{ALL_SAVED}")
        job.end(0)
    best = search.best()
    told = f"best {config.metric} {best.value:.4f}, {folder}/best.yaml" if best else "none complete"
    logger.info("done: %d trials; %s", len(search.trials()), told)


def _write(
    folder: Path, search: Search, space: Space, fixed: Sequence[str], config: TuneConfig
) -> None:
    showing.write_trials(folder / "trials.csv", search, space)
    showing.write_best(folder / "best.yaml", search, fixed, config.metric, config.ranks_per_trial)


def _join(ranks: Sequence[int]) -> str:
    return ", ".join(map(str, ranks))


if __name__ == "__main__":
    cli.run(main)
