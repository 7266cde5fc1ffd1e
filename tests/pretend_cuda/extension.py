"""Loads the compiled extension, which must come before torch: torch asks once, while it is
imported, whether there is CUDA."""

import ctypes
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from tests.pretend_cuda.build import NAME, build, torch_folder

_LOADED: dict[str, ModuleType] = {}


def extension() -> ModuleType:
    """The extension, loaded at the first call."""
    if NAME not in _LOADED:
        _LOADED[NAME] = _load(build())
    return _LOADED[NAME]


def is_loaded() -> bool:
    """Whether this process has pretend devices."""
    return NAME in _LOADED


def _load(path: Path) -> ModuleType:
    if "torch" in sys.modules:
        raise ImportError("the pretend device must be loaded before torch is imported")
    # The extension names torch's libraries without a folder: those loaded here are taken.
    library = torch_folder() / "lib"
    for name in ("libtorch_global_deps.so", "libtorch_python.so"):
        if (library / name).exists():
            ctypes.CDLL(str(library / name), mode=ctypes.RTLD_GLOBAL)
    spec = importlib.util.spec_from_file_location(NAME, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
