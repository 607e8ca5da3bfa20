"""Importing the package initialises nothing and is fast. Each import is in a new process."""

import ast
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from checkout import ROOT

import fastgan
from fastgan import compat

SHIPPED = {f"fastgan/{name}" for name in ("kernels/adversarial.py", "compat/hifigan.py", "game/theory.py", "py.typed")}


def python(code, **environment):
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FASTGAN_BACKEND")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**env, **environment}, timeout=300
    )


def test_import_touches_no_gpu_and_no_heavy_library():
    result = python(
        "import sys, torch; before = set(sys.modules)\n"
        "import fastgan, fastgan.trainer\n"
        "assert not torch.cuda.is_initialized()\n"
        "heavy = {'triton', 'torchvision', 'matplotlib', 'sklearn', 'PIL', 'tensorboard', 'tqdm'}\n"
        "assert not heavy & (set(sys.modules) - before), heavy & set(sys.modules)\n"
    )
    assert result.returncode == 0, result.stderr


def test_import_time():
    """At most 0.3 s of CPU time after `import torch`."""
    code = "import time, torch; t = time.process_time(); import fastgan; print(time.process_time() - t)"
    seconds = min(float(python(code).stdout) for _ in range(3))
    assert seconds < 0.3


def test_nothing_imports_torchvision():
    for path in [*ROOT.glob("fastgan/**/*.py"), *ROOT.glob("kernels/*.py"), *ROOT.glob("bench/**/*.py")]:
        assert "import torchvision" not in path.read_text(), path


def test_a_folder_named_like_the_package_does_not_hide_it(tmp_path):
    """As in the parent of a clone with the name that `git clone` gives it."""
    (tmp_path / "fastgan").symlink_to(ROOT, target_is_directory=True)
    code = "import fastgan, fastgan.kernels; fastgan.discriminator_loss; assert fastgan.__file__"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr


def test_a_wheel_has_the_kernels_inside_the_package_and_nothing_beside_it(tmp_path):
    pytest.importorskip("setuptools")
    shutil.copytree(
        ROOT, tmp_path / "source", symlinks=True, ignore=shutil.ignore_patterns(".git", "build", "*.egg-info")
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(tmp_path),
        ".",
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "source", timeout=300)
    assert result.returncode == 0, result.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert set(names) >= SHIPPED
    assert {name.split("/")[0].split("-")[0] for name in names} == {"fastgan"}

    setup = [sys.executable, "setup.py", "-q", "--version"]
    said = subprocess.run(setup, cwd=tmp_path / "source", capture_output=True, text=True, timeout=300)
    assert said.stdout.strip() == fastgan.__version__


def test_triton_without_gpu_or_interpreter_says_what_to_do():
    result = python(
        "import torch, fastgan; fastgan.generator_loss(torch.zeros(3))",
        FASTGAN_BACKEND="triton",
        CUDA_VISIBLE_DEVICES="",
    )
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "FASTGAN_BACKEND" in last and "TRITON_INTERPRET=1" in last


@pytest.mark.parametrize("word", ["objective", "Raises", "softplus"])
def test_the_docstring_of_a_loss_explains_it(word):
    import fastgan

    assert word in fastgan.discriminator_loss.__doc__


def imported_for_editors(module):
    """The names that a module imports under `if TYPE_CHECKING`."""
    tree = ast.parse(Path(module.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    return {alias.name for block in blocks for line in block.body for alias in line.names}


@pytest.mark.parametrize("module", [fastgan, compat])
def test_editors_and_dir_see_every_name(module):
    code = f"import {module.__name__} as m; print(*dir(m)); print(*vars(m))"
    listed, there = (line.split() for line in python(code).stdout.splitlines())
    assert set(module.__all__) <= set(listed)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in listed:
        getattr(module, name)
    later = set(module.__all__) - set(there)  # imported at first use
    assert later == imported_for_editors(module) & set(module.__all__)


def test_dir_has_the_main_names():
    assert {"GANTrainer", "game", "compat", "load", "patch", "TrainedGenerator"} <= set(dir(fastgan))
    assert {*compat.modules(), "modules", "patch"} <= set(dir(compat))


def test_layers_are_imported_at_first_use():
    result = python("import fastgan; fastgan.layers.augment.augment; fastgan.layers.upfirdn2d(None, None)")
    assert "x: got NoneType, expected a torch.Tensor" in result.stderr
