"""What the package uses of torch.cuda and torch.backends is in torch: names and arguments.

A CPU build has the same Python sources of torch/cuda as a CUDA build of the same version, where its
functions fail before they look at their arguments; so they are read, not called.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
INSTALLED = Path(torch.__file__).parent
# Where `make setup GPU=1` installs the CUDA build.
CUDA_BUILDS = sorted(REPOSITORY.glob(".venv-gpu/lib/python*/site-packages/torch"))


class Use(NamedTuple):
    """name: torch.cuda.X...; call: the arguments, where it is called."""

    name: str
    call: ast.Call | None
    place: str


def dotted(node: ast.expr) -> str:
    """torch.cuda.X of an attribute chain, else empty."""
    if isinstance(node, ast.Name):
        return node.id
    inner = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{inner}.{node.attr}" if inner else ""


def uses() -> list[Use]:
    """All of the package, also inside annotations that are strings."""
    found: dict[tuple[str, str], Use] = {}
    for file in sorted((REPOSITORY / "hvd_yolo").rglob("*.py")):
        tree = ast.parse(file.read_text())
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        longest = {}
        for node in ast.walk(tree):
            name = dotted(node) if isinstance(node, ast.Attribute) else ""
            if re.match(r"torch\.(cuda|backends)\.", name):
                place = f"{file.relative_to(REPOSITORY)}:{node.lineno}"
                longest[id(node)] = Use(name, calls.get(id(node)), place)
        inner = {
            id(child) for node in ast.walk(tree) if id(node) in longest
            for child in ast.walk(node) if child is not node
        }  # fmt: skip
        for key, use in longest.items():
            if key not in inner:
                found[use.name, use.place] = use
    return sorted(found.values(), key=lambda use: (use.name, use.place))


def module_file(build: Path, module: str) -> Path:
    """The source of torch.X.Y."""
    path = build.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Of a module, through its ifs and trys."""
    for node in body:
        yield node
        for part in ("body", "orelse", "finalbody"):
            if isinstance(node, (ast.If, ast.Try)):
                yield from statements(node.__dict__.get(part, []))


def definition(build: Path, module: str, name: str) -> ast.stmt | None:
    """Where a module defines the name, through what it imports from its own package."""
    for node in statements(ast.parse(module_file(build, module).read_text()).body):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name == name:
            return node
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id == name for t in targets):
                return node
        if isinstance(node, ast.ImportFrom):
            names = {alias.asname or alias.name: alias.name for alias in node.names}
            source = f"{module}.{node.module}" if node.level == 1 else node.module
            is_own = node.module is not None and source.startswith("torch.cuda")
            if is_own and (name in names or "*" in names):
                inner = definition(build, source, names.get(name, name))
                if inner is not None:
                    return inner
            elif name in names:
                return node
    return None


def accepts(function: ast.FunctionDef, call: ast.Call, has_self: bool) -> bool:
    """Whether the function takes so many arguments, and the keywords."""
    arguments = function.args
    positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args)][has_self:]
    keywords = {keyword.arg for keyword in call.keywords}
    fits = len(call.args) <= len(positional) or arguments.vararg is not None
    known = {*positional[len(call.args) :], *(a.arg for a in arguments.kwonlyargs)}
    required = positional[len(call.args) : len(positional) - len(arguments.defaults)]
    return fits and (keywords <= known or arguments.kwarg is not None) and set(required) <= keywords


def problem(build: Path, use: Use) -> str:
    """What is wrong with a use, empty if nothing."""
    parts = use.name.split(".")
    depth = 3 if parts[1] == "backends" else 2
    module, rest = ".".join(parts[:depth]), parts[depth:]
    if not module_file(build, module).exists():
        return f"{use.name} at {use.place}: there is no {module}"
    if parts[1] == "backends":
        # Properties of module-like objects, some known by a string alone.
        text = module_file(build, module).read_text()
        missing = [part for part in rest if not re.search(rf"\b{part}\b", text)]
        return f"{use.name} at {use.place}: no {missing[0]}" if missing else ""
    while len(rest) > 1 and module_file(build, f"{module}.{rest[0]}").exists():
        module, rest = f"{module}.{rest[0]}", rest[1:]
    node = definition(build, module, rest[0])
    if node is None:
        return f"{use.name} at {use.place}: {module} has no {rest[0]}"
    if use.call is None or len(rest) > 1:
        return ""
    function = node
    if isinstance(node, ast.ClassDef):
        makers = [n for n in node.body if isinstance(n, ast.FunctionDef)]
        makers = [n for n in makers if n.name in ("__new__", "__init__")]
        function = makers[0] if makers else node
    if isinstance(function, ast.FunctionDef):
        has_self = isinstance(node, ast.ClassDef)
        if not accepts(function, use.call, has_self):
            return f"{use.name} at {use.place}: takes {ast.unparse(function.args)}"
    return ""


def test_what_is_used_is_there():
    used = uses()
    assert {"torch.cuda.Stream", "torch.cuda.mem_get_info"} <= {use.name for use in used}
    assert [text for use in used if (text := problem(INSTALLED, use))] == []


@pytest.mark.skipif(not CUDA_BUILDS, reason="no CUDA build of torch: make setup GPU=1 installs one")
def test_what_is_used_is_in_the_cuda_build():
    assert [text for use in uses() if (text := problem(CUDA_BUILDS[0], use))] == []


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("torch.cuda.no_such_thing", "torch.cuda has no no_such_thing"),
        ("torch.cuda.mem_get_info(1, 2)", "takes device"),
        ("torch.cuda.Event(timing=True)", "takes cls"),
        ("torch.cuda.set_device()", "takes device"),
        ("torch.backends.cudnn.benchmarks", "no benchmarks"),
        ("torch.backends.no_such_backend.x", "there is no torch.backends.no_such_backend"),
        ("torch.cuda.Event(enable_timing=True)", ""),
        ("torch.cuda.Stream(device)", ""),
        ("torch.cuda.random.get_rng_state(0)", ""),
        ("torch.backends.cuda.matmul.allow_tf32", ""),
    ],
)
def test_a_wrong_use_is_noticed(expression, told):
    node = ast.parse(expression, mode="eval").body
    call = node if isinstance(node, ast.Call) else None
    name = dotted(call.func if call else node)
    found = problem(INSTALLED, Use(name, call, "here"))
    assert told in found if told else found == ""
