"""Training: start reading here. fit() is the whole story, in the order it happens.

horovodrun -np 16 -H node1:8,node2:8 python -m hvd_yolo.train --data coco.yaml --model yolov8s
"""

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

from hvd_yolo import cli, feed, patience
from hvd_yolo.comm import Comm, agree, elastic, gather_json, launch
from hvd_yolo.config import Config, flatten
from hvd_yolo.data.dataset import Dataset
from hvd_yolo.errors import InputError, Stopped
from hvd_yolo.models import largest_stride
from hvd_yolo.models.losses import LossesOf, own_losses
from hvd_yolo.pace import Pace, make_pace
from hvd_yolo.processes import end_with_launcher
from hvd_yolo.report import Report, slow_data_remedy
from hvd_yolo.report.banner import banner
from hvd_yolo.saving import Checkpoints
from hvd_yolo.start import Kept, prepare
from hvd_yolo.state import TrainState, share_state
from hvd_yolo.step import Step
from hvd_yolo.stopping import ALL_SAVED, StopRequest
from hvd_yolo.tally import Wishes
from hvd_yolo.watchdog import watched

__all__ = ["TrainState", "fit", "main"]


def fit(
    state: TrainState,
    config: Config,
    comm: Comm,
    train_set: Dataset,
    val_set: Dataset | None,
    report: Report,
    folder: Path,
    stop: StopRequest,
    losses_of: LossesOf = own_losses,
) -> TrainState:
    """Trains the `state` of rank 0 to the end of its run; every rank calls it with the same config
    and data, inside stop.deferred(). Rank 0 writes last.pt, best.pt and the epochs to keep into
    `folder`. Raises on all ranks, with all saved, Stopped when any of them was asked to stop, and
    HostsChanged when ranks of an elastic job come or go."""
    pace = make_pace(config, len(train_set), comm.size)
    share_state(state, comm)
    step = Step(config, comm, pace, stop, report.event, losses_of)
    step.prepare(state)

    stride, start = largest_stride(state.model), (state.epoch, state.images_seen)
    batches, validate = feed.open_loaders(config, comm, train_set, val_set, pace, stride, start)
    checkpoints = Checkpoints(folder, config, train_set, comm, report, stop, state)

    report.resumed_at(state.updates)
    if comm.is_elastic:
        state.commit(comm, report.metrics_bytes)
    while True:
        if state.is_evaluation_due and validate:
            # A rank that is stopped in the evaluation is the end of rank 0, which may still write.
            checkpoints.settle()
            with stop.at_once(unless=comm.is_elastic):
                found = validate(state.ema.module)
            report.evaluation(_epochs(state, train_set), state.updates, found)
            state.is_evaluation_due = False
            step.since_evaluation.restart()
            is_best = patience.is_best(state, found.metrics, config.eval)
            checkpoints.save(state, found.table if is_best else None)
        if pace.is_over(state.epoch, state.updates) or patience.is_lost(state, config.eval):
            checkpoints.settle(is_last=True)
            return state

        rate = step.update(state, batches)

        due = _due_after(step, state, config, comm, pace)
        if due.report:
            window, norm = step.tally.close_window(state), step.grad_norm
            report.train(_epochs(state, train_set), state.updates, rate, norm, window)
        state.is_evaluation_due = validate is not None and due.evaluation
        if step.diverged:
            checkpoints.roll_back(state, step.diverged)
        if due.save or due.commit:
            step.settle(state, due.save)
        if due.save:
            checkpoints.save(state)
        elif due.commit:
            state.commit(comm, report.metrics_bytes)
        if step.wishes.stop or step.wishes.regroup:
            checkpoints.settle(is_last=step.wishes.stop)
            _leave(stop, comm, report, state.updates)


class _Due(NamedTuple):
    """What follows an update."""

    report: bool
    evaluation: bool
    save: bool
    commit: bool


def _due_after(step: Step, state: TrainState, config: Config, comm: Comm, pace: Pace) -> _Due:
    """What is due after step.update(); where anything is, the last update has been read."""
    due = _due(state, config, comm, pace, step.wishes)
    if any(due) or step.diverged:
        # On a GPU it was not yet, and may bring more wishes.
        step.finish(state)
        due = _due(state, config, comm, pace, step.wishes)
    return due


def _due(state: TrainState, config: Config, comm: Comm, pace: Pace, wishes: Wishes) -> _Due:
    """The same on all ranks, for it looks at nothing but what they agree on."""
    is_last = pace.is_over(state.epoch, state.updates)
    has_ended_epoch = state.images_seen == 0
    is_saving_time = _is_time(state.updates, config.checkpoint.every_updates)
    is_evaluation_due = (
        is_last
        or (has_ended_epoch and _is_time(state.epoch, config.eval.every))
        or _is_time(state.updates, config.eval.every_updates)
        or wishes.evaluate
    )
    is_commit_time = comm.is_elastic and _is_time(state.updates, config.comm.commit_every)
    return _Due(
        report=is_last or _is_time(state.updates, config.report.every),
        evaluation=is_evaluation_due,
        # What is evaluated is one for all ranks; see Step.settle.
        save=has_ended_epoch or is_saving_time or is_evaluation_due or any(wishes),
        commit=is_commit_time,
    )


def _leave(stop: StopRequest, comm: Comm, report: Report, updates: int) -> NoReturn:
    """Raises Stopped on all ranks, which have saved, or else HostsChanged; InputError where the
    reason is a fault."""
    told = gather_json(comm, [stop.reason, stop.fault])
    for rank, (_, fault) in enumerate(told):
        if fault:
            raise InputError(f"rank {rank}: {fault}")
    asked = [(rank, reason) for rank, (reason, _) in enumerate(told) if reason]
    if not asked:
        raise elastic.HostsChanged
    rank, reason = asked[0]
    report.event(updates, "stopped", f"{reason} on rank {rank}")
    raise Stopped(f"stopped by {reason} on rank {rank} after update {updates}{ALL_SAVED}")


def main(argv: Sequence[str]) -> None:
    """`python -m hvd_yolo.train`: every rank runs this."""
    with StopRequest() as stop:
        end_with_launcher(stop)
        with ExitStack() as caches:
            kept = Kept(caches)
            elastic.run(partial(_run, argv, stop, kept), lambda: kept.updates)


def _run(argv: Sequence[str], stop: StopRequest, kept: Kept) -> None:
    # From the second time on there is something to lose.
    with stop.deferred() if kept.committed else nullcontext():
        comm, config, train_set, val_set, state, losses_of, metrics_bytes = prepare(argv, kept)
    folder = Path(config.output)
    pace = make_pace(config, len(train_set), comm.size)
    total_updates = pace.total_updates(state.epoch, state.images_seen, state.updates)
    num_workers = launch.loader_workers(config.workers, comm.own_cpus, comm.device)
    remedy = slow_data_remedy(config.loader.cache, num_workers)
    report = Report(
        folder, comm.is_main, comm.size > 1, metrics_bytes, total_updates, remedy, config.report,
        flatten(config),
    )  # fmt: skip
    if kept.num_ranks:
        report.event(state.updates, "regrouped", f"{kept.num_ranks} ranks -> {comm.size}")
    kept.num_ranks = comm.size
    report.say(banner(config, comm, pace, state, train_set, val_set))
    side = feed.largest_side(config, largest_stride(state.model))
    with ExitStack() as stack:
        stack.push(partial(_leave_together, comm))
        stack.enter_context(report)
        with agree(comm):
            if not kept.is_cached:
                train_set = feed.kept(kept.caches, config.loader, train_set, side, comm)
                val_set = val_set and feed.kept(
                    kept.caches, config.loader, val_set, config.imgsz, comm
                )
                kept.sets, kept.is_cached = (train_set, val_set), True
        tell = partial(_tell, report, state)
        comm = stack.enter_context(watched(comm, config.comm.stall_timeout, tell))
        report.watch(comm.lives)
        stop.max_hours = config.max_hours
        with stop.deferred():
            files = folder / "checkpoints"
            try:
                fit(state, config, comm, train_set, val_set, report, files, stop, losses_of)
            finally:
                # Who begins again must not write beside who is still writing.
                stop.before_exit()
        report.say(_last_line(state, config, folder))


def _leave_together(comm: Comm, _kind: object, error: BaseException | None, _: object) -> None:
    """Of ranks that have agreed to stop: launchers end all when the first has ended, and rank 0 may
    still be at its loggers."""
    if isinstance(error, Stopped) and not error.is_alone:
        comm.barrier()


def _tell(report: Report, state: TrainState, fault: str, message: str) -> None:
    report.event(state.updates, fault, message)


def _last_line(state: TrainState, config: Config, folder: Path) -> str:
    why = ""
    if patience.is_lost(state, config.eval):
        many = f"{state.stale_evaluations} evaluations in a row"
        why = f", for {state.best_metric} was no better in {many} (eval.patience)"
    best, file = "", folder / "checkpoints" / "best.pt"
    if state.best is not None:
        best = f"; best {state.best_metric} {state.best:.4f}"
        best += f" in {file}" if file.is_file() else ", without a best.pt: it is not there"
    elif state.best_metric:
        best = f"; no best.pt, for {state.best_metric} was never defined and finite"
    return f"done: {state.updates} updates{why}{best}"


def _epochs(state: TrainState, train_set: Dataset) -> float:
    """Passes over the data so far."""
    return state.epoch + state.images_seen / len(train_set)


def _is_time(count: int, every: int) -> bool:
    return every > 0 and count % every == 0


_MEMORY_REMEDY = (
    "--batch_size -1, which finds the largest batch that fits, or a smaller --batch_size; "
    "--train.checkpoint_activations true; a smaller --imgsz; for evaluation a smaller "
    "--eval.batch_size; for host memory fewer --workers"
)

if __name__ == "__main__":
    cli.run(main, _MEMORY_REMEDY)
