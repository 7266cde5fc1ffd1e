"""`python -m tests.pretend_cuda.run -m MODULE ARGUMENTS`: as `python -m MODULE ARGUMENTS`, with
pretend devices; also `run SCRIPT ARGUMENTS` and `run -c PROGRAM ARGUMENTS`."""

import os
import runpy
import sys


def main() -> None:
    """Runs what the arguments name, as python would."""
    from tests.pretend_cuda import device  # noqa: F401 (before torch)

    kind, *rest = sys.argv[1:]
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [kind, *rest]
        sys.path.insert(0, os.path.dirname(os.path.abspath(kind)))
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    main()
