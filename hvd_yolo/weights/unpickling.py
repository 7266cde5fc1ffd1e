"""Reads the tensors of a foreign .pt file without running a line of code from it.

Such files are pickles of whole Python objects. Unknown classes become inert stand-ins that keep
their state; a pickle that wants to call anything is refused, and told what.
"""

import collections
import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from hvd_yolo.errors import InputError

# Makers of values that say nothing about weights, such as paths and dates: called, they give an
# inert object.
_HARMLESS = {
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.complex",
    "builtins.slice",
    "datetime.date",
    "datetime.datetime",
    "datetime.timedelta",
    "numpy.dtype",
    "torch.device",
}
_HARMLESS_MODULES = ("pathlib", "numpy.core.multiarray", "numpy._core.multiarray")
_PLAIN = {
    "builtins": (set, frozenset, dict, list, tuple, int, float, bool, str, bytes, bytearray),
    "collections": (collections.OrderedDict,),
    "torch": (torch.Size,),
}


class Refused(Exception):
    """The pickle wants to call something; the message is its name."""


class Inert:
    """Stands in for an object of an unknown class; `state` is what the pickle says of it."""

    state: Any = None

    def __new__(cls, *_arguments: object) -> "Inert":
        """Arguments of the true class are not needed."""
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Keeps the state."""
        self.state = state

    def __setitem__(self, key: object, value: object) -> None:
        """Items of a foreign dict hold no weights."""

    def append(self, item: object) -> None:
        """Items of a foreign list hold no weights."""

    def extend(self, items: object) -> None:
        """Items of a foreign list hold no weights."""


class _StandIn(type):
    """The type of stand-in classes: __new__ alone makes their instances, a call is refused."""

    def __call__(cls, *_arguments: object) -> Inert:
        name = f"{cls.__module__}.{cls.__qualname__}"
        if name in _HARMLESS or cls.__module__ in _HARMLESS_MODULES:
            return Inert()
        raise Refused(name)


class _Unpickler(pickle.Unpickler):
    """Knows tensors and plain containers; everything else is a stand-in."""

    def find_class(self, module_name: str, global_name: str) -> Any:  # noqa: ANN401
        """What a name of the pickle means here."""
        # Protocol 2, torch's, writes the name of Python 2.
        module_name = "builtins" if module_name == "__builtin__" else module_name
        for plain in _PLAIN.get(module_name, ()):
            if plain.__name__ == global_name:
                return plain
        if module_name == "torch" and isinstance(torch.__dict__.get(global_name), torch.dtype):
            return torch.__dict__[global_name]
        # Fresh functions: a pickle may set attributes of what it is given.
        if (module_name, global_name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: torch._utils._rebuild_tensor_v2(*arguments[:4], False, None)
        if (module_name, global_name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_rest: data
        return _StandIn(global_name, (Inert,), {"__module__": module_name})


def _load(file: BinaryIO, **_options: object) -> Any:  # noqa: ANN401
    return _Unpickler(file).load()


def _module() -> types.ModuleType:
    """What torch.load wants in place of the pickle module."""
    module = types.ModuleType("hvd_yolo.weights.unpickling")
    module.Unpickler = _Unpickler
    module.load = _load
    return module


class NamedWeights(NamedTuple):
    """What a file holds: its tensors by name, and its classes; none where it does not name them."""

    tensors: dict[str, Tensor]
    classes: tuple[str, ...]


def read_pickle(path: Path) -> NamedWeights:
    """The tensors and classes of a pickled model or a state dict, bare or in a checkpoint, ours
    too; those of the moving average where it holds one.

    Raises InputError for a file that wants to run code, or holds no weights.
    """
    content = _guarded(path, lambda: torch.load(
        path, map_location="cpu", pickle_module=_module(), weights_only=False
    ))  # fmt: skip
    whole = content
    if isinstance(content, dict):
        parts = (content.get(key) for key in ("weights", "ema", "model", "state_dict"))
        content = next((part for part in parts if part is not None), content)
    tensors = dict(_tensors(content, ""))
    if not tensors:
        raise InputError(f"weights {path}: no tensor of a model was found in it")
    return NamedWeights(tensors, _classes(whole) or _classes(content))


def _guarded(path: Path, read: Callable[[], Any]) -> Any:  # noqa: ANN401
    try:
        return read()
    except Refused as refused:
        raise InputError(
            f"weights {path}: refused, loading it would call {refused}; weights are data and call "
            "nothing: get the file from another source, or save a plain state dict"
        ) from refused
    except FileNotFoundError as error:
        raise InputError(f"weights {path}: no such file") from error
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError,
            AttributeError, KeyError, IndexError, ImportError) as error:  # fmt: skip
        reason = str(error).split("\n")[0]
        raise InputError(f"weights {path} cannot be read: {reason}") from error


def _tensors(part: object, prefix: str) -> list[tuple[str, Tensor]]:
    """Of a state dict or of a stand-in for a module, with the names state_dict() gives."""
    if isinstance(part, dict):
        return [(str(k), v) for k, v in part.items() if isinstance(v, Tensor)]
    state = part.state if isinstance(part, Inert) else None
    if not isinstance(state, dict):
        return []
    hidden = state.get("_non_persistent_buffers_set") or ()
    found = []
    for group in ("_parameters", "_buffers"):
        for name, value in (state.get(group) or {}).items():
            if isinstance(value, Tensor) and name not in hidden:
                found.append((f"{prefix}{name}", value))
    for name, child in (state.get("_modules") or {}).items():
        found += _tensors(child, f"{prefix}{name}.")
    return found


def _classes(part: object) -> tuple[str, ...]:
    """What a checkpoint of ours, or a stand-in for a module, calls its classes; empty where it does
    not, or numbers them."""
    holder = part.state if isinstance(part, Inert) else part
    names = holder.get("names") if isinstance(holder, dict) else None
    if isinstance(names, dict):
        is_numbered = all(type(key) is int for key in names)
        names = [names[key] for key in sorted(names)] if is_numbered else None
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return ()
    # What YOLOv5 and Ultralytics write where nobody named them.
    is_placeholder = all(name in (str(i), f"class{i}") for i, name in enumerate(names))
    return () if is_placeholder or len(set(names)) < len(names) else tuple(names)
