"""`python -m bench integrations`: both forms of a step learn the same, it runs, and the report shows the file."""

import copy
import dataclasses
import importlib
import json

import pytest
import torch
from checkout import ROOT

from bench import readme
from bench.harness import environment
from bench.harness.contest import Setting
from bench.suites import integrations
from bench.suites.integrations import ALL, FORMS, NARROW, UPSTREAM, WIDE, Cell

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = {
    "hifigan": {"width": 1 / 64, "batch": 1, "samples": 1024},
    "dcgan": {"width": 1 / 32, "batch": 2},
    "r3gan": {"width": 1 / 96, "batch": 2},
    "stylegan2": {"width": 1 / 128, "batch": 2},
    "vits": {"width": 1 / 64, "batch": 1, "frames": 8, "segment": 1024},
    "llamagen": {"width": 1 / 32, "batch": 1, "pixels": 32},
    "realesrgan": {"width": 1 / 32, "batch": 1, "pixels": 32, "blocks": 1},
    "styletts2": {"width": 1 / 32, "batch": 1, "samples": 3000},
    "dac": {"width": 1 / 32, "batch": 2, "samples": 1024},
}
VOICES = ("hifigan", "styletts2")
NETWORKS = dict.fromkeys(VOICES, ("generator", "mpd", "msd"))  # attributes of a Step; default: generator, discriminator
# host reads in upstream's form; StyleTTS2 also has 16 boolean masks, which a GPU waits for
WAITS = {"hifigan": 16, "dcgan": 5, "r3gan": 0, "stylegan2": 0, "vits": 457, "llamagen": 2, "realesrgan": 7}
WAITS |= {"styletts2": 16, "dac": 9}
SECONDS = {UPSTREAM: 2.5, "losses": 2.45, "losses, matching": 2.4, "generator_backward": 2.0, "passes": 2.2, ALL: 1.6}
PENALISED = Cell("r3gan", "R3GAN, tiny", "r3gan", TINY["r3gan"], 2)  # with a double backward pass in each step
SMALL = {
    c.name: c
    for c in (
        Cell(WIDE, "HiFi-GAN, tiny", "hifigan", TINY["hifigan"]),
        Cell("dcgan", "DCGAN, tiny", "dcgan", TINY["dcgan"]),
    )
}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("bench") / "integrations.json"
    measure = lambda setting, name: integrations.cell(setting, SMALL[name])  # noqa: E731
    suite = dataclasses.replace(integrations.SUITE, names=lambda *_: [*SMALL], known=None, measure=measure)
    found = suite.run("cpu", quick=True, budget_s=0.02, out=out)
    torch.set_num_threads(threads)
    assert json.loads(out.read_text()) == json.loads(json.dumps(found))
    return found


def step_of(module, use, dtype=torch.float64):
    return importlib.import_module(f"examples.integrations.{module}").Step(use, dtype=dtype, **TINY[module])


def networks_of(module, step):
    return [getattr(step, name) for name in NETWORKS.get(module, ("generator", "discriminator"))]


@pytest.mark.parametrize("module", TINY)
def test_both_forms_learn_the_same(module):
    """In float64: losses, weights and G's gradients after two steps, to 1e-9 of the largest. VITS computes its losses
    in float32, whatever D's logits are."""
    one, other = step_of(module, ()), step_of(module, FORMS[ALL])
    for _ in range(2):
        rel = 3e-7 if module == "vits" else 1e-12
        assert [x.item() for x in one()] == pytest.approx([x.item() for x in other()], rel=rel)
    rel = 1e-6 if module == "vits" else 1e-9
    for pair in zip(*(networks_of(module, step) for step in (one, other))):
        for p, q in zip(*(network.parameters() for network in pair)):
            torch.testing.assert_close(q, p, rtol=rel, atol=rel * p.abs().max().item())
            if pair[0] is one.generator and p.grad is not None:
                torch.testing.assert_close(q.grad, p.grad, rtol=rel, atol=rel * p.grad.abs().max().item())


@pytest.mark.thorough
@pytest.mark.parametrize("module", TINY)
def test_weights_after_ten_steps_in_float32(module):
    """Distance of each form's float32 weights from upstream's in float64: ours is at most four times as far."""
    pieces = tuple(importlib.import_module(f"examples.integrations.{module}").FASTGAN)
    runs = (((), torch.float64), ((), torch.float32), (pieces, torch.float32))
    exact, first, second = (step_of(module, *run) for run in runs)
    for step in (exact, first, second):
        for _ in range(10):
            step()
    for want, *found in zip(*(networks_of(module, step) for step in (exact, first, second))):
        pairs = [list(zip(want.parameters(), network.parameters())) for network in found]
        far, ours = (max(((q - p).abs().max() / p.abs().max()).item() for p, q in pair) for pair in pairs)
        assert ours <= 4 * far + 1e-6 and far < 0.02


@pytest.mark.thorough
@pytest.mark.parametrize("module", TINY)
def test_waits_and_operators_of_both_forms(module):
    """A wait is a tensor that the host reads."""
    counts = []
    for use in ((), FORMS[ALL]):
        step = step_of(module, use, torch.float32)
        step()
        with integrations.CallCounter() as called:
            step()
        counts.append((called.reads, called.operators))
    (waits, operators), (ours, fewer) = counts
    assert (waits, ours) == (WAITS[module], 0) and fewer < operators


@pytest.mark.parametrize("module", TINY)
def test_the_example_is_short_and_says_what_changes(module):
    text = (ROOT / "examples" / "integrations" / f"{module}.py").read_text()
    assert len(text.splitlines()) <= 150
    pieces = importlib.import_module(f"examples.integrations.{module}").FASTGAN
    assert all(integrations.changed_lines(module, [piece]) > 0 for piece in pieces)
    assert text.count("# fastgan: ") == integrations.changed_lines(module, list(pieces))


def test_every_form_is_measured(results):
    for cell in results["cells"]:
        rows = {row["contender"]: row for row in cell["rows"]}
        voice = cell["module"] == "hifigan"
        more = (["losses, matching"], ["passes"]) if voice else ([], [])
        assert list(rows) == [UPSTREAM, "losses", *more[0], "generator_backward", *more[1], ALL]
        assert not [row["error"] for row in rows.values() if "error" in row]
        first, last = rows[UPSTREAM], rows[ALL]
        assert (first["waits"], last["waits"]) == (WAITS[cell["module"]], 0)
        assert first["lines"] == 0 < last["lines"] and last["operators"] < first["operators"]
        assert rows["losses"]["flops"] == first["flops"] > last["flops"] == rows["generator_backward"]["flops"]
        assert len(cell["curves"][ALL]["loss_d"]) == 3 and integrations.loss_gap(cell) < 1e-4


def test_a_step_with_a_double_backward_pass_is_measured():
    cell = integrations.cell(Setting("cpu", True, 0.01), PENALISED)
    assert [row["contender"] for row in cell["rows"] if row["flops"] > 0] == list(PENALISED.forms)


def test_a_form_that_learns_something_else_is_not_timed(monkeypatch):
    make_step = integrations.make_step

    def bad(cell, use):
        step = make_step(cell, use)
        return (lambda: tuple(1.01 * x for x in step())) if use == ("losses",) else step

    monkeypatch.setattr(integrations, "make_step", bad)
    cell = integrations.cell(Setting("cpu", True, 0.01), SMALL["dcgan"])
    rows = {row["contender"]: row for row in cell["rows"]}
    assert rows["losses"]["error"] == "wrong result, not timed: a loss is 1.0e-02 off upstream's"
    assert "step_us" in rows[ALL] and "step_us" not in rows["losses"]


def test_table_picture_and_promises(results, tmp_path):
    pytest.importorskip("matplotlib")
    written = integrations.SUITE.write(results, tmp_path)
    assert [path.name for path in written] == ["integrations.md", "integrations.png"]
    text, fast = written[0].read_text(), copy.deepcopy(results)
    for cell in fast["cells"]:
        for row in cell["rows"]:
            assert f"| {cell['title']} | {row['contender']} | {row['step_us']['median'] / 1e3:,.1f} (" in text
            row["speedup"] = {"median": 1.4, "low": 1.3, "high": 1.5}
        assert cell["title"] in integrations.summary(results)
    fast["cells"] += [{**fast["cells"][1], "module": module} for module in ("third", "fourth")]
    assert [verdict for *_, verdict in integrations.promises(fast)] == ["met"] * 6
    fast["cells"][0]["rows"][-1]["speedup"]["median"] = 0.97
    assert [verdict for *_, verdict in integrations.promises(fast)] == ["not met"] * 3 + ["met"] * 3
    fast["cells"][0]["curves"][ALL]["loss_g"][2] = None
    assert [verdict for *_, verdict in integrations.promises(fast)] == ["not met"] * 4 + ["met"] * 2
    nothing = [verdict for *_, verdict in integrations.promises({**fast, "cells": []})]
    assert set(nothing[:5]) == {"not measured"}


def test_the_sentence_in_readme_has_the_numbers_of_the_file(results, tmp_path, monkeypatch):
    found = copy.deepcopy(results)
    for cell in found["cells"]:
        for row in cell["rows"]:
            seconds = SECONDS[row["contender"]]
            row["step_us"]["median"], row["speedup"]["median"] = seconds * 1e6, 2.5 / seconds
    said = integrations.sentence(found)
    for part in (
        "2.50 s a step unchanged, 2.40 s with",
        "2.00 s (1.25×) with `generator_backward` alone",
        "1.60 s (1.56×)",
    ):
        assert part in said
    found["cells"][1]["name"] = NARROW
    assert "; with all channels at a quarter 1.56×." in integrations.sentence(found)
    assert integrations.sentence({**found, "cells": []}) == ""
    monkeypatch.setattr(environment, "RESULTS", ROOT / "bench" / "none")
    page = "a\n<!-- bench:integrations sentence -->\nold\n<!-- /bench -->\nb"
    assert readme.rewritten(page) == page.replace("old", "Not measured yet.")


def test_unknown_cells_are_named():
    with pytest.raises(ValueError, match=f"configuration 'huge': expected one of {NARROW}, {WIDE}, dcgan"):
        integrations.SUITE.run("cpu", ["huge"])
