"""Triton's real launcher on a driver without a device: what a GPU would receive, in both ways to launch.

No kernel runs here; the interpreter tests values, and ahead-of-time builds test machine code."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import triton
from checkout import ROOT, TESTS

FOLDER = TESTS / "driver"
INCLUDE = Path(triton.__file__).parent / "backends/nvidia/include"

pytestmark = pytest.mark.skipif(torch.version.hip is not None, reason="the stand-in driver is NVIDIA's")


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Build the stand-in driver; return its folder."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in driver with")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    command = [compiler, "-shared", "-fPIC", f"-I{INCLUDE}", "-Wl,-soname,libcuda.so.1", "-o", library]
    done = subprocess.run([*command, FOLDER / "stand_in.c"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "libcuda.so").symlink_to("libcuda.so.1")
    return folder


def run(driver, *arguments):
    left_out = ("TRITON_INTERPRET", "FASTGAN_BACKEND", "FASTGAN_CACHED_LAUNCH")
    variables = {k: v for k, v in os.environ.items() if k not in left_out}
    variables["FASTGAN_CACHED_LAUNCH"] = "1"  # also on a version that is not supported yet
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, FOLDER / "calls.py", driver, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd=ROOT, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_the_cached_launch_gives_the_driver_what_the_ordinary_one_does(driver):
    """Every parameter, byte for byte, the grid, the stream and the function; both match the call's arguments."""
    rows = run(driver, "compare")
    kernels = {
        "adversarial_kernel",
        "augment_kernel",
        "bias_act_kernel",
        "draw_kernel",
        "filtered_lrelu_kernel",
        "matching_kernel",
        "mmd_kernel",
        "upfirdn2d_kernel",
    }
    assert {row["kernel"] for row in rows} == kernels and len(rows) >= 65
    wrong = [row for row in rows if not all(row[key] for key in ("same", "right", "grid", "counted"))]
    assert not wrong
    assert all(row["short"] for row in rows)


def test_no_two_kinds_of_call_share_a_key(driver):
    (found,) = run(driver, "keys", 2500, 0)
    assert found["keys"] < found["calls"] == 2500 and not found["collisions"]


@pytest.mark.parametrize("hole", ["addresses", "halves"])
def test_an_incomplete_key_is_found(driver, hole):
    (found,) = run(driver, "keys", 1200, 0, hole)
    assert found["collisions"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 3))
def test_no_two_kinds_of_ten_thousand_calls_share_a_key(driver, seed):
    (found,) = run(driver, "keys", 10_000, seed)
    assert found["calls"] == 10_000 and not found["collisions"]
