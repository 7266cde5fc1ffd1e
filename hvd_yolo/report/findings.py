"""What the numbers of a run say, in words."""

import numpy as np

from hvd_yolo.report.runs import Run, column, grown, number

# A validation loss so much above its lowest has risen; less is noise.
_RISE = 0.02


def loss_gap(run: Run) -> str:
    """How far the validation loss lies from that of training, and whether it has risen since."""
    terms = shared_terms(run)
    if not terms:
        return "There is no validation loss to compare with that of training."
    epochs, val = column(run.evals, "epoch"), val_loss(run, terms)
    known = np.isfinite(val)
    if not known.any():
        return "The validation loss is not a number."
    epochs, val = epochs[known], val[known]
    train_epochs, train = column(run.train, "epoch"), train_loss(run, terms)
    near = train[(train_epochs > epochs[-1] - 1) & (train_epochs <= epochs[-1] + 1e-9)]
    near = near[np.isfinite(near)] if np.isfinite(near).any() else train[np.isfinite(train)][-1:]
    if not len(near):
        return "The training loss is not a number."
    gap = val[-1] / near.mean() - 1
    side = "above" if gap > 0 else "below"
    text = f"Validation loss is {abs(gap):.0%} {side} training at the end"
    lowest = int(val.argmin())
    rise = val[-1] / val[lowest] - 1
    if len(val) < 3:
        text += f"; with {len(val)} evaluation{'s' if len(val) > 1 else ''} no trend can be told."
    elif rise > _RISE:
        fell = np.interp(epochs[-1], train_epochs, train) < np.interp(
            epochs[lowest], train_epochs, train
        )
        cause = "overfitting" if fell else "training has become worse as well: not overfitting"
        text += f" and has risen by {rise:.0%} since epoch {epochs[lowest]:g}: {cause}."
    else:
        text += " and has not risen: no sign of overfitting."
    if gap <= 0:
        text += " (Training images are augmented, validation images are not.)"
    return text


def ap_trend(run: Run) -> str:
    """When AP was best, and whether it was still rising."""
    best = run.best()
    metric = run.config.eval.metric
    if not run.evals:
        return "No evaluation has been made yet."
    if best is None:
        return (
            f"{metric} is undefined in every evaluation: there are no objects to score against, or "
            "it was never a finite number. So no evaluation is the best."
        )
    ap, last = number(best["AP"]), run.evals[-1]
    by = "" if metric == "AP" else f", where {metric} is best with {number(best[metric]):.4f}"
    text = f"{'AP' if by else 'Best AP'} {ap:.4f} at epoch {best['epoch']:g}{by}"
    behind = ap - number(last["AP"])
    if last["epoch"] == best["epoch"]:
        return f"{text}, the last evaluation{': it may not be the end' if _rises(run) else ''}."
    side = "below" if behind >= 0 else "above"
    told = f"AP of the last evaluation, at epoch {last['epoch']:g}, is {abs(behind):.4f} {side} it"
    return f"{text}; {told}."


def waits(run: Run) -> str:
    """What share of the time the ranks waited; a rank that is alone waits for no other."""
    seconds = seconds_of_lines(run)
    if not seconds.sum() > 0:
        return ""
    shares = []
    is_alone = not np.nansum(column(run.train, "sent_bytes")) > 0
    kinds = (("data_wait", "images"), ("comm_wait", "other ranks"))
    for key, what in kinds[: 1 if is_alone else 2]:
        share = column(run.train, key)
        if np.isfinite(share).any():
            mean = np.nansum(share * seconds) / seconds[np.isfinite(share)].sum()
            shares.append(f"{mean:.1%} for {what}")
    return f"Of the training time the ranks waited {' and '.join(shares)}." if shares else ""


def seconds_of_lines(run: Run) -> np.ndarray:
    """Seconds (N) that each train line covers; their sum is the training time over all starts."""
    return grown(np.nan_to_num(column(run.train, "seconds")))


def shared_terms(run: Run) -> list[str]:
    """The loss terms that training and validation both have: a student's are training's alone."""
    if not run.train or not run.evals:
        return []
    train, val = run.train[-1].get("losses", {}), run.evals[-1].get("val_losses", {})
    return [term for term in train if term in val]


def train_loss(run: Run, terms: list[str]) -> np.ndarray:
    """(N): the sum of these terms on each train line."""
    return np.sum([column(run.train, "losses", term) for term in terms], axis=0)


def val_loss(run: Run, terms: list[str]) -> np.ndarray:
    """(N): the sum of these terms on each eval line."""
    return np.sum([column(run.evals, "val_losses", term) for term in terms], axis=0)


def _rises(run: Run) -> bool:
    ap = column(run.evals, "AP")[-3:]
    return len(ap) == 3 and bool((np.diff(ap) > 0.002).all())
