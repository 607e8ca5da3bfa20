"""`python -m bench layers`: it runs, it refuses wrong results, and its calls are those of StyleGAN's networks."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch

from bench.codebases import stylegan
from bench.harness.contest import Setting
from bench.suites import layers

NAMES = ["s2-lrelu-4", "s2-skip-up-8", "s3-3"]
CELLS = [f"{name} {way}" for name in NAMES[:2] for way in layers.PASSES]


def small(call, dtype="float32"):
    """Return the call for two images of two channels."""
    return dataclasses.replace(call, shape=(2, 2, *call.shape[2:]), dtype=dtype)


@pytest.fixture
def of_two_channels(monkeypatch, one_thread):
    monkeypatch.setattr(layers, "fitted", lambda call, device: small(call))


def test_the_file_and_the_table_have_every_row(of_two_channels, tmp_path):
    suite = layers.SUITE
    suite.write(
        suite.run("cpu", NAMES[:2], quick=True, budget_s=0.01, compiled=False, out=tmp_path / "l.json"), tmp_path
    )
    results = json.loads((tmp_path / "l.json").read_text())
    assert [cell["name"] for cell in results["cells"]] == CELLS
    text = (tmp_path / "layers.md").read_text()
    assert text == suite.markdown(results) and (tmp_path / "layers.png").stat().st_size > 10_000
    for cell in results["cells"]:
        rows = {row["contender"]: row for row in cell["rows"]}
        assert list(rows) == ["eager", "torch.compile", "fastgan", "copy"]
        assert rows["torch.compile"] == {"contender": "torch.compile", "error": "left out with --no-compile"}
        for name in ("eager", "fastgan"):
            row = rows[name]
            assert row["peak_bytes"] > 0 and row["launches"] >= 1 and row["worst_relative_error"] < 1e-5
            assert row["bytes_per_s"] == pytest.approx(cell["bytes"] / row["host_us"]["median"] * 1e6)
            line = f"| {cell['call']} | {cell['pass']} | {name} |"
            assert f"{row['host_speedup']['median']:.2f}×" in next(x for x in text.splitlines() if x.startswith(line))
    assert [verdict for *_, verdict in layers.promises(results)][-1] == "met"


WRONG = {
    "half of it": lambda y: y * 0.5,
    "a thousandth off": lambda y: y * 1.001,
    "a row of pixels lost": lambda y: y.index_fill(2, torch.tensor([y.shape[2] // 2]), 0),
    "NaN": lambda y: y * torch.nan,
    "another shape": lambda y: y[:, :, 1:],
}


@pytest.mark.parametrize("name", NAMES)
def test_wrong_results_are_found(one_thread, name):
    call, generator = small(layers.CALLS[name]), torch.Generator().manual_seed(0)
    for way in layers.PASSES:
        batch = layers.draw(call, "cpu", generator)
        against = layers.expected(call, way, batch)
        right = layers.derivatives(layers.ours(call), way, batch)
        for name in ("eager", "fastgan"):
            assert layers.why_wrong(name, right, call, against)[0] is None
            assert (
                layers.why_wrong(name, right[1:], call, against)[0]
                == f"{len(right) - 1} results, expected {len(right)}"
            )
            for k, wrong in ((k, wrong) for k in range(len(right)) for wrong in WRONG.values()):
                if right[k].dim() == 4:
                    assert layers.why_wrong(name, [*right[:k], wrong(right[k]), *right[k + 1 :]], call, against)[0]
        if len(right) == 3:  # the gradient in b
            assert layers.why_wrong("fastgan", [*right[:2], right[2] * 1.001], call, against)[0]


def test_a_wrong_contender_is_not_timed(of_two_channels, monkeypatch):
    right = layers.ours
    monkeypatch.setattr(layers, "ours", lambda call: lambda *given: right(call)(*given) * 0.5)
    found = layers.measure(Setting("cpu", True, 0.001, False), "s2-lrelu-4 backward")["rows"]
    rows = {row["contender"]: row for row in found}
    assert "host_us" in rows["eager"] and "host_us" not in rows["fastgan"]
    assert rows["fastgan"]["error"].startswith("wrong result, not timed: result 0, element 0")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("way", layers.PASSES)
def test_every_call_is_right(one_thread, way, dtype):
    """All calls that fit in a second; larger ones have the same settings."""
    generator = torch.Generator().manual_seed(0)
    names = ("s2-mapping", "s2-lrelu-8", "s2-rgb-8", "s2-blur-up-8", "s2-blur-down-8", "s2-skip-down-8", "s3-3")
    # On CPUs with float16 arithmetic, a float16 depthwise convolution of 16 taps or more does not end.
    for name in names[: -1 if dtype == "float16" else None]:
        call = small(layers.CALLS[name], dtype)
        batch = layers.draw(call, "cpu", generator)
        against = layers.expected(call, way, batch)
        wrong, worst = layers.why_wrong("fastgan", layers.derivatives(layers.ours(call), way, batch), call, against)
        assert wrong is None and worst < 0.02, (name, wrong)  # worst: an activation rounded past 0


def test_sizes_are_those_of_the_networks():
    """StyleGAN3-T of 256 pixels, as its authors' layers are named: resolution and channels."""
    made = stylegan.stylegan3_layers(base=32768)
    assert [layer.sizes[1] for layer in made] == [*[36] * 3, *[52] * 2, *[84] * 2, *[148] * 3, *[276] * 3, 256, 256]
    assert [layer.channels for layer in made] == [*[512] * 9, 362, 256, 181, 128, 128, 3]
    for call in layers.CALLS.values():
        y = layers.eager(call)(torch.zeros(1, 1, *call.shape[2:]), torch.zeros(1), *call.filters)
        if call.op == "filtered_lrelu":
            assert y.shape[2] == made[int(call.name.split("-")[1])].sizes[1], call.name
        elif len(call.shape) == 4:
            side = int(call.name.rsplit("-", 1)[1])
            assert y.shape[2] == {"down": side // 2 if "skip" in call.name else side + 1}.get(
                call.name.split("-")[2], side
            )
    assert stylegan.smooth().sum() == 1 and abs(stylegan.lowpass(12, 8.0, 4.0, 64.0).sum().item() - 1) < 1e-6


def test_a_filter_of_stylegan3_passes_below_and_stops_above():
    f = stylegan.lowpass(24, 4.0, 8.0, 64.0).double()
    at = torch.arange(24, dtype=torch.float64)

    def response(cycles):
        return torch.polar(f, -2 * torch.pi * cycles / 64 * at).sum().abs().item()

    assert response(0.5) > 0.9 and response(4.0) == pytest.approx(0.5, abs=0.05) and response(9.0) < 0.02


def test_promises_are_judged_by_the_numbers():
    def cell(way, op, speed, **row):
        fast = {f"{kind}_speedup": {"median": speed, "low": speed, "high": speed} for kind in ("host", "device")}
        return {"call": op, "op": op, "pass": way, "rows": [{"contender": "fastgan"} | fast | row]}

    cells = [cell("forward", "bias_act", 1.5, launches=1), cell("backward", "upfirdn2d", 0.9, launches=2)]
    cells += [cell("R1", "filtered_lrelu", 2.0, launches=9), cell("R1", "bias_act", 1.1, launches=4)]
    verdicts = [verdict for *_, verdict in layers.promises({"device_type": "cpu", "cells": cells})]
    assert verdicts == ["met", "not met", "met", "met"]
    verdicts = [verdict for *_, verdict in layers.promises({"device_type": "cuda", "cells": cells})]
    assert verdicts == ["met", "not met", "met", "met", "met", "not met", *["not measured"] * 5, "met"]


def test_cells_by_device_and_name():
    on_cpu, on_gpu = (layers.names(device, False) for device in ("cpu", "cuda"))
    assert set(on_gpu) == set(layers.known("cuda")) and set(on_cpu) < set(on_gpu) and len(on_gpu) == len(set(on_gpu))
    assert on_gpu[: 3 * len(layers.HEADLINES)] == on_cpu[: 3 * len(layers.HEADLINES)]
    assert layers.SUITE.selected_names("cpu", ["s3-8"], False) == [f"s3-8 {way}" for way in layers.PASSES]
    with pytest.raises(ValueError, match="cell 's4-1': expected one of s2-lrelu-256 forward"):
        layers.SUITE.selected_names("cpu", ["s4-1"], False)


@pytest.mark.slow
def test_compile_refuses_the_double_backward(of_two_channels):
    rows = layers.measure(Setting("cpu", True, 0.01), "s2-skip-down-8 R1")["rows"]
    assert rows[1]["contender"] == "torch.compile"
    assert rows[1]["error"] == "RuntimeError: torch.compile does not run a double backward"


def test_nvidias_operators_are_a_contender_if_they_can_be_imported(of_two_channels, tmp_path, monkeypatch):
    """The checkout on the path is a stand-in, whose functions are the eager formulas."""
    ops = tmp_path / "torch_utils" / "ops"
    ops.mkdir(parents=True)
    for op in ("bias_act", "upfirdn2d"):
        (ops / f"{op}.py").write_text(f"from bench.codebases.stylegan import {op}")
    monkeypatch.syspath_prepend(tmp_path)
    results = layers.SUITE.run("cpu", NAMES[:2], quick=True, budget_s=0.01, compiled=False)
    for cell in results["cells"]:
        rows = {row["contender"]: row for row in cell["rows"]}
        assert rows[layers.NVIDIA]["host_us"]["median"] > 0
    for name in [name for name in sys.modules if name.split(".")[0] == "torch_utils"]:
        del sys.modules[name]


def test_promises_of_a_gpu():
    def cell(call, way, ours, eager, nvidias, share):
        def time(us):
            return {"median": us, "low": us, "high": us}

        rows = [
            {"contender": "eager", "device_us": time(eager)},
            {"contender": layers.NVIDIA, "device_us": time(nvidias)},
        ]
        speed = {"device_us": time(ours), "device_speedup": time(eager / ours), "launches": layers.PASSES[way]}
        rows.append({"contender": layers.OURS, "share_of_copy": time(share), **speed})
        return {"name": f"{call} {way}", "call": call, "pass": way, "op": "upfirdn2d", "rows": rows}

    good = [
        cell(c, way, 1.0, 3.0, 0.9, 0.9) for c in ("s2-lrelu-256", "s2-blur-up-256", "s3-12") for way in layers.PASSES
    ]
    bad = [
        cell(c, way, 1.0, 0.9, 0.5, 0.5) for c in ("s2-lrelu-256", "s2-blur-up-256", "s3-12") for way in layers.PASSES
    ]
    for cells, expected in ((good, "met"), (bad, "not met")):
        found = layers.promises({"device_type": "cuda", "cells": cells})
        verdicts = {verdict for what, _, verdict in found if "launch" not in what and "right" not in what}
        assert verdicts == {expected}, found
