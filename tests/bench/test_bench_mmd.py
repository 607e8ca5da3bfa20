"""`python -m bench mmd`: it runs, it refuses wrong results, and its table says what its numbers say."""

from __future__ import annotations

import json

import pytest
import torch

import fastgan
from bench.harness import promises as judged
from bench.harness.contest import Setting
from bench.suites import mmd

NAMES = ["256 x 2", "256 x 64"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("mmd")
    mmd.SUITE.write(mmd.SUITE.run("cpu", NAMES, quick=True, budget_s=0.02, compiled=False, out=out / "mmd.json"), out)
    return out


@pytest.fixture
def results(folder):
    return json.loads((folder / "mmd.json").read_text())


def test_the_file_and_the_table_have_every_row(folder, results):
    assert results["suite"] == "mmd" and [cell["name"] for cell in results["cells"]] == NAMES
    text = (folder / "mmd.md").read_text()
    assert text == mmd.SUITE.markdown(results) and (folder / "mmd.png").stat().st_size > 10_000
    for cell in results["cells"]:
        rows = {row["contender"]: row for row in cell["rows"]}
        assert list(rows) == ["eager", "torch.compile", "drop-in", "value_and_grad"]
        assert rows["torch.compile"] == {"contender": "torch.compile", "error": "left out with --no-compile"}
        for name, row in rows.items():
            line = next(x for x in text.splitlines() if x.startswith(f"| {cell['n']} | {cell['d']} | {name} |"))
            if "host_us" in row:
                assert row["peak_bytes"] > 0 and row["launches"] >= 1 and row["worst_relative_error"] < 1e-3
                assert f"{row['host_speedup']['median']:.2f}×" in line
        assert rows["value_and_grad"]["worst_relative_error"] < 5e-6


WRONG = {
    "half the gradient": lambda loss, grad: (loss, grad / 2),
    "a loss that is off": lambda loss, grad: (loss * 1.001, grad),
    "no gradient at the first point": lambda loss, grad: (loss, torch.cat((0 * grad[:1], grad[1:]))),
    "NaN": lambda loss, grad: (loss, grad * torch.nan),
    "another shape": lambda loss, grad: (loss, grad[1:]),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_contender_is_not_timed(monkeypatch, wrong):
    good = mmd.direct

    def bad(d, precision="fp32"):
        step = good(d, precision)
        return lambda fake, real: WRONG[wrong](*step(fake, real))

    monkeypatch.setattr(mmd, "direct", bad)
    rows = {row["contender"]: row for row in mmd.measure(Setting("cpu", True, 0.01, False), "256 x 2")["rows"]}
    assert "host_us" in rows["eager"] and "host_us" in rows["drop-in"]
    assert (
        rows["value_and_grad"]["error"].startswith("wrong result, not timed: ")
        and "host_us" not in rows["value_and_grad"]
    )


def test_promises_are_judged_by_the_numbers():
    def cells(n, d, **rows):
        return {"name": f"{n} x {d}", "n": n, "d": d, "rows": [{"contender": k} | row for k, row in rows.items()]}

    def fast(v):
        return {"host_speedup": {"median": v, "low": v, "high": v}, "peak_bytes": 4096**2}

    found = [
        cells(4096, 2, **{"drop-in": fast(2.1), "value_and_grad": fast(3.0)}),
        cells(4096, 64, **{"drop-in": fast(1.9), "value_and_grad": {"error": "wrong"}}),
    ]
    verdicts = [verdict for *_, verdict in mmd.promises({"device_type": "cpu", "cells": found})]
    assert verdicts == ["met", "not met", "met", "not measured", "not met", "not met"]
    row = {f"device_{k}": {"median": v, "low": v, "high": v} for k, v in (("speedup", 6.0), ("against_compile", 1.5))}
    found = [cells(16384, 64, value_and_grad=row | {"launches": 1, "peak_bytes": 2**22})]
    verdicts = [verdict for *_, verdict in mmd.promises({"device_type": "cuda", "cells": found})]
    assert verdicts == ["met", "not met", "met", "met", "met"] and judged.table(
        mmd.promises({"device_type": "cuda", "cells": found})
    )


def test_a_gpu_file_has_its_own_columns(results, tmp_path):
    """No GPU is needed: the file is a CPU's with a GPU's columns."""
    results |= {"device_type": "cuda", "products": {"fp32": 5e13, "tf32": 4e14}}
    for cell in results["cells"]:
        for row in cell["rows"]:
            row.pop("error", None)
            row |= {"launches": 1, "peak_bytes": 1, "share_of_limit": 0.25, "limit": "tf32"}
            for kind in ("host", "device"):
                row[f"{kind}_us"] = {"median": 3.0, "q1": 2, "q3": 4, "low": 2.5, "high": 3.5}
                for column in ("speedup", "against_compile"):
                    row[f"{kind}_{column}"] = {"median": 7.0, "low": 6.9, "high": 7.1}
    text = mmd.SUITE.markdown(results)
    rows = [x.split("|") for x in text.splitlines() if x.startswith(("| points", "| 256"))]
    assert len({len(row) for row in rows}) == 1 and " 25% tf32 " in rows[1] and "tf32: 400.0 Tflop/s" in text
    mmd.picture(results, tmp_path / "mmd.png")


def test_operations_are_counted():
    assert mmd.flops(10, 10, 4, False) == 200 * 16 + 50 * 8 and mmd.flops(10, 10, 2, True) == 200 * 10 + 50 * 6
    assert set(mmd.cells("cuda")) - set(mmd.cells("cpu")) == {"16384 x 2", "16384 x 64"}
    assert set(mmd.steps("cuda", 64)) == set(mmd.CONTENDERS) and len(mmd.steps("cuda", 2)) == 4


def test_the_exact_gradient_is_that_of_autograd():
    fake, real = mmd.draw(40, 3, "cpu", torch.Generator().manual_seed(0))
    leaf = fake.detach().double().requires_grad_()
    loss = fastgan.reference.mmd_loss(leaf, real.double(), mmd.bandwidths(3))
    loss.backward()
    got = mmd.exact(fake, real, mmd.bandwidths(3), torch.arange(40))
    torch.testing.assert_close(got[0], loss.detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(got[2], leaf.grad, rtol=1e-7, atol=1e-10)


def test_a_run_stops_at_its_limit_and_an_unknown_cell_is_named(tmp_path):
    results = mmd.SUITE.run("cpu", ["256 x 2"], limit_s=1e-9, out=tmp_path / "mmd.json")
    assert not results["cells"] and "Not measured: 256 x 2" in mmd.SUITE.markdown(results)
    with pytest.raises(ValueError, match="cell '7 x 7'"):
        mmd.SUITE.run("cpu", ["7 x 7"])
