"""The rooms of the package: who may import whom, and the old names of modules that have moved."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1] / "fastgan"
FORBIDDEN = {  # room: what it must not import
    **dict.fromkeys(("data", "models", "evaluation", "training"), ("game", "cli")),
    "data": ("models", "evaluation", "training", "game", "cli"),
    "models": ("evaluation", "training", "game", "cli"),
    "evaluation": ("models", "training", "game", "cli"),
    "game": ("cli",),
    "compat": ("data", "models", "evaluation", "training", "game", "cli"),
}
MOVED = {
    "trainer": ("training.trainer", ("GANTrainer", "TrainingDiverged", "World", "distributed", "generate")),
    "step": ("training.step", ("Step", "generator_backward", "constant_ratio", "PRECISIONS")),
    "capture": ("training.capture", ("Graphs", "capturing", "undone")),
    "checkpoints": ("training.checkpoints", ("read_checkpoint", "write_atomically", "check_same_network")),
    "distributed": ("training.distributed", ("World", "distributed", "rank", "ranks")),
    "recipes": ("training.recipes", ("RECIPES", "find", "table")),
    "networks": ("models", ("build", "mlp", "Generator", "Discriminator", "ResNetGenerator", "NETWORKS")),
    "metrics": ("evaluation", ("judge", "manifold_scores", "frechet_distance", "digits_report", "Inception")),
}


def imported(file):
    """The modules of fastgan that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_arrows_point_down(room):
    files = list((ROOT / room).glob("*.py"))
    assert len(files) > 1
    for file in files:
        rooms = {name.split(".")[1] for name in imported(file) if name.startswith("fastgan.")}
        assert not rooms & set(FORBIDDEN[room]), (file.name, rooms)


def test_nobody_imports_the_command_line():
    for file in ROOT.rglob("*.py"):
        if file.parent.name != "cli" and file.name != "__main__.py":
            assert not any(name.startswith("fastgan.cli") for name in imported(file)), file


@pytest.mark.parametrize("name", MOVED)
def test_moved_modules_keep_their_names(name):
    place, names = MOVED[name]
    old, new = (importlib.import_module(f"fastgan.{module}") for module in (name, place))
    for public in names:
        assert getattr(old, public) is getattr(new, public)


def test_the_package_imports_no_training():
    code = (
        "import sys, fastgan\n"
        "rooms = {name.split('.')[1] for name in sys.modules if name.startswith('fastgan.')}\n"
        "assert not rooms & {'training', 'data', 'models', 'evaluation', 'game', 'cli'}, rooms\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_every_room_is_installed():
    setup = (ROOT.parent / "setup.py").read_text()
    for folder in ROOT.iterdir():
        if (folder / "__init__.py").is_file():
            assert f'"fastgan.{folder.name}"' in setup
