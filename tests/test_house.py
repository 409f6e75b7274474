"""The rules of the house, read off the source. Each check is shown a breach that it must find."""

import ast
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest
import torch
from jaxtyping import TypeCheckError

ROOT = Path(__file__).parent.parent
ROOMS = ("daps", "tests", "examples", "benchmarks")
HEAVY = ("matplotlib", "accelerate", "mujoco", "datasets", "sklearn", "torchmetrics")
FILE_LINES, FUNCTION_LINES = (400, 450), (60, 70)  # (aim, limit)

Files = dict[str, str]  # path from the repository's root -> source
Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = Function | ast.ClassDef


def read_house() -> Files:
    """Every Python file of ours."""
    paths = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    return {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in paths}


def package(files: Files) -> dict[str, ast.Module]:
    """The parsed files of daps alone."""
    return {p: ast.parse(source, p) for p, source in files.items() if p.startswith("daps/")}


# -- imports ---------------------------------------------------------------------------------------


def module_name(path: str) -> str:
    """daps/data/images.py -> daps.data.images; daps/data/__init__.py -> daps.data."""
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: str, tree: ast.Module, modules: set[str]) -> set[str]:
    """Modules that a file imports anywhere, absolute; a name of ours stands for its module."""
    name = module_name(path)
    parents = (name if path.endswith("__init__.py") else name.rpartition(".")[0]).split(".")
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found |= {n if n in modules else base for n in names}
    return found


def import_graph(files: Files) -> dict[str, set[str]]:
    """Module of daps -> what it imports, ours and others'."""
    trees = package(files)
    modules = {module_name(path) for path in trees}
    return {module_name(path): imports(path, tree, modules) for path, tree in trees.items()}


def within(module: str, room: str) -> bool:
    """Whether a module is a room (daps.nn, mujoco) or lies in it."""
    return module == room or module.startswith(room + ".")


def import_cycles(files: Files) -> list[str]:
    """The first cycle found from each module, if any."""
    graph = import_graph(files)
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> Iterator[str]:
        if module in trail:
            yield "cycle: " + " -> ".join([*trail[trail.index(module) :], module])
        elif module not in done:
            for other in sorted(graph[module] & graph.keys()):
                yield from visit(other, [*trail, module])
            done.add(module)

    return [cycle for module in sorted(graph) for cycle in visit(module, [])]


def broken_layers(files: Files) -> list[str]:
    """Imports that go against the direction of the house."""

    def allowed(module: str, other: str) -> bool:
        if module in ("daps.objective", "daps.codec.bits"):
            return not within(other, "daps")
        if within(module, "daps.nn") and within(other, "daps"):
            return within(other, "daps.nn")
        if within(other, "daps.robot"):
            return within(module, "daps.robot") or module == "daps.cli"
        if any(within(other, simulator) for simulator in ("mujoco", "loco_mujoco")):
            return within(module, "daps.robot")
        return True

    graph = import_graph(files)
    return [
        f"{module} may not import {other}"
        for module, others in graph.items()
        for other in sorted(others)
        if not allowed(module, other)
    ]


def loaded_by(statement: str, names: tuple[str, ...]) -> list[str]:
    """Which of these modules a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; print(*[n for n in {names!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


# -- names and definitions -------------------------------------------------------------------------


def shapeless_files(files: Files) -> list[str]:
    """Files named after nothing."""
    return [f"{p}: name it after what it holds" for p in files if p.endswith(("/utils.py", "/common.py"))]


def method_names(files: Files) -> set[str]:
    """Keys of the literal dict METHODS in daps/methods."""
    names: set[str] = set()
    for path, tree in package(files).items():
        for node in ast.walk(tree) if path.startswith("daps/methods/") else ():
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(t, ast.Name) and t.id == "METHODS" for t in targets):
                value = getattr(node, "value", None)
                keys = value.keys if isinstance(value, ast.Dict) else []
                names |= {k.value for k in keys if isinstance(k, ast.Constant) and isinstance(k.value, str)}
    return names


def compared_method_names(files: Files) -> list[str]:
    """Code outside daps/methods that compares or matches the name of a method."""
    names, found = method_names(files), []
    for path, tree in package(files).items():
        if path.startswith("daps/methods/"):
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.Compare | ast.MatchValue):
                continue
            texts = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant)}
            found += [f"{path}:{node.lineno}: compares the method name {n!r}" for n in sorted(names & texts)]
    return found


def calls_of_hasattr(files: Files) -> list[str]:
    """Calls of hasattr: say what is needed in a type instead."""
    return [
        f"{path}:{node.lineno}: hasattr"
        for path, tree in package(files).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hasattr"
    ]


def definitions(scope: ast.Module | ast.ClassDef, owner: str = "") -> Iterator[tuple[str, Definition, bool]]:
    """(qualified name, definition, is a method) of what is public, dunder methods too."""
    for node in scope.body:
        if not isinstance(node, Definition):
            continue
        dunder = node.name.startswith("__") and node.name.endswith("__")
        if dunder or not node.name.startswith("_"):
            yield owner + node.name, node, isinstance(scope, ast.ClassDef)
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{owner}{node.name}.")


def decorators(node: Definition) -> set[str]:
    """Last names of the decorators: staticmethod, overload, setter, ..."""
    return {ast.unparse(d).partition("(")[0].rpartition(".")[2] for d in node.decorator_list}


def missing_annotations(files: Files) -> list[str]:
    """Arguments and results of public functions and methods that have no annotation."""
    found = []
    for path, tree in package(files).items():
        for name, node, is_method in definitions(tree):
            if isinstance(node, ast.ClassDef):
                continue
            args = node.args
            given = [*args.posonlyargs, *args.args]
            if is_method and "staticmethod" not in decorators(node):
                given = given[1:]
            given += [*args.kwonlyargs, *(a for a in (args.vararg, args.kwarg) if a)]
            gaps = [a.arg for a in given if a.annotation is None]
            gaps += ["its result"] if node.returns is None else []
            found += [f"{path}:{node.lineno}: {name} does not annotate {gap}" for gap in gaps]
    return found


def missing_docstrings(files: Files) -> list[str]:
    """Public classes, functions and methods without a docstring."""
    return [
        f"{path}:{node.lineno}: {name} has no docstring"
        for path, tree in package(files).items()
        for name, node, _ in definitions(tree)
        if not node.name.startswith("__")
        and not decorators(node) & {"overload", "setter"}
        and not ast.get_docstring(node)
    ]


def sizes(files: Files) -> Iterator[tuple[str, int, tuple[int, int]]]:
    """(what, its lines, (aim, limit)) of every file and function."""
    for path, source in files.items():
        yield path, len(source.splitlines()), FILE_LINES
        for node in ast.walk(ast.parse(source, path)):
            if isinstance(node, Function):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{path}:{node.lineno}: {node.name}", length, FUNCTION_LINES


def oversize(files: Files) -> list[str]:
    """Files and functions over the limit; those over the aim are reported as warnings."""
    found = []
    for what, length, (aim, limit) in sizes(files):
        if length > limit:
            found.append(f"{what} has {length} lines, the limit is {limit}")
        elif length > aim:
            warnings.warn(f"over the size we aim for: {what} has {length} lines, not {aim}", stacklevel=1)
    return found


# -- the tests -------------------------------------------------------------------------------------

Check = Callable[[Files], list[str]]
METHODS = {"daps/methods/__init__.py": 'METHODS: dict[str, type] = {"daps": DAPS, "fsq": FSQ}'}
BAD: list[tuple[Check, Files, str]] = [
    (
        import_cycles,
        {
            "daps/a.py": "from daps import b",
            "daps/b.py": "def f():\n    from .c import x",
            "daps/c.py": "import daps.a",
        },
        "cycle: daps.a -> daps.b -> daps.c -> daps.a",
    ),
    (
        import_cycles,
        {
            "daps/data/__init__.py": "from daps.data.images import x",
            "daps/data/images.py": "from . import Dataset",
        },
        "cycle: daps.data -> daps.data.images -> daps.data",
    ),
    (
        broken_layers,
        {"daps/objective.py": "from daps.nn import Linear"},
        "daps.objective may not import daps.nn",
    ),
    (
        broken_layers,
        {"daps/nn/image.py": "from ..encoder import x"},
        "daps.nn.image may not import daps.encoder",
    ),
    (
        broken_layers,
        {"daps/report.py": "import mujoco.viewer"},
        "daps.report may not import mujoco.viewer",
    ),
    (
        broken_layers,
        {"daps/train.py": "from daps import robot", "daps/robot/__init__.py": ""},
        "daps.train may not import daps.robot",
    ),
    (shapeless_files, {"daps/nn/utils.py": ""}, "daps/nn/utils.py: name it after what it holds"),
    (
        compared_method_names,
        METHODS | {"daps/train.py": 'if method in ("fsq", "x"): pass'},
        "daps/train.py:1: compares the method name 'fsq'",
    ),
    (
        compared_method_names,
        METHODS | {"daps/train.py": 'match m:\n    case "daps": pass'},
        "daps/train.py:2: compares the method name 'daps'",
    ),
    (calls_of_hasattr, {"daps/a.py": 'x = hasattr(y, "z")'}, "daps/a.py:1: hasattr"),
    (
        missing_annotations,
        {"daps/a.py": "class A:\n    def f(self, x: int, *rest) -> None: ..."},
        "daps/a.py:2: A.f does not annotate rest",
    ),
    (
        missing_annotations,
        {"daps/a.py": "def f(): ..."},
        "daps/a.py:1: f does not annotate its result",
    ),
    (missing_docstrings, {"daps/a.py": "class A:\n    x = 1"}, "daps/a.py:1: A has no docstring"),
    (
        oversize,
        {"tests/test_a.py": "x = 1\n" * 451},
        "tests/test_a.py has 451 lines, the limit is 450",
    ),
    (
        oversize,
        {"daps/a.py": "def f():\n" + "    x = 1\n" * 70},
        "daps/a.py:1: f has 71 lines, the limit is 70",
    ),
]


@pytest.mark.parametrize("check", dict.fromkeys(check for check, _, _ in BAD), ids=lambda c: c.__name__)
def test_the_house_keeps_its_rules(check: Check) -> None:
    found = check(read_house())
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("check", "files", "complaint"), BAD)
def test_each_check_finds_a_breach(check: Check, files: Files, complaint: str) -> None:
    assert check(files) == [complaint]


def test_nearly_oversize_is_reported() -> None:
    with pytest.warns(UserWarning, match="over the size we aim for: daps/a.py has 401"):
        assert oversize({"daps/a.py": "x = 1\n" * 401}) == []


def test_what_is_private_or_inside_needs_no_words() -> None:
    files = {"daps/a.py": "def _f(x): ...\nclass _A:\n    def g(self): ..."}
    assert missing_annotations(files) == missing_docstrings(files) == []


def test_methods_is_a_plain_dict_whose_names_can_be_read() -> None:
    assert method_names(METHODS) == {"daps", "fsq"}
    files = read_house()
    if "daps/methods/__init__.py" in files:
        assert method_names(files) >= {"daps", "fsq"}


def test_import_daps_is_light() -> None:
    assert loaded_by("import json", ("json", "decimal")) == ["json"]
    assert loaded_by("import daps", HEAVY) == []


def test_shapes_are_checked_while_testing() -> None:
    from daps.objective import log_weights

    with pytest.raises(TypeCheckError):
        log_weights(torch.zeros(3, 2), torch.zeros(3, 4), 1.0, 0.1)
