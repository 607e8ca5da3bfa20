"""Each deliberate bug of mutants.py, planted in a copy of the sources, makes the suite fail."""

import concurrent.futures
import multiprocessing
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from mutants import MUTANTS

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pytest", "torch", "torch._dynamo", "torch.testing", "triton"])


def plant(folder, mutant=None):
    """Copy the sources, with fastgan.kernels in its installed place, and plant a bug."""
    package = folder / "fastgan"
    shutil.copytree(ROOT / "fastgan", package)  # with compiled files: only the mutant's is compiled again
    for path in (ROOT / "tests").rglob("*.py"):
        if path.parent != ROOT / "tests" / "driver":
            shutil.copy(path, folder)  # all into one folder: their names differ
    if mutant:
        path = package / mutant.file if mutant.file.startswith("kernels/") else folder / mutant.file
        path.write_text(mutant.planted(path.read_text()))


def run(folder, test_file, only):
    """(exit code of pytest, its output), from a process that has torch and Triton imported."""
    path = folder / "output.txt"
    process = PROCESSES.Process(target=_run_pytest, args=(str(folder), str(path), Path(test_file).name, only))
    process.start()
    process.join(timeout=300)
    process.kill()
    output = path.read_text()
    assert f"ran {folder}" in output, "the copy was not what ran: " + output[-3000:]
    return process.exitcode, output


def _run_pytest(folder, path, test_file, only):
    output = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1), os.dup2(output, 2)
    os.chdir(folder)
    sys.path[:] = [folder, *(p for p in sys.path if not Path(p or ".").resolve().is_relative_to(ROOT / "tests"))]
    sys.dont_write_bytecode = True
    os.environ.update(PYTEST_DISABLE_PLUGIN_AUTOLOAD="1", PYTHONPATH=folder)
    torch.set_num_threads(1)
    options = ["-x", "-q", "-W", "ignore", "-p", "no:cacheprovider", "--assert=plain"]
    code = pytest.main([*options, "-k", only, "-m", "not slow", test_file])
    print("ran", sys.modules["fastgan"].__file__, flush=True)
    sys.exit(code)


def run_its_tests(name, folder):
    mutant = MUTANTS[name]
    plant(folder, mutant)
    return run(folder, mutant.tests, mutant.only)


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """{mutant: future result of its tests}: one run for each processor, on one thread. Empty under pytest-xdist, which
    starts a process for each processor."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        yield {}
        return
    asked = [item.callspec.params["name"] for item in request.session.items if "test_mutant_is_caught" in item.name]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(run_its_tests, name, tmp_path_factory.mktemp("mutant")) for name in asked}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(results, name, tmp_path):
    code, output = results[name].result() if results else run_its_tests(name, tmp_path)
    assert code == 1 and "1 failed" in output, output[-3000:]
    assert "ImportError" not in output and "SyntaxError" not in output


def test_without_a_mutant_the_copy_passes(tmp_path):
    plant(tmp_path)
    backend = "triton-cuda" if torch.cuda.is_available() else "triton-cpu"
    code, output = run(
        tmp_path, "tests/kernels/test_accuracy.py", f"{backend} and (test_generator or test_scalars or test_statistics)"
    )
    assert code == 0 and " passed" in output, output[-3000:]
