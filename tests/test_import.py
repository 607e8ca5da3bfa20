"""Importing the package initialises nothing and costs next to nothing; each test is a process of its own."""

import os
import subprocess
import sys

import pytest


def python(code, **environment):
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FASTGAN_BACKEND")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**env, **environment}, timeout=120
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
    """At most 0.3 s beyond `import torch`: the best of three, since others run on this machine too."""
    code = "import time, torch; t = time.perf_counter(); import fastgan; print(time.perf_counter() - t)"
    seconds = min(float(python(code).stdout) for _ in range(3))
    assert seconds < 0.3


def test_nothing_imports_torchvision():
    from pathlib import Path

    root = Path(__file__).parent.parent
    for path in [*root.glob("fastgan/**/*.py"), *root.glob("kernels/*.py"), *root.glob("bench/*.py")]:
        assert "import torchvision" not in path.read_text(), path


def test_kernels_is_no_top_level_package():
    result = subprocess.run(
        [sys.executable, "-c", "import fastgan.kernels, importlib.util as u; assert u.find_spec('kernels') is None"],
        capture_output=True,
        text=True,
        cwd=os.path.dirname(os.__file__),
    )
    assert result.returncode == 0, result.stderr


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
def test_docstrings_teach(word):
    import fastgan

    assert word in fastgan.discriminator_loss.__doc__
