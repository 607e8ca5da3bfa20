"""`python -m bench training`: it runs, a wrong contender is not timed, and table and picture come from the file."""

import copy
import dataclasses
import json
import math

import pytest
import torch

from bench.harness.contest import Setting
from bench.suites import training
from bench.suites.training import ALTERNATING, CAREFUL, CONTENDERS, EXAMPLE, MINIMAX, ONE_STAGE, Cell, why_wrong

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {c.name: c for c in (Cell("small", 16, 8, 4), Cell("small-plain", 16, 8, 4, False))}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("bench") / "training.json"

    def measure(setting, name):
        if name in SMALL:
            return training.cell(setting, SMALL[name])
        setting.results["curves"] = training.curves("cpu", False, 3)
        return None

    suite = dataclasses.replace(training.SUITE, names=lambda *_: [*SMALL, training.CURVES], known=None, measure=measure)
    found = suite.run("cpu", quick=True, budget_s=0.3, compiled=False, out=out)
    torch.set_num_threads(threads)
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    return found


def test_every_contender_of_a_cpu_is_measured(results):
    names = [{row["contender"] for row in cell["rows"]} for cell in results["cells"]]
    assert {EXAMPLE, CAREFUL, ALTERNATING, "trainer, new samples for G", MINIMAX} == names[0]
    assert {EXAMPLE, CAREFUL, ALTERNATING, "trainer, new samples for G", "trainer, concatenated", ONE_STAGE} == names[1]
    for cell in results["cells"]:
        for row in cell["rows"]:
            assert "error" not in row, row
            assert row["images_per_s"] > 0 and row["peak_bytes"] > 0 and row["launches"] > 50
        assert {row["contender"]: row for row in cell["rows"]}[EXAMPLE]["speedup"]["median"] == 1
    for curve in results["curves"].values():
        assert len(curve["loss_d"]) == 3 and curve["distance"] > 0


def test_losses_that_differ_from_the_examples_are_found(results):
    """The gate accepts the measured losses and refuses wrong ones."""
    for cell in results["cells"]:
        losses = {row["contender"]: row["losses"] for row in cell["rows"]}
        for name, got in losses.items():
            assert why_wrong(name, got, losses[EXAMPLE]) is None
        wrong = copy.deepcopy(losses[ALTERNATING])
        wrong[2] = (wrong[2][0], wrong[2][1] * 1.01)
        assert "loss of G in step 3" in why_wrong(ALTERNATING, wrong, losses[EXAMPLE])
        assert "loss of D in step 1" in why_wrong(ONE_STAGE, [(math.nan, 0.0)], losses[EXAMPLE])


def test_a_wrong_contender_is_not_timed(monkeypatch):
    good = training.loops

    def bad(cell, device, compiled):
        found = good(cell, device, compiled)
        step = found[ALTERNATING]()
        return {
            EXAMPLE: found[EXAMPLE],
            ALTERNATING: lambda: lambda real: tuple(1.1 * x for x in step(real)),
            CAREFUL: lambda: (_ for _ in ()).throw(RuntimeError("cannot run here")),
        }

    monkeypatch.setattr(training, "loops", bad)
    rows = {row["contender"]: row for row in training.cell(Setting("cpu", True, 0.1, False), SMALL["small"])["rows"]}
    assert rows[ALTERNATING]["error"].startswith("wrong result, not timed: loss of D in step 1")
    assert "cannot run here" in rows[CAREFUL]["error"]
    assert "step_us" not in rows[ALTERNATING] and "step_us" in rows[EXAMPLE]


def test_tables_picture_and_promises(results, tmp_path):
    pytest.importorskip("matplotlib")
    written = training.SUITE.write(results, tmp_path)
    assert [path.name for path in written] == ["training.md", "training.png"]
    text = written[0].read_text()
    assert all(f"**{name}**" in text for name in CONTENDERS)
    for cell in results["cells"]:
        for row in cell["rows"]:
            assert f"| {cell['title']} | {row['contender']} | {row['images_per_s']:,.0f} |" in text
    assert "16×16, batch 8, no norm in D" in training.summary(results)
    fast = copy.deepcopy(results)
    for cell in fast["cells"]:
        for row in cell["rows"]:
            row["speedup"] = {"median": 1.2, "low": 1.1, "high": 1.3}
    assert [verdict for *_, verdict in training.promises(fast)] == ["met", "not met", "not met"]
    assert [verdict for *_, verdict in training.promises({**fast, "cells": []})] == ["not measured"] * 3


def test_unknown_cells_are_named():
    with pytest.raises(ValueError, match="configuration 'huge': expected one of 64px-b16, 64px-b16-plain"):
        training.SUITE.run("cpu", ["huge"])


def test_sliced_distance():
    x = training.images(64, 16, "cpu")
    assert training.sliced_distance(x, x.flip(0)) == 0
    assert training.sliced_distance(x, x + 0.5) == pytest.approx(
        (0.5 * (torch.randn(768, 256, generator=torch.Generator().manual_seed(3)).sum(0))).abs().mean().item()
        / math.sqrt(768),
        rel=0.1,
    )
