"""Which room may import which other rooms, and other rules for the code."""

import ast
import itertools

import pytest
from checkout import ROOT, TESTS

PACKAGE = ROOT / "fastgan"

# room: the other rooms that it may import
ARROWS = {
    "kernels": (),
    "formulas": (),
    "reference": ("formulas",),
    "cpu": ("formulas",),
    "operators": ("kernels", "cpu", "formulas"),
    "losses": ("operators", "formulas"),
    "layers": ("operators", "formulas", "checks"),
    "compat": ("losses", "layers", "formulas", "gradients"),
    "gradients": ("losses",),
    "checks": (),
    "data": ("checks",),
    "models": ("data",),
    "evaluation": ("data", "checks"),
    "training": ("models", "data", "layers", "losses", "formulas", "checks"),
    "inspection": ("compat",),
    "game": ("training", "models", "data", "losses", "formulas"),
    "cli": (
        *("compat", "game", "inspection", "training", "evaluation"),
        *("models", "data", "operators", "reference", "checks"),
    ),
}
# Modules of earlier versions, which only import names from a room.
ALIASES = ("checkpoints", "criteria", "distributed", "functional", "matching", "metrics", "mmd", "networks")
ALIASES += ("objectives", "penalties", "recipes", "step", "trainer", "values")
TOP = ("__init__", "__main__")


def modules(room):
    path = PACKAGE / room
    return sorted(path.rglob("*.py")) if path.is_dir() else [PACKAGE / f"{room}.py"]


def imported(path):
    """The modules of fastgan that a file imports, anywhere; fastgan.x for `from fastgan import x`."""
    package = ["fastgan", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            of = package[: len(package) - node.level + 1] if node.level else []
            of = [*of, *(node.module or "").split(".")] if node.module else of
            found |= {".".join([*of, alias.name]) for alias in node.names}
    return {name for name in found if name.split(".")[0] == "fastgan"}


@pytest.mark.parametrize("room", ARROWS)
def test_a_room_imports_only_allowed_rooms(room):
    allowed = {room, *ARROWS[room]}
    for path in modules(room):
        for name in imported(path):
            assert name == "fastgan" or name.split(".")[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


def test_every_module_has_a_room():
    found = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert found == {*ARROWS, *ALIASES, *TOP} - {"kernels"}  # a link, which rglob skips


@pytest.mark.parametrize("name", ALIASES)
def test_no_module_imports_an_alias(name):
    for room in ARROWS:
        for path in modules(room):
            assert f"fastgan.{name}" not in imported(path), path.relative_to(ROOT)


def private_names(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("fastgan")):
            for alias in node.names:
                if alias.name.startswith("_") and not alias.name.startswith("__") and node.module != "fastgan.compat":
                    yield alias.name


@pytest.mark.parametrize("room", ARROWS)
def test_no_private_name_is_imported(room):
    for path in modules(room):
        assert not list(private_names(path)), path.relative_to(ROOT)


FENCES = {"fastgan/kernels/launch.py", "fastgan/operators/dispatch.py", "fastgan/training/capture.py"}


def test_files_are_short():
    for path in itertools.chain.from_iterable(
        folder.rglob("*.py") for folder in (PACKAGE, ROOT / "bench", ROOT / "kernels", TESTS)
    ):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 450, f"{path.relative_to(ROOT)}: {lines} lines"


def test_tests_mirror_the_rooms():
    """A folder has the tests of one room, of bench, or of the whole project. pytest requires different file names if
    the folders are no packages."""
    files = [path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")]
    folders = {path.parent.as_posix() for path in files}
    assert folders <= {*ARROWS, "bench", "project"}, folders - {*ARROWS, "bench", "project"}
    names = [path.name for path in files]
    assert not {name for name in names if names.count(name) > 1}
    assert not list(TESTS.rglob("__init__.py"))


@pytest.mark.parametrize("room", ARROWS)
def test_private_interfaces_of_pytorch_are_fenced(room):
    for path in modules(room):
        name = str(path.relative_to(ROOT))
        if name not in FENCES:
            assert "torch._C" not in path.read_text(encoding="utf-8"), name
