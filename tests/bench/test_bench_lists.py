"""`python -m bench lists`: it runs, it refuses wrong results, and its table and picture say what its numbers say."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from bench import __main__ as command
from bench.codebases import adversarial
from bench.codebases.configurations import BY_NAME
from bench.harness import report
from bench.harness.accuracy import DTYPES, LOSS_SCALE
from bench.harness.contest import Setting
from bench.options import configurations
from bench.suites import lists

NAMES = ["hifigan-d", "spade-d", "dcgan-d"]
QUICK = Setting("cpu", True, 0.01, False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("lists")
    lists.SUITE.write(
        lists.SUITE.run("cpu", NAMES, quick=True, budget_s=0.02, compiled=False, out=out / "lists.json"), out
    )
    return out


@pytest.fixture
def results(folder):
    return json.loads((folder / "lists.json").read_text())


def test_the_file_has_every_contender_of_every_configuration_asked_for(results):
    assert results["suite"] == "lists" and not results["skipped"]
    assert {"device", "torch", "commit", "dirty", "date", "load"} <= set(results["environment"])
    assert [cell["name"] for cell in results["cells"]] == NAMES
    contenders = {cell["name"]: [row["contender"] for row in cell["rows"]] for cell in results["cells"]}
    assert contenders["hifigan-d"] == list(lists.CONTENDERS)
    assert contenders["spade-d"] == ["eager", "torch.compile", "drop-in", "value_and_grad"]  # no `.item()` in it
    assert contenders["dcgan-d"] == ["eager", "torch.compile", "drop-in"]  # no value_and_grad
    for cell in results["cells"]:
        for row in cell["rows"]:
            if row["contender"] == "torch.compile":
                assert row == {"contender": "torch.compile", "error": "left out with --no-compile"}
                continue
            time = row["host_us"]
            assert 0 < time["q1"] <= time["median"] <= time["q3"] and time["low"] <= time["high"]
            assert row["host_speedup"]["low"] <= row["host_speedup"]["high"]
            assert row["launches"] >= 1 and row["peak_bytes"] > 0
        assert cell["rows"][0]["host_speedup"]["median"] == 1


def test_the_table_has_every_row(folder, results):
    text = (folder / "lists.md").read_text()
    assert text == lists.SUITE.markdown(results)
    for cell in results["cells"]:
        for row in cell["rows"]:
            line = next(x for x in text.splitlines() if x.startswith(f"| {cell['title']} | {row['contender']} |"))
            if "host_us" in row:
                assert f"{row['host_speedup']['median']:.2f}×" in line
                assert report.microseconds(row["host_us"]["median"]) in line
            else:
                assert row["error"] in line
    assert "12,000: 2 × (16, 102), 2 × (16, 105), (16, 110), (16, 128), (16, 65), (16, 33)" in text
    assert (folder / "lists.png").stat().st_size > 10_000


def test_the_table_says_where_fastgan_loses(results):
    for cell in results["cells"]:
        for row in cell["rows"]:
            if "host_us" in row:
                slow = (cell["name"], row["contender"]) == ("spade-d", "drop-in")
                row["host_us"]["median"] = 8.0 if slow else 2.0 if row["contender"] in lists.OURS else 4.0
    section = lists.SUITE.markdown(results).split("## Where fastgan is slower")[1].split("##")[0]
    assert section.strip() == "* SPADE 256 b4, D: drop-in at 0.50× the host speed of eager, 8.00 µs"


def test_report_draws_lists_from_the_file_alone(folder, tmp_path, capsys):
    (tmp_path / "lists.json").write_text((folder / "lists.json").read_text())
    assert command.main(["report", str(tmp_path / "lists.json")]) == 0
    assert "lists.md, lists.png" in capsys.readouterr().out
    assert (tmp_path / "lists.md").read_text() == (folder / "lists.md").read_text()


WRONG = {
    "half the gradient": lambda parts: [lambda *sides: (parts[0](*sides) + parts[0](*sides).detach()) / 2],
    "one discriminator short": lambda parts: [lambda real, fake: parts[0](real[1:], fake[1:])],
    "sides swapped": lambda parts: [lambda real, fake: parts[0](fake, real)],
    "no gradient at one tensor": lambda parts: [lambda real, fake: parts[0]([real[0].detach(), *real[1:]], fake)],
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_contender_is_not_timed(wrong):
    good = BY_NAME["hifigan-d"]
    bad = dataclasses.replace(good, drop_in=lambda like: WRONG[wrong](good.drop_in(like)))
    cell = lists.measure(QUICK, bad)
    rows = {row["contender"]: row for row in cell["rows"]}
    assert "host_us" in rows["eager"] and "host_us" in rows["value_and_grad"]
    assert set(rows["drop-in"]) <= {"contender", "error", "first_call_s", "worst_relative_error"}
    unused = wrong in ("one discriminator short", "no gradient at one tensor")  # autograd raises before the gate
    assert ("to not have been used" if unused else "wrong result, not timed: ") in rows["drop-in"]["error"]


def test_a_wrong_value_and_grad_and_a_wrong_eager_are_not_timed():
    good = BY_NAME["vqgan-d"]
    bad = dataclasses.replace(
        good,
        value_and_grad=lambda real, fake, scale: good.value_and_grad(fake, real, scale),
        eager=lambda like: [lambda real, fake: 2 * adversarial.taming_d(real, fake).float()],
        exact=good.eager,
    )
    rows = lists.measure(QUICK, bad)["rows"]
    errors = {row["contender"]: row.get("error", "") for row in rows}
    assert errors["eager"].startswith("wrong result") and errors["value_and_grad"].startswith("wrong result")
    timed = [row for row in rows if "host_us" in row]
    assert [row["contender"] for row in timed] == ["drop-in"] and "host_speedup" not in timed[0]


@pytest.mark.parametrize("name", BY_NAME)
def test_every_contender_passes_the_gate_at_full_size(name):
    c = BY_NAME[name]
    batch = lists.draw(c, "cpu", torch.Generator().manual_seed(1))
    half = c.dtype == "float16"
    scale = torch.tensor(LOSS_SCALE) if half else None
    expected = lists.exact(c, batch, LOSS_SCALE if half else 1.0)
    assert {x.dtype for x in batch.tensors} == {DTYPES[c.dtype]}
    for contender, make in lists.steps(c, batch.tensors[0], scale).items():
        if contender != lists.COMPILE:
            wrong, _ = lists.why_wrong(make()(batch), batch, expected, contender in lists.OURS)
            assert wrong is None, contender


def test_shapes_are_those_of_the_codebases():
    logits = {name: c.logits for name, c in BY_NAME.items()}
    assert logits["hifigan-d"] == logits["hifigan-g"] == 12_000 and logits["vits-d"] == 41_728
    assert logits["bigvgan-d"] == 238_920 and logits["dac-d"] == 169_728 and logits["encodec-d"] == 244_128
    assert logits["pix2pixhd-d"] == 11_122 and logits["spade-d"] == 6_344 and logits["real-esrgan-d"] == 786_432
    assert logits["vqgan-d"] == 10_800 and logits["cyclegan-d"] == 900 and logits["biggan-d"] == 256


def test_a_run_stops_at_its_limit_and_says_what_it_left_out(tmp_path):
    results = lists.SUITE.run("cpu", ["vqgan-d"], limit_s=1e-9, out=tmp_path / "lists.json")
    assert not results["cells"] and results["skipped"][0]["name"] == "vqgan-d"
    assert "Not measured: vqgan-d: the run's limit of 1e-09 s was reached." in lists.SUITE.markdown(results)
    assert json.loads((tmp_path / "lists.json").read_text()) == results


def test_the_command_knows_the_configurations(capsys, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert sorted(configurations()) == sorted(BY_NAME)
    assert set(lists.QUICK) <= set(BY_NAME)
    status = command.main(["lists", "--only", "hifigan-d,stylegan9"])
    said = capsys.readouterr().err
    assert status == 2 and said.count("\n") == 1 and "'stylegan9'" in said
    with pytest.raises(ValueError, match="stylegan9"):
        lists.SUITE.run("cpu", ["stylegan9"])


def _judged(kind, **rows):
    cells = [
        {"name": name.replace("_", "-"), "rows": [{"contender": "drop-in", "host_us": {}} | row]}
        for name, row in rows.items()
    ]
    return [verdict for *_, verdict in lists.promises({"device_type": kind, "cells": cells})]


def test_promises_are_judged_by_the_numbers():
    def times(median):
        return {"host_speedup": {"median": median, "low": median, "high": median}}

    assert _judged("cpu", hifigan_d=times(1.6), real_esrgan_d=times(1.5), vqgan_d=times(1.0)) == ["met"] * 4
    verdicts = _judged("cpu", hifigan_d=times(1.4), vqgan_d=times(0.99))
    assert verdicts == ["not met", "not measured", "not met", "met"]
    assert _judged("cpu", hifigan_d=times(2.0), real_esrgan_d={"error": "wrong"})[-1] == "not met"
    assert _judged("cuda", hifigan_d={"launches": 3}) == ["not measured", "met", "met"]
    assert _judged("cuda", hifigan_d={"launches": 1, "contender": "value_and_grad"})[0] == "met"
    assert _judged("cuda", hifigan_d={"launches": 4}) == ["not measured", "not met", "met"]


def test_a_gpu_file_has_its_own_columns(results, tmp_path):
    """No GPU is needed: the file is a CPU's with a GPU's columns."""
    results |= {"device_type": "cuda"}
    results["environment"] |= {"device": "A GPU", "driver": "1.2.3"}
    for cell in results["cells"]:
        for row in cell["rows"]:
            row.pop("error", None)
            row |= {"launches": 3, "peak_bytes": 1, "waits": 77}
            for kind in ("host", "device"):
                row[f"{kind}_us"] = {"median": 3.0, "q1": 2, "q3": 4, "low": 2.5, "high": 3.5}
                for column in ("speedup", "against_compile"):
                    row[f"{kind}_{column}"] = {"median": 7.0, "low": 6.9, "high": 7.1}
    text = lists.SUITE.markdown(results)
    rows = [x.split("|") for x in text.split("## Times")[1].split("## Where")[0].splitlines() if x.startswith("|")]
    assert len({len(row) for row in rows}) == 1 and " waits " in rows[0] and rows[2].count(" 7.00× [6.90, 7.10] ") == 4
    assert " 77 " in rows[2] and "driver 1.2.3" in text
    lists.picture(results, tmp_path / "lists.png")
    assert (tmp_path / "lists.png").stat().st_size > 10_000
