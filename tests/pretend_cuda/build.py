"""Builds the extension once per torch, Python and source, beside the Horovod wheel:
`python -m tests.pretend_cuda.build` prints where it is."""

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parent / "source"
NAME = "_pretend_cuda"


def torch_folder() -> Path:
    """Where torch is installed; it must not be imported before the extension."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit("pretend_cuda: torch is not installed in this Python")
    return Path(spec.origin).parent


def torch_version() -> str:
    """The version of the installed torch, read off its file."""
    text = (torch_folder() / "version.py").read_text()
    return re.search(r"__version__ = '([^']+)'", text)[1]


def cache_folder() -> Path:
    """The folder of this torch, Python, machine and source."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    digest = hashlib.sha256(b"".join(f.read_bytes() for f in sorted(SOURCE.iterdir())))
    tag = f"{sys.implementation.cache_tag}-{platform.machine()}-{digest.hexdigest()[:12]}"
    return cache / "hvd_yolo" / f"pretend_cuda-torch{torch_version()}-{tag}"


def build() -> Path:
    """The built extension; of several processes that ask at once, one builds it."""
    folder = cache_folder()
    extension = folder / f"{NAME}.so"
    if extension.exists():
        return extension
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not extension.exists():
            print("pretend_cuda: compiling the extension, about a minute", file=sys.stderr)
            _compile(extension)
    return extension


def _compile(extension: Path) -> None:
    torch = torch_folder()
    include = torch / "include"
    with tempfile.TemporaryDirectory(dir=extension.parent) as scratch:
        made = Path(scratch) / extension.name
        command = [
            "g++", "-O1", "-g0", "-std=c++20", "-shared", "-fPIC",
            f"-DTORCH_EXTENSION_NAME={NAME}", "-DTORCH_API_INCLUDE_EXTENSION_H",
            f"-I{include}", f"-I{include / 'torch/csrc/api/include'}",
            f"-I{sysconfig.get_path('include')}", str(SOURCE / "extension.cpp"), "-o", str(made),
            f"-L{torch / 'lib'}", "-ltorch", "-ltorch_cpu", "-ltorch_python", "-lc10",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line]
            sys.exit("pretend_cuda: the compiler failed:\n" + "\n".join(errors[:20]))
        made.rename(extension)


if __name__ == "__main__":
    print(build())
