"""`python -m bench convergence`: the data, the scores, two forms that train the same, and the report."""

import copy
import dataclasses
import json
import math
import subprocess
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from bench import __main__ as command
from bench import options
from bench.harness import statistics
from bench.harness.contest import Setting
from bench.suites import convergence, shapes64
from bench.suites.convergence import ALLOWED, FASTGAN, PLAIN
from bench.suites.convergence_data import CLOSE, SCORES, cells, problem

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(name, steps=12, width=16):
    """Return the cell with smaller networks and batches, and fewer samples."""
    cell = cells()[name]
    width = 2 if name == "shapes" else width
    config = replace(cell.config, steps=steps, batch=8, width=width)
    return cell._replace(config=config, count=30, shown=25)


@pytest.fixture(scope="module")
def pictures():
    factors = shapes64.draw_factors(600)
    return factors, shapes64.render(factors)


@pytest.fixture(scope="module")
def data():
    return {name: problem(tiny(name), 60) for name in ("ring", "shapes")}


@pytest.fixture(scope="module")
def results(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "convergence.json"
    measure = lambda setting, name: convergence.train_all(tiny(name), data[name], "cpu", range(2))  # noqa: E731
    suite = dataclasses.replace(convergence.SUITE, names=lambda *_: [*data], measure=measure)
    found = suite.run("cpu", quick=True, out=out)
    stored = json.loads(out.read_text())
    assert stored == json.loads(json.dumps(found))
    return stored


# ---- data and scores ------------------------------------------------------------------------------------------------


def test_the_pictures_are_those_of_their_seed(pictures):
    assert torch.equal(pictures[1], shapes64.render(shapes64.draw_factors(600), chunk=77))
    assert not torch.equal(pictures[1][:50], shapes64.render(shapes64.draw_factors(50, seed=1)))
    edge = torch.cat([pictures[1][..., [0, -1]].flatten(), pictures[1][:, :, [0, -1]].flatten()])
    assert not edge.any()  # every shape is whole


def test_factors_of_real_pictures_are_read_back(pictures):
    factors, images = pictures
    for shown in (images, images.float() / 127.5 - 1):
        found = shapes64.read(shown)
        assert torch.equal(found.factors.kind, factors.kind)
        turn = (found.factors.hue - factors.hue).abs()
        assert torch.minimum(turn, 1 - turn).max() < 0.005
        for name in ("x", "y", "size"):
            assert (getattr(found.factors, name) - getattr(factors, name)).abs().max() < 0.3
        assert found.error.max() < 0.15 and found.right.all()


def wrong_pictures(images):
    random = torch.Generator().manual_seed(1)
    shown = images.float() / 127.5 - 1
    other = shown.roll(1, 0)
    return {
        "noise": torch.rand(shown.shape, generator=random) * 2 - 1,
        "black": torch.full_like(shown, -1),
        "white": torch.ones_like(shown),
        "the mean of all": shown.mean(0, keepdim=True).expand_as(shown),
        "the mean of two": (shown + other) / 2,
        "blurred": F.avg_pool2d(shown, 13, 1, 6, count_include_pad=False),
        "half a shape": torch.cat([shown[..., :32], torch.full_like(shown[..., 32:], -1)], 3),
        "two shapes": torch.maximum(shown, other.roll(24, 3)),
    }


@pytest.mark.parametrize("name", wrong_pictures(torch.zeros(2, 3, 64, 64)))
def test_wrong_pictures_are_found_wrong(name, pictures):
    images = pictures[1][:200]
    found = shapes64.scores(shapes64.read(images), shapes64.read(wrong_pictures(images)[name]))
    assert found["precision"] <= 0.1 and found["recall"] <= 0.2


def test_a_generator_of_few_different_pictures_has_a_low_recall(pictures):
    factors, images = pictures
    real = shapes64.read(images)
    assert shapes64.scores(real, real) == {"precision": 1, "recall": 1}
    other = shapes64.scores(real, shapes64.read(shapes64.render(shapes64.draw_factors(600, seed=1))))
    assert other["precision"] == 1 and other["recall"] == pytest.approx(1, abs=0.1)
    one = shapes64.scores(real, shapes64.read(images[:1].repeat(600, 1, 1, 1)))
    assert one == {"precision": 1, "recall": 1 / shapes64.cells_reached(real)}
    circles = shapes64.scores(real, shapes64.read(images[factors.kind == 0]))
    assert circles["precision"] == 1 and circles["recall"] == pytest.approx(1 / 3, abs=0.05)


def test_a_single_point_covers_one_mode_and_the_data_cover_all(data):
    samples, score = data["ring"]
    assert score(samples[:4000])["modes"] == 8 and score(samples[:4000])["tv"] < 0.05
    collapsed = score(samples[:1].expand(100, 2))
    assert collapsed["modes"] == 1 and collapsed["tv"] == pytest.approx(7 / 8)


@pytest.mark.slow
def test_a_single_digit_has_low_coverage():
    cell = cells()["digits"]
    samples, score = problem(cell)
    images = samples.float() / 127.5 - 1
    good, bad = score(images[: cell.count]), score(images[:1] + 0.01 * torch.randn(cell.count, 1, 8, 8))
    assert good["coverage"] > 0.9 and bad["coverage"] < 0.1 and bad["recall"] < 0.1
    assert bad["fd_digits_cnn"] > 10 * good["fd_digits_cnn"]


# ---- the two forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ring", "shapes"])
def test_both_forms_train_the_same(name, data):
    """In float64: losses of the first steps, and samples of both averages after the last. In float32: the first loss,
    before Adam amplifies its rounding."""
    samples, forms = data[name].samples, convergence.FORMS.values()
    one, other = (form(tiny(name), samples, "cpu", 3, torch.float64) for form in forms)
    assert len(one.losses) == len(other.losses) == CLOSE
    for pair in zip(one.losses, other.losses):
        assert pair[1] == pytest.approx(pair[0], rel=ALLOWED)
    torch.testing.assert_close(other.samples, one.samples, rtol=0, atol=1e-9)
    one, other = (form(tiny(name), samples, "cpu", 3).losses[0][0] for form in forms)
    assert other == pytest.approx(one, rel=1e-6)


@pytest.mark.slow
def test_parallel_processes_give_the_results_of_one_process(monkeypatch):
    monkeypatch.setattr(convergence, "cells", lambda quick: {"ring": tiny("ring")})
    monkeypatch.setattr(convergence, "SEEDS", 2)
    cell = convergence.measure(Setting("cpu"), "ring")
    alone = convergence.train_all(tiny("ring"), problem(tiny("ring")), "cpu", range(2))
    for row in [*cell["rows"], *alone["rows"]]:
        assert "error" not in row and len(row.pop("seconds")) == 2
    assert cell == alone


def test_two_seeds_train_differently(data):
    first, second = (convergence.train_plain(tiny("ring"), data["ring"].samples, "cpu", seed) for seed in (0, 1))
    assert first.losses != second.losses


@pytest.mark.parametrize("change", [{"lr": 2.2e-3}, {"r1": 1.0}, {"weight": 0.51}, {"betas": (0.1, 0.99)}])
def test_a_form_that_learns_something_else_is_reported(change, data, results, monkeypatch):
    def other(cell, *rest):
        return convergence.train_fastgan(cell._replace(config=replace(cell.config, **change)), *rest)

    monkeypatch.setitem(convergence.FORMS, FASTGAN, other)
    cell = convergence.train_all(tiny("ring"), data["ring"], "cpu", [0])
    assert convergence.loss_gap(cell) > ALLOWED
    assert verdicts({**results, "cells": [cell]})[-2] == "not met"


def test_a_form_that_fails_is_a_row_that_says_so(data, results, monkeypatch):
    def failing(cell, samples, device, seed, *dtype):
        if seed == 1:
            raise RuntimeError("no more\nlines")
        return convergence.train_plain(cell, samples, device, seed, *dtype)

    monkeypatch.setitem(convergence.FORMS, FASTGAN, failing)
    cell = convergence.train_all(tiny("ring"), data["ring"], "cpu", range(3))
    assert [row.get("error") for row in cell["rows"]] == [None, "seed 1: RuntimeError: no more"]
    assert [len(row["losses"]) for row in cell["rows"]] == [3, 2]
    found = {**results, "cells": [cell]}
    assert verdicts(found)[-1] == "not met" and set(verdicts(found)[:-1]) == {"not measured"}
    assert "RuntimeError: no more" in convergence.SUITE.markdown(found)


# ---- verdicts and reports -------------------------------------------------------------------------------------------


def verdicts(results):
    return [verdict for *_, verdict in convergence.promises(results)]


def with_scores(results, plain, fastgan):
    """Return the results of the ring with these scores, one for each seed."""
    cell = copy.deepcopy(results["cells"][0])
    cell["seeds"] = [*range(len(plain))]
    for row, values in zip(cell["rows"], (plain, fastgan)):
        row["scores"] = {score: list(values) for score in row["scores"]}
    return {**results, "cells": [cell]}


def test_only_a_difference_beyond_noise_and_tolerance_breaks_the_promise(results):
    noise = [0.90, 0.93, 0.88, 0.91, 0.92]
    place = [*cells()].index("ring")
    assert verdicts(with_scores(results, noise, noise[::-1]))[place] == "met"
    lower = with_scores(results, noise, [x - 0.05 + 0.01 * (-1) ** i for i, x in enumerate(noise)])
    (_, said, verdict) = convergence.promises(lower)[place]
    assert verdict == "not met" and said.startswith("1 of 3; furthest: ") and "-0.04" in said  # modes: less than 0.2
    assert "| **no** |" in convergence.SUITE.markdown(lower)
    tiny_bit = with_scores(results, noise, [x - 0.005 for x in noise])  # the interval excludes 0; within the tolerance
    assert verdicts(tiny_bit)[place] == "met"
    assert verdicts(with_scores(results, noise[:1], noise[:1]))[place] == "not measured"


def test_a_paired_interval_is_that_of_students_t():
    one, other = [0.9, 0.8, 0.95, 0.7], [0.85, 0.82, 0.9, 0.71]
    found = statistics.paired(one, other, 0.9)
    want = stats.ttest_rel(one, other).confidence_interval(0.9)
    assert (found["low"], found["high"]) == pytest.approx((want.low, want.high))
    assert found["mean"] == pytest.approx(0.0175)


def test_intervals_of_a_cell_are_corrected_for_their_number(results):
    """With k scores, each interval has the level 1 - 0.05 / k."""
    found = with_scores(results, [1.0, 2.0, 3.0], [1.5, 2.0, 2.5])
    values = convergence.differences(found["cells"][0])["tv"]
    want = stats.ttest_rel([1.5, 2.0, 2.5], [1.0, 2.0, 3.0]).confidence_interval(1 - 0.05 / 3)
    assert (values["low"], values["high"]) == pytest.approx((want.low, want.high))


def test_results_hold_every_score_and_loss(results):
    assert [cell["name"] for cell in results["cells"]] == ["ring", "shapes"]
    for cell in results["cells"]:
        assert [row["contender"] for row in cell["rows"]] == [PLAIN, FASTGAN]
        for row in cell["rows"]:
            assert "error" not in row and {len(values) for values in row["scores"].values()} == {2}
            assert len(row["losses"]) == len(row["seconds"]) == 2
            assert len(row["losses"][0]) == len(row["exact"][1]) == CLOSE
            assert set(row["scores"]) <= set(SCORES)
        assert convergence.loss_gap(cell) <= ALLOWED
    lost = copy.deepcopy(results["cells"][0])
    lost["rows"][1]["exact"][1][3][0] = None
    assert convergence.loss_gap(lost) == math.inf


def test_table_and_picture_are_of_the_file(results, tmp_path):
    pytest.importorskip("matplotlib")
    written = convergence.SUITE.write(json.loads(json.dumps(results)), tmp_path)
    assert [path.name for path in written] == ["convergence.md", "convergence.png"]
    text = written[0].read_text()
    for cell in results["cells"]:
        for row in cell["rows"]:
            for score, values in row["scores"].items():
                label, _, form = SCORES[score]
                shown = ", ".join(map(form.format, values))
                assert f"| {cell['title']} | {label} | {row['contender']} | {shown} |" in text
        assert f"| {cell['title']} | " in convergence.summary(results)
    assert convergence.INTERVALS in text and "Measured in one process" not in text
    assert written[1].stat().st_size > 10_000


def test_stored_samples_unpack_unchanged():
    for samples in (torch.randn(7, 2), torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)):
        stored = json.loads(json.dumps(convergence.packed(samples)))
        assert torch.equal(torch.from_numpy(convergence.unpacked(stored).copy()), samples)
    tiles = convergence.mosaic(torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 1, 2, 2).numpy())
    assert tiles.shape == (5, 5, 3)
    assert tiles[:2, :2].max() == 0 and tiles[3:, 3:].min() == 3 and tiles[2].min() == 255


def test_a_run_of_all_suites_leaves_convergence_out(monkeypatch):
    ran = []
    done = subprocess.CompletedProcess((), 0)
    monkeypatch.setattr(command.subprocess, "run", lambda call, **_: ran.append(call) or done)
    monkeypatch.setattr(command, "report", lambda *_: 0)
    assert command.every_suite(options.parser().parse_args(["--quick"]), ["--quick"]) == 0
    names = [call[3] for call in ran]
    assert "losses" in names and "timeline" in names and "convergence" not in names


def test_unknown_cells_are_named():
    with pytest.raises(ValueError, match="data set 'huge': expected one of digits, ring, shapes, grid"):
        convergence.SUITE.run("cpu", ["huge"])
