"""The benchmark: it runs, it refuses wrong results, and its table says what its numbers say."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from checkout import ROOT

from bench import compare
from bench.harness import promises, report, statistics
from bench.harness.contest import Setting
from bench.suites import losses
from bench.suites.contenders import CONTENDERS, Contender, draw, softplus_loss, why_wrong


def bench(*arguments, timeout=300):
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench")
    arguments = ("--quick", "--sizes", "128", "--dtypes", "float32,float16", "--device", "cpu", "--out", out)
    done = bench("losses", *arguments)
    assert done.returncode == 0, done.stderr[-2000:]
    # no progress bar outside a terminal; torch.compile of a CUDA build says that there is no GPU
    assert not [line for line in done.stderr.splitlines() if "No CUDA runtime is found" not in line]
    return out


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "losses.json").read_text())


def test_losses_records_where_and_how_it_was_measured(results):
    environment = results["environment"]
    for key in ("device", "driver", "torch", "triton", "python", "commit", "dirty", "date", "command"):
        assert key in environment
    assert environment["torch"] == torch.__version__
    assert os.sep not in environment["command"].replace("python -m bench", "")


def test_losses_times_every_contender_at_every_size_and_dtype(results):
    assert [(cell["dtype"], cell["n"]) for cell in results["cells"]] == [("float32", 128), ("float16", 128)]
    for cell in results["cells"]:
        rows = {row["contender"]: row for row in cell["rows"]}
        assert list(rows) == [*(c.name for c in CONTENDERS if c.on != "cuda"), "copy"]
        for name, row in rows.items():
            if name == "torch.compile" and "error" in row:
                continue  # no compiler here; the row says so
            time = row["host_us"]
            assert 0 < time["q1"] <= time["median"] <= time["q3"] and time["low"] <= time["high"]
            assert row["launches"] >= 1 and row["bytes_per_s"] > 0
            if name != "copy":
                assert row["host_speedup"]["low"] <= row["host_speedup"]["high"]
                assert row["peak_bytes"] >= 2 * 128 * (4 if cell["dtype"] == "float32" else 2)
        assert rows["eager"]["host_speedup"]["median"] == 1
        assert cell["bytes"] == 4 * 128 * (4 if cell["dtype"] == "float32" else 2)


def test_the_table_says_what_the_numbers_say(folder, results):
    text = (folder / "losses.md").read_text()
    assert text == losses.SUITE.markdown(results)
    for cell in results["cells"]:
        for row in cell["rows"]:
            if "host_us" not in row or row["contender"] == "copy":
                continue
            line = next(
                line
                for line in text.split(f"## {cell['dtype']}\n")[1].splitlines()
                if line.startswith(f"| 128 | {row['contender']} |")
            )
            assert f"{row['host_speedup']['median']:.2f}×" in line
            assert report.microseconds(row["host_us"]["median"]) in line
    assert (folder / "losses.png").stat().st_size > 10_000


def test_report_draws_from_the_file_alone(folder, results, tmp_path):
    for cell in results["cells"]:
        for row in cell["rows"]:
            if row["contender"] == "drop-in":
                row["host_speedup"] = {"median": 7.77, "low": 7.0, "high": 8.0}
    (tmp_path / "losses.json").write_text(json.dumps(results))
    assert bench("report", tmp_path / "losses.json").returncode == 0
    assert "7.77× [7.00, 8.00]" in (tmp_path / "losses.md").read_text()


def _with_gradients(change):
    def make(scale):
        def step(real, fake):
            loss = softplus_loss(real, fake)
            return loss, *change(*torch.autograd.grad(loss, (real, fake)))

        return step

    return make


WRONG = {
    "zero gradient": lambda real, fake: (torch.zeros_like(real), fake),
    "sides swapped": lambda real, fake: (fake, real),
    "sign": lambda real, fake: (real, -fake),
    "divided by both sides": lambda real, fake: (real / 2, fake / 2),
    "tail not written": lambda real, fake: (
        real,
        fake.clone().index_fill_(0, torch.tensor([len(fake) - 1]), torch.nan),
    ),
    "one element": lambda real, fake: (real.clone().index_fill_(0, torch.tensor([3]), 0.0), fake),
}


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_contender_is_not_timed(wrong, ours):
    good = Contender("good", "softplus", _with_gradients(lambda real, fake: (real, fake)), ours=ours)
    bad = Contender("bad", wrong, _with_gradients(WRONG[wrong]), ours=ours)
    rows = losses.measure(Setting("cpu", True, 0.01), "float32 64", [good, bad])["rows"]
    rows = {row["contender"]: row for row in rows}
    assert "host_us" in rows["good"] and "error" not in rows["good"]
    assert "host_us" not in rows["bad"] and rows["bad"]["error"].startswith("wrong result, not timed: gradient at")


KERNEL_ROWS = """
import json
from bench.harness.contest import Setting
from bench.suites import contenders, losses
ours = [c for c in contenders.CONTENDERS if c.ours or c.name == "eager"]
print(json.dumps(losses.measure(Setting("cpu", True, 0.01), "float32 300", ours)["rows"]))
"""


def test_a_wrong_kernel_is_not_timed(tmp_path):
    """The kernel itself, with a wrong sign in its slope, run by the interpreter: only eager's row has a time."""
    compare.copy_tree(tmp_path / "tree", None)
    file = tmp_path / "tree/fastgan/kernels/criteria.py"
    assert file.read_text().count("tl.fma(s, -w,") == 1
    file.write_text(file.read_text().replace("tl.fma(s, -w,", "tl.fma(s, w,"))
    variables = os.environ | {"TRITON_INTERPRET": "1", "FASTGAN_BACKEND": "triton"}
    command = [sys.executable, "-c", KERNEL_ROWS]
    done = subprocess.run(command, cwd=tmp_path / "tree", env=variables, capture_output=True, text=True, timeout=300)
    rows = {row["contender"]: row for row in json.loads(done.stdout.splitlines()[-1])}
    assert "host_us" in rows["eager"] and "host_us" in rows["copy"]
    for name in ("drop-in", "value_and_grad"):
        assert rows[name]["error"].startswith("wrong result, not timed: gradient at ")
        assert not {"host_us", "host_speedup", "bytes_per_s"} & set(rows[name])


def test_a_contender_that_raises_is_a_row_with_its_error_and_the_others_run():
    def make(scale):
        raise RuntimeError("no compiler\nlong trace")

    contenders = [Contender("raises", "", make), CONTENDERS[1]]
    rows = losses.measure(Setting("cpu", True, 0.01), "float32 8", contenders)["rows"]
    assert rows[0] == {"contender": "raises", "error": "RuntimeError: no compiler"}
    assert "host_us" in rows[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_the_gate_passes_correct_rounding_and_fails_a_slightly_larger_error(dtype):
    real, fake = draw(1000, dtype, "cpu", torch.Generator().manual_seed(0))
    scale = 2.0**15 if dtype == torch.float16 else 1.0
    r64, f64 = real.detach().double(), fake.detach().double()
    loss = torch.nn.functional.softplus(-r64, threshold=100).mean() + torch.nn.functional.softplus(f64).mean()
    grads = [-torch.sigmoid(-r64) / 1000 * scale, torch.sigmoid(f64) / 1000 * scale]
    exact = (loss, *(g.to(dtype) for g in grads))
    assert why_wrong(exact, real, fake, scale, ours=True)[0] is None
    off = (loss, *((g * (1 + 2 * torch.finfo(dtype).eps + 1e-5)).to(dtype) for g in grads))
    assert why_wrong(off, real, fake, scale, ours=True)[0] is not None


def test_a_ratio_is_taken_within_rounds():
    slow, fast = [20.0, 22.0, 200.0, 21.0, 19.0], [10.0, 11.0, 100.0, 10.5, 9.5]
    found = statistics.ratio(slow, fast)
    assert found["median"] == 2 and found["low"] == found["high"] == 2


def _results(kind, cells):
    return {"device_type": kind, "cells": cells}


def test_promises_are_judged_by_the_numbers():
    def cell(n, value_and_grad, drop_in, dtype="float32"):
        speedups = (("value_and_grad", value_and_grad), ("drop-in", drop_in))
        rows = [{"contender": c, "host_speedup": {"median": s, "low": s, "high": s}} for c, s in speedups]
        return {"dtype": dtype, "n": n, "rows": rows}

    good = [cell(128, 2.1, 1.2), cell(2**18, 2.6, 1.9), cell(2**22, 2.5, 1.9)]
    assert {verdict for *_, verdict in losses.promises(_results("cpu", good))} == {"met"}
    slow = [*good[:2], cell(2**22, 2.4, 1.9), cell(16, 2.0, 0.97, "bfloat16")]
    verdicts = [verdict for *_, verdict in losses.promises(_results("cpu", slow))]
    assert verdicts == ["met", "met", "not met", "met", "not met", "met"]
    assert "0.97× at worst (bfloat16, 16)" in promises.table(losses.promises(_results("cpu", slow)))
    unmeasured = {verdict for *_, verdict in losses.promises(_results("cuda", []))[:-1]}
    assert unmeasured == {"not measured"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("losses", "--sizes", "0"), "size '0'"),
        (("losses", "--sizes", "2^40"), "from 1 to 2^28"),
        (("losses", "--dtypes", "int8"), "dtype 'int8'"),
        (("losses", "--budget", "-1"), "seconds above 0"),
        (("report", "no_such.json"), "not a results file"),
        (("machine-code", "--targets", "sm_1"), "target 'sm_1'"),
        (("nothing",), "invalid choice"),
        (("--minutes", "0"), "above 0"),
        (("batches", "--only", "nothing"), "configuration 'nothing'"),
        (("compare", "no-such-commit"), "REV: got 'no-such-commit'"),
        (("report", "--agree", "no_such.json", "nor_this.json"), "expected two results files"),
    ],
)
def test_bad_arguments_give_one_line_and_exit_code_2(arguments, said):
    done = bench(*arguments)
    assert done.returncode == 2
    assert said in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""


def test_the_interpreter_is_refused(monkeypatch):
    from bench.__main__ import main

    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert main(["losses"]) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_missing_gpu_is_one_clear_line():
    done = bench("losses", "--device", "cuda")
    assert done.returncode == 2 and "no CUDA device" in done.stderr


def test_a_gpu_file_is_reported_with_its_own_columns_and_promises(results, tmp_path):
    """No GPU is needed: the file is a CPU's with a GPU's columns."""
    results = json.loads(json.dumps(results)) | {"device_type": "cuda"}
    results["environment"] |= {"device": "A GPU", "driver": "1.2.3"}
    speedup = {"median": 7.0, "low": 6.9, "high": 7.1}
    for cell in results["cells"]:
        for n in (cell["n"], 2**26):
            cell = cell | {"n": n, "cold": n == 2**26, "rows": [dict(row) for row in cell["rows"]]}
            results["cells"] = [c for c in results["cells"] if (c["dtype"], c["n"]) != (cell["dtype"], n)] + [cell]
            for row in cell["rows"]:
                row.pop("error", None)
                row |= {"launches": 1 + (row["contender"] == "drop-in"), "peak_bytes": 1, "bytes_per_s": 4e12}
                row |= {
                    f"{kind}_us": {"median": 3.0, "q1": 2, "q3": 4, "low": 2.5, "high": 3.5}
                    for kind in ("host", "device")
                }
                row |= {f"{k}_{a}": speedup for k in ("host", "device") for a in ("speedup", "against_compile")}
                row |= {"share_of_copy": {"median": 0.93, "low": 0.92, "high": 0.94}}
                row |= {"graph_us": 1.5} if n < 2**20 else {}
    text = losses.SUITE.markdown(results)
    assert "driver 1.2.3" in text and "| 128° | drop-in |" in text and "| 2^26 | value_and_grad |" in text
    assert "93% [92%, 94%]" in text and "| 1.50 |" in text
    verdicts = [verdict for *_, verdict in losses.promises(results)]
    assert verdicts.count("met") == len(verdicts) - 3 and verdicts.count("not measured") == 3  # no bfloat16 here
    losses.picture(results, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").stat().st_size > 10_000


def test_a_child_process_inherits_the_options_except_those_named():
    from bench.harness.processes import inherited

    given = ["--quiet", "--limit", "179.5", "--out", "x", "--no-compile", "--budget=3", "--sizes", "128"]
    assert inherited(given, ("--limit", "--out", "--budget", "--quiet")) == ["--no-compile", "--sizes", "128"]
