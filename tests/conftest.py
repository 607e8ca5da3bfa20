import importlib.util
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

CUDA = torch.cuda.is_available()

with torch.device("meta"):  # PyTorch notes, once, which functions a device is for: before a test puts others in place
    torch.empty(0)


def interpreter_runs() -> bool:
    """Not in Triton before 3.7 with NumPy 2.4 and later, where an array of one element is no number."""
    try:
        triton, numpy = (tuple(map(int, version(name).split(".")[:2])) for name in ("triton", "numpy"))
    except PackageNotFoundError:
        return True  # it is not asked to
    return triton >= (3, 7) or numpy < (2, 4)


if not CUDA and interpreter_runs():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # the real kernels, on CPU tensors; before fastgan is imported

import pytest  # noqa: E402

# Helpers that check something say what was compared, as tests do.
helpers = {path.stem for path in Path(__file__).parent.rglob("*.py") if not path.stem.startswith("test_")}
pytest.register_assert_rewrite(*helpers - {"conftest", "interpreter"})

if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    import interpreter

    interpreter.hasten()

if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core already: threads of each would wait for one another
    torch.set_num_threads(1)

# Files that take minutes and rarely fail, processes that are killed among them: CI runs them after the others.
THOROUGH = {
    "test_bench_gate",
    "test_machine_code",
    "test_mutations",
    "test_bench_gpu",
    "test_distributed",
    "test_reliability",
}

# And tests that the interpreter takes ten seconds for; the other backend's run with the rest.
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
    """Runs a test once a backend, with that backend chosen; the value is the device its tensors go on."""
    backend, device = request.param
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", backend)
    return torch.device(device)


@pytest.fixture
def kernel_device(monkeypatch):
    """The device where the Triton kernels run here, chosen as backend: the GPU, or the CPU through the interpreter."""
    if not CUDA and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no GPU, and TRITON_INTERPRET is not 1: Triton before 3.7 interprets with NumPy below 2.4 alone")
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "triton")
    return torch.device("cuda" if CUDA else "cpu")


@pytest.fixture
def closed_form(monkeypatch):
    """The formulas in PyTorch, chosen as backend."""
    monkeypatch.setattr("fastgan.operators.dispatch.forced_backend", "torch")


@pytest.fixture
def poisoned(monkeypatch):
    """Fills what `torch.empty` and `torch.empty_like` return with NaN, so that an output nobody writes shows."""

    def poison(function):
        def allocate(*args, **kwargs):
            out = function(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return allocate

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))


@pytest.fixture
def one_thread():
    """Networks this small are slower with more, many times so beside other work."""
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
    """A traceback as soon as there is one: who stops the run before its end has it all the same."""
    file = os.environ.get("FASTGAN_TEST_FAILURES")
    if file and report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        with open(file, "a", encoding="utf-8") as log:
            log.write(f"\n---- {report.nodeid} ({report.when})\n{report.longreprtext}\n")
