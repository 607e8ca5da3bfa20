"""The old names of moved modules, and the installed rooms. test_house.py tests which room imports which."""

import importlib
import subprocess
import sys

import pytest
from checkout import ROOT

MOVED = {
    "trainer": ("training.trainer", ("GANTrainer", "TrainingDiverged", "World", "distributed", "generate")),
    "step": ("training.step", ("Step", "generator_backward", "constant_ratio", "PRECISIONS")),
    "checkpoints": ("training.checkpoints", ("read_checkpoint", "write_atomically", "check_same_network")),
    "distributed": ("training.distributed", ("World", "distributed", "rank", "ranks")),
    "recipes": ("training.recipes", ("RECIPES", "find", "table")),
    "networks": ("models", ("build", "mlp", "Generator", "Discriminator", "ResNetGenerator", "NETWORKS")),
    "metrics": ("evaluation", ("judge", "manifold_scores", "frechet_distance", "digits_report", "Inception")),
}


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
    setup = (ROOT / "setup.py").read_text()
    for folder in (ROOT / "fastgan").iterdir():
        if (folder / "__init__.py").is_file():
            assert f'"fastgan.{folder.name}"' in setup
