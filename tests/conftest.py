import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

CUDA = torch.cuda.is_available()

with torch.device("meta"):  # PyTorch caches here the functions that take a device: before a test replaces one
    torch.empty(0)


def interpreter_runs() -> bool:
    """Not with Triton before 3.7 and NumPy 2.4 or later, which does not convert an array of one element to a number."""
    try:
        triton, numpy = (tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy"))
    except PackageNotFoundError:
        return True  # without Triton nothing is interpreted
    return triton >= (3, 7) or numpy < (2, 4)


if not CUDA and interpreter_runs():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # the real kernels, on CPU tensors; before fastgan is imported

import pytest  # noqa: E402

# A failed assertion in a helper shows the compared values, as in a test.
helpers = {path.stem for path in Path(__file__).parent.rglob("*.py") if not path.stem.startswith("test_")}
pytest.register_assert_rewrite(*helpers - {"conftest", "interpreter"})

if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    import interpreter

    interpreter.speed_up()

if "PYTEST_XDIST_WORKER" in os.environ:  # one process for each core: more threads would compete
    torch.set_num_threads(1)

# Files that take minutes and rarely fail, such as those that kill processes. CI runs them after the others.
THOROUGH = {
    "test_bench_gate",
    "test_machine_code",
    "test_mutations",
    "test_bench_gpu",
    "test_distributed",
    "test_reliability",
}

# Tests that take ten seconds under the interpreter. With the other backend they run with the rest.
LONG_INTERPRETED = {
    *("test_gradcheck_and_gradgradcheck", "test_one_batch_of_both_sides", "test_a_list_takes_one_launch"),
    *("test_opcheck", "test_reruns_are_bit_identical", "test_transforms"),
    "test_compile_fullgraph",
}

RUNS = [("torch", "cpu")]  # (backend, device)
if CUDA:
    RUNS += [pytest.param(("triton", "cuda"), marks=pytest.mark.gpu), ("torch", "cuda")]
elif os.environ.get("TRITON_INTERPRET") == "1":
    RUNS += [("triton", "cpu")]


@pytest.fixture(params=RUNS, ids="-".join)
def device(request, monkeypatch):
    """Run the test once for each backend, with that backend forced; the value is the device for its tensors."""
    backend, device = request.param
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", backend)
    return torch.device(device)


@pytest.fixture
def kernel_device(monkeypatch):
    """Force the Triton backend; the value is the device where it runs: the GPU, or the CPU through the interpreter."""
    if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no GPU, and TRITON_INTERPRET is not 1: Triton before 3.7 interprets with NumPy below 2.4 alone")
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "triton")
    return torch.device("cuda" if CUDA else "cpu")


@pytest.fixture
def closed_form(monkeypatch):
    """Force the backend of PyTorch formulas."""
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")


@pytest.fixture
def poisoned(monkeypatch):
    """Fill the results of `torch.empty` and `torch.empty_like` with NaN, so that an unwritten output shows."""

    def poison(function):
        def allocate(*args, **kwargs):
            out = function(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return allocate

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))


@pytest.fixture
def one_thread():
    """Small networks are slower with more threads, and many times slower if other processes run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(config, items):
    if not CUDA:
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and there is none"))
    for item in items:
        interpreted = not CUDA and ("triton" in item.nodeid or "kernel_device" in item.fixturenames)
        if item.path.stem in THOROUGH or (interpreted and item.originalname in LONG_INTERPRETED):
            item.add_marker(pytest.mark.thorough)
    if not config.option.markexpr:
        apart = [item for item in items if {"slow", "thorough"} & set(item.keywords)]
        config.hook.pytest_deselected(items=apart)
        items[:] = [item for item in items if item not in set(apart)]


def pytest_runtest_logreport(report):
    """Log each traceback at once, so that a run that is stopped early has it."""
    file = os.environ.get("FASTGAN_TEST_FAILURES")
    if file and report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        with open(file, "a", encoding="utf-8") as log:
            log.write(f"\n---- {report.nodeid} ({report.when})\n{report.longreprtext}\n")
