"""Layers that are not trained."""

from torch import nn

from hvd_yolo.errors import InputError


def freeze(model: nn.Module, prefixes: str) -> None:
    """Takes the layers whose names begin with one of the comma separated `prefixes` out of the
    training.

    Raises InputError for a prefix that no parameter has, and when nothing is left to train.
    """
    for prefix in filter(None, (part.strip() for part in prefixes.split(","))):
        chosen = [p for name, p in model.named_parameters() if name.startswith(prefix)]
        if not chosen:
            parts = sorted({name.rpartition(".")[0] for name, _ in model.named_parameters()})
            raise InputError(
                f"train.freeze: no layer begins with {prefix}; there are {', '.join(parts[:3])}, "
                f"... {parts[-1]}"
            )
        for parameter in chosen:
            parameter.requires_grad_(False)
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError(f"train.freeze: {prefixes} leaves nothing to train")


def keep_frozen_statistics(model: nn.Module) -> None:
    """Puts each BatchNorm whose weights are frozen into evaluation mode, as its statistics belong
    to the frozen layer."""
    for module in model.modules():
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and module.affine and not module.weight.requires_grad:
            module.eval()
