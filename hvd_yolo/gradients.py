"""The step that the summed gradients of an update make, decided on the device."""

import torch
from torch import Tensor

from hvd_yolo.comm import Comm
from hvd_yolo.config import Config
from hvd_yolo.optim import scale_and_clip
from hvd_yolo.state import TrainState
from hvd_yolo.tally import is_divisor, next_weights, weight_of


def step_gradients(
    state: TrainState, sums: Tensor, share: float, config: Config, comm: Comm
) -> Tensor:
    """Unscales, corrects the divisor to the update's own, clips and steps, unless a gradient is not
    finite: then `state.optimizer.found_inf` is 1. Returns the norm of the gradient. sums: of the
    update, over all ranks; share: see next_weights."""
    last, weight = state.loss_weights[0], weight_of(sums)
    weight = torch.where(is_divisor(weight), weight, last)
    optimizer, scaler = state.optimizer, state.scaler
    scaler.unscale_(optimizer)
    gradients = [
        p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    norm = scale_and_clip(gradients, last / weight, config.optim.clip_norm)
    # Not GradScaler.step(), which would wait for the device; and a norm may overflow where no
    # gradient does.
    optimizer.found_inf, optimizer.grad_scale = (~norm.isfinite()).float(), None
    optimizer.step()
    one = torch.ones((), device=norm.device)
    scale = scaler.scale(one)
    scaler.update()
    if config.comm.is_lossy:
        # What is kept goes with the next update, in its divisor and scale.
        divisor = next_weights(state, sums, share)[0]
        comm.rescale_unsent(last / divisor * (scaler.scale(one) / scale))
    return norm
