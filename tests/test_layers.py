"""The seams of the design, read off the source."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hvd_yolo"
FILES = sorted(PACKAGE.rglob("*.py"))


def room(file):
    """The folder or file right below the package. A room's own command line is a verb, above all
    rooms."""
    if file.name == "__main__.py":
        return "__main__"
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file):
    """Full dotted names of everything a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(name):
    """Which rooms of hvd_yolo the files of one room import."""
    found = set()
    for file in FILES:
        if room(file) == name:
            parts = (imported.split(".") for imported in imports(file))
            found |= {p[1] for p in parts if p[0] == "hvd_yolo" and len(p) > 1}
    return found - {name}


def test_foundations_import_nothing_above_them():
    assert rooms_imported("errors") == set()
    assert rooms_imported("boxes") == set()
    assert rooms_imported("letterbox") == set()
    assert rooms_imported("padding") == set()
    assert rooms_imported("targets") == {"padding"}
    assert rooms_imported("config") <= {"errors"}
    assert rooms_imported("comm") <= {"errors", "config"}


def test_models_and_data_do_not_know_each_other():
    assert rooms_imported("models") <= {"boxes", "config", "errors", "targets"}
    assert rooms_imported("data") <= {
        "letterbox",
        "config",
        "errors",
        "padding",
        "prctl",
        "targets",
    }


def test_nobody_imports_train():
    assert all("train" not in rooms_imported(room(file)) for file in FILES)


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("horovod", {"comm"}),
        ("mpi4py", {"comm"}),
        ("torch.distributed", {"comm"}),
        ("cv2", {"data", "predict", "report"}),
        ("pycocotools", {"data", "evaluate"}),
    ],
)
def test_a_package_is_spoken_in_its_room_only(package, allowed):
    users = {
        room(file)
        for file in FILES
        if any(name == package or name.startswith(package + ".") for name in imports(file))
    }
    assert users <= allowed


def test_a_loader_process_imports_only_what_it_needs():
    """There are many, and each would hold its own copy."""
    program = "import sys, hvd_yolo.data.worker, hvd_yolo.data.cache; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert not {"torch", "jsonargparse", "tqdm", "pycocotools"} & set(done.stdout.split())


def test_only_comm_and_clis_read_the_environment():
    readers = {room(f) for f in FILES if re.search(r"os\.environ|getenv", f.read_text())}
    # environment.json records the variables that matter, and launch hands them on to mpirun.
    assert readers <= {"comm", "report", "launch"}


def test_files_and_functions_fit_their_screens():
    for file in FILES:
        assert len(file.read_text().splitlines()) <= 300, file
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef):
                length = node.end_lineno - node.lineno + 1
                assert length <= 60, f"{file}: {node.name} {length}"


def test_every_public_function_is_documented_and_typed():
    for file in FILES:
        tree = ast.parse(file.read_text())
        assert ast.get_docstring(tree), file
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{file}: {node.name}"
            if isinstance(node, ast.FunctionDef):
                assert node.returns is not None or node.name == "__init__" or is_dunder(node), (
                    f"{file}: {node.name} has no return type"
                )


def is_dunder(node):
    return node.name.startswith("__")
