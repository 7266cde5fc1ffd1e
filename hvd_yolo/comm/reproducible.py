"""What libraries must know before they begin, so that a GPU repeats its bits."""

import os


def fix_cublas_workspace() -> None:
    """Gives cuBLAS a workspace of fixed size, unless the user did: torch asks for it where
    algorithms are to be deterministic. Before the first multiplication on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
