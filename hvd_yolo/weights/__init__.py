"""Weights for a model from any file that holds some: our checkpoints, published ones,
safetensors."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hvd_yolo.errors import InputError
from hvd_yolo.weights.classes import match_classes
from hvd_yolo.weights.names import to_ours, to_ultralytics
from hvd_yolo.weights.unpickling import NamedWeights, read_pickle

__all__ = ["Taken", "load_weights", "read_weights", "to_ultralytics"]


class Taken(NamedTuple):
    """What load_weights did: names of the model's tensors that were taken; of those that kept their
    values, for the file has none or one of another shape; and of the file's that were not used;
    classes: what became of its classes, empty where there is nothing to say."""

    taken: list[str]
    kept: list[str]
    unused: list[str]
    classes: str

    def __str__(self) -> str:
        told = f"{len(self.taken)} tensors taken"
        if self.kept:
            told += f"; {len(self.kept)} of the model's keep their values: {_some(self.kept)}"
        if self.unused:
            told += f"; {len(self.unused)} of the file's are not used: {_some(self.unused)}"
        return f"{told}; {self.classes}" if self.classes else told


def load_weights(model: nn.Module, path: Path, names: Sequence[str] = ()) -> Taken:
    """Takes from a file what fits the model by name and shape, and of class layers the rows of the
    classes that are in `names`, the model's; empty: all, if it has as many.

    Raises InputError when the file cannot be read or nothing of it fits.
    """
    file = _read(path)
    tensors = to_ours(file.tensors, model)
    own = model.state_dict()
    fitting = {k: v for k, v in tensors.items() if k in own and own[k].shape == v.shape}
    if not any(own[name].dtype.is_floating_point for name in fitting):
        raise InputError(f"weights {path}: no layer of it fits the model")
    classes = ""
    if names:
        try:
            classes = match_classes(fitting, tensors, model, file.classes, names)
        except InputError as error:
            raise InputError(f"weights {path}: {error}") from error
    model.load_state_dict(fitting, strict=False)
    return Taken(
        list(fitting),
        [name for name in own if name not in fitting],
        [name for name in tensors if name not in fitting],
        classes,
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Name to tensor, with the names of the file; raises InputError when it cannot be read."""
    return _read(path).tensors


def _read(path: Path) -> NamedWeights:
    if path.suffix == ".safetensors":
        return NamedWeights(_read_safetensors(path), ())
    return read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"weights {path}: no such file") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"weights {path} cannot be read: {error}") from error


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
