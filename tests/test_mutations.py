"""The suite bites: each deliberate bug, planted in a copy of the sources, makes it fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
KERNEL, CRITERION, NUMERICS = "kernels/adversarial.py", "kernels/criteria.py", "kernels/numerics.py"
OBJECTIVES, OPERATORS, CLOSED = "fastgan/objectives.py", "fastgan/operators.py", "fastgan/closed_form.py"
ACCURACY, AUTOGRAD = "tests/test_accuracy.py", "tests/test_autograd.py"

# name: (file, what stands there, what replaces it, backend, test file)
MUTANTS = {
    "zero gradient": (KERNEL, "offset, slope.to(", "offset, (slope * 0).to(", "triton and discriminator", ACCURACY),
    "zero gradient in the tail": (
        KERNEL,
        "lane, slope.to(",
        "lane, (slope * 0).to(",
        "triton and discriminator",
        ACCURACY,
    ),
    "swapped sides": (
        *(OBJECTIVES, "(float(real_label), float(fake_label))", "(float(fake_label), float(real_label))"),
        *("triton and discriminator", ACCURACY),
    ),
    "N of the other side, one program": (
        KERNEL,
        "/ n.to(ACC)\n            value",
        "/ _plain(sizes[0]).to(ACC)\n            value",
        "triton and discriminator",
        ACCURACY,
    ),
    "N of the other side": (
        KERNEL,
        "s * w / n.to(ACC)",
        "s * w / _plain(sizes[0]).to(ACC)",
        "triton and discriminator",
        ACCURACY,
    ),
    "mean over both sides": (
        *(
            KERNEL,
            "s * w / n.to(ACC)",
            "s * w / (_plain(sizes[0]) + _plain(sizes[K - 1])).to(ACC)",
            "triton and discriminator",
            ACCURACY,
        ),
    ),
    "lost tail": (KERNEL, "if (tail < n) &", "if (tail > n) &", "triton and discriminator", ACCURACY),
    "tail in the value twice": (KERNEL, "tl.where(inside, value, 0.0)", "value", "triton and discriminator", ACCURACY),
    "wrong sign of the slope": (CRITERION, "tl.fma(s, -w,", "tl.fma(s, w,", "triton and discriminator", ACCURACY),
    "naive log(1 + e)": (
        NUMERICS,
        "return v * tl.fma(p, u, 1.0), v * q",
        "return tl.log(w), v * q",
        "triton",
        ACCURACY,
    ),
    "exp without its residual": (
        NUMERICS,
        "return e - e * tl.fma(",
        "return e - 0.0 * tl.fma(",
        "triton and sure",
        ACCURACY,
    ),
    "a program's sum left out": (
        KERNEL,
        "used = i < _plain(ends[K - 1])",
        "used = i < _plain(ends[K - 1]) - 1",
        "triton and sure",
        ACCURACY,
    ),
    "ticket never reset": (
        KERNEL,
        "tl.atomic_xchg(counter, 0",
        "tl.atomic_xchg(counter, ticket",
        "triton and statistics",
        ACCURACY,
    ),
    "weight left out of the loss": (KERNEL, "weight * (value / n)", "value / n", "triton and labels", ACCURACY),
    "number as grad_scale ignored": (KERNEL, "s = zero + factor[0]", "s = zero + 1.0", "triton and labels", ACCURACY),
    "tensor as grad_scale ignored": (
        KERNEL,
        "s *= tl.load(scale)",
        "s *= 1 + 0 * tl.load(scale)",
        "triton and labels",
        ACCURACY,
    ),
    "grad_output ignored": (
        *(OPERATORS, "gradient=True, scale=scale)[2]", "gradient=True, scale=None)[2]", "triton", AUTOGRAD),
    ),
    "curvature of the wrong sign": (
        *(OPERATORS, "p * torch.sigmoid(-wide)).to", "-p * torch.sigmoid(-wide)).to", "triton", AUTOGRAD),
    ),
    "closed form: zero gradient": (CLOSED, "grad.mul_(slope_weight)", "grad.mul_(0.0)", "torch-cpu", ACCURACY),
    "closed form: zero gradient of a block": (CLOSED, " p.mul_(slope_weight)", " p.mul_(0.0)", "several", ACCURACY),
    "closed form: wrong sign": (CLOSED, "(-weight if flip else weight)", "weight", "torch-cpu", ACCURACY),
    "closed form: merge off by a hundredth": (CLOSED, "b, value=-1.0)", "b, value=-1.01)", "several", ACCURACY),
    "closed form: rest dropped": (CLOSED, "torch.log1p(-m[-left:]).sum()", "(m.sum() * 0)", "several", ACCURACY),
    "closed form: last block dropped": (CLOSED, "range(0, n, BLOCK)", "range(0, n - 4, BLOCK)", "several", ACCURACY),
    "closed form: infinities hidden": (
        *(CLOSED, "if not math.isfinite(mean_loss) or not math.isfinite(logit_sum):", "if False:"),
        *("torch-cpu and special", ACCURACY),
    ),
    "closed form: fence on the other side": (
        *(CLOSED, "wide.numpy() >= 0", "wide.numpy() > 0", "torch-cpu and statistics", ACCURACY),
    ),
}


def plant(folder, mutant=None):
    """A copy of the sources, with fastgan.kernels in its installed place, and a bug in it."""
    package = folder / "fastgan"
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "fastgan", package, ignore=ignore)
    shutil.copytree(ROOT / "kernels", package / "kernels", ignore=ignore)
    for name in ("conftest.py", "oracle.py", "test_accuracy.py", "test_autograd.py"):
        shutil.copy(ROOT / "tests" / name, folder)
    if mutant:
        file, old, new = mutant
        path = package / file if file.startswith("kernels/") else folder / file
        source = path.read_text()
        assert old in source, f"{file} no longer has {old!r}: mend the mutant"
        path.write_text(source.replace(old, new))


def run(folder, test_file, only):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-W", "ignore", "-k", only, Path(test_file).name],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(tmp_path, name):
    file, old, new, backend, test_file = MUTANTS[name]
    plant(tmp_path, (file, old, new))
    result = run(tmp_path, test_file, backend)
    assert result.returncode == 1 and "1 failed" in result.stdout, result.stdout[-3000:] + result.stderr[-1000:]
    assert "ImportError" not in result.stdout and "SyntaxError" not in result.stdout


def test_without_a_mutant_the_copy_passes(tmp_path):
    plant(tmp_path)
    backend = "triton-cuda" if torch.cuda.is_available() else "triton-cpu"
    result = run(tmp_path, ACCURACY, f"{backend} and (test_generator or test_scalars or test_statistics)")
    assert result.returncode == 0 and " passed" in result.stdout, result.stdout[-3000:]
    where = subprocess.run(
        [sys.executable, "-c", "import fastgan.kernels as k; print(k.__file__)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert str(tmp_path) in where.stdout, "the copy was not what ran"
