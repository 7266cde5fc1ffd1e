"""Faults planted into a copy of the package, one each: whether the suite would notice."""

import ast
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import REPOSITORY

# A fault: takes the source of a function, gives the faulty source.
Edit = Callable[[str], str]


def insert(statement: str) -> Edit:
    """The statement comes first in the function."""

    def edit(source: str) -> str:
        function = ast.parse(source).body[0]
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = source.splitlines(keepends=True)
        indent = " " * body[0].col_offset
        lines.insert(body[0].lineno - 1, f"{indent}{statement}\n")
        return "".join(lines)

    return edit


def replace(pattern: str, replacement: str) -> Edit:
    """What the pattern matches in the function, at most once, is replaced."""

    def edit(source: str) -> str:
        edited, number = re.subn(pattern, replacement, source)
        assert number <= 1, f"{pattern!r} is there {number} times:\n{source}"
        return edited

    return edit


def return_instead(expression: str) -> Edit:
    """The function's last return gives the expression, in which RESULT is what it gave."""

    def edit(source: str) -> str:
        returns = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Return)]
        last = max(returns, key=lambda node: node.lineno)
        given = ast.get_source_segment(source, last.value)
        lines = source.splitlines(keepends=True)
        indent = " " * last.col_offset
        changed = f"{indent}return {expression.replace('RESULT', f'({given})')}\n"
        return "".join([*lines[: last.lineno - 1], changed, *lines[last.end_lineno :]])

    return edit


def copy_with_fault(folder: Path, functions: str, edit: Edit) -> None:
    """Puts a copy of the package into the folder, the tests beside it, and the fault into one
    function. functions: a pattern of names, Class.method or plain; the edit must change exactly one
    of those that match."""
    shutil.copytree(
        REPOSITORY / "hvd_yolo", folder / "hvd_yolo", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("tests", "pyproject.toml"):
        (folder / name).symlink_to(REPOSITORY / name)
    changed = [
        (file, text)
        for file in sorted((folder / "hvd_yolo").rglob("*.py"))
        for text in _with_fault(file.read_text(), functions, edit)
    ]
    assert len(changed) == 1, f"{functions}: the fault fits {len(changed)} places"
    [(file, text)] = changed
    ast.parse(text)
    file.write_text(text)


def _with_fault(text: str, functions: str, edit: Edit) -> Iterator[str]:
    """The text of a file, once for each of its functions that the edit changes."""
    for name, node in _functions(ast.parse(text)):
        if not re.fullmatch(functions, name):
            continue
        lines = text.splitlines(keepends=True)
        start, end, indent = node.lineno - 1, node.end_lineno, node.col_offset
        source = "".join(line[indent:] if line.strip() else line for line in lines[start:end])
        edited = edit(source)
        if edited != source:
            moved = (
                " " * indent + line if line.strip() else line
                for line in edited.splitlines(keepends=True)
            )
            yield "".join([*lines[:start], *moved, *lines[end:]])


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield f"{node.name}.{inner.name}", inner


PYTHON = [sys.executable, "-m", "tests.pretend_cuda.run"]
