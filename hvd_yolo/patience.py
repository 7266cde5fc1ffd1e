"""Which evaluation is the best so far, and when waiting for a better one is over."""

from typing import Any

from hvd_yolo.config import EvalConfig
from hvd_yolo.config.run_options import is_lowest_best
from hvd_yolo.state import TrainState


def is_best(state: TrainState, metrics: dict[str, Any], options: EvalConfig) -> bool:
    """Takes in the numbers of an evaluation, and returns whether it is the best by options.metric
    so far; the same on all ranks, for the numbers are. A number that is not finite is never the
    best. One that is undefined (None), for lack of objects to score against, tells nothing: it is
    not the best, and patience does not count it."""
    if state.best_metric != options.metric:
        state.best, state.best_metric = None, options.metric
    if metrics[options.metric] is None:
        return False
    value = float(metrics[options.metric])
    sign = -1.0 if is_lowest_best(options.metric) else 1.0
    is_better = abs(value) < float("inf") and (
        state.best is None or sign * value > sign * state.best
    )
    state.stale_evaluations = 0 if is_better else state.stale_evaluations + 1
    if is_better:
        state.best = value
    return is_better


def is_lost(state: TrainState, options: EvalConfig) -> bool:
    """Whether so many evaluations in a row were no better that training stops."""
    return 0 < options.patience <= state.stale_evaluations
