"""`python -m bench matching`: it runs, it refuses wrong results, and its table and picture say what its numbers say."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from bench.codebases.matching import BY_NAME, CONFIGURATIONS
from bench.harness import report
from bench.harness.contest import Setting
from bench.suites import matching, penalties

NAMES = ["hifigan", "hifigan-attached", "vits"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("matching")
    file = out / "matching.json"
    results = matching.SUITE.run("cpu", [*NAMES, "penalties"], quick=True, budget_s=0.02, compiled=False, out=file)
    matching.SUITE.write(results, out)
    torch.set_num_threads(threads)
    return out


@pytest.fixture
def results(folder):
    return json.loads((folder / "matching.json").read_text())


def test_the_file_has_every_contender_of_every_configuration_asked_for(results):
    assert results["suite"] == "matching" and not results["skipped"]
    assert [cell["name"] for cell in results["cells"]] == NAMES
    for cell in results["cells"]:
        expected = [name for name in matching.CONTENDERS if name != "value_and_grad" or "attached" not in cell["name"]]
        assert [row["contender"] for row in cell["rows"]] == expected
        assert cell["pairs"] == sum(map(len, cell["shapes"]))
        for row in cell["rows"]:
            if row["contender"] == "torch.compile":
                assert row["error"] == "left out with --no-compile"
                continue
            assert "error" not in row and row["host_us"]["median"] > 0 and row["launches"] >= 1
        rows = {row["contender"]: row for row in cell["rows"]}
        n, size, written = cell["n"], 2 if cell["dtype"] == "float16" else 4, 1 + ("attached" in cell["name"])
        assert rows["maps"]["bytes"] == (4 + written) * size * n
        assert rows["drop-in"]["bytes"] == rows["signs"]["bytes"] == ((2 + written) * size + 2) * n
        for name in ("drop-in", "signs", "maps"):
            speed = rows[name]["bytes"] / rows[name]["host_us"]["median"]
            of_copy = speed / (rows["copy"]["bytes"] / rows["copy"]["host_us"]["median"])
            assert rows[name]["share_of_copy"]["median"] == pytest.approx(of_copy, rel=1e-6)
        assert rows["eager"]["host_speedup"]["median"] == 1


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda c: c.name)
def test_every_drop_in_is_its_codebases_formula(configuration):
    shapes = [[(1, 2, 3)] * len(maps) for maps in configuration.small]
    random, lists = torch.Generator().manual_seed(0), []
    for _ in range(2):
        drawn = [[torch.randn(shape, generator=random) for shape in maps] for maps in shapes]
        lists.append([[x.requires_grad_() for x in maps] for maps in drawn])
    wanted, got = configuration.eager(*lists), configuration.drop_in(*lists)
    torch.testing.assert_close(got.reshape(()), wanted.reshape(()), rtol=1e-5, atol=0)
    used = [x for maps in lists[0] for x in maps[: -1 if configuration.options.get("exclude_last") else None]]
    for ours, theirs in zip(torch.autograd.grad(got, used), torch.autograd.grad(wanted, used)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)


def test_penalties(results):
    rows = {row["contender"]: row for row in results["penalties"]["rows"]}
    assert list(rows) == list(penalties.PENALTIES)
    assert rows["no penalty"]["host_cost"]["median"] == rows["R1"]["host_against_r1"]["median"] == 1
    assert rows["R1"]["host_cost"]["median"] > 1, "a double backward costs something"
    assert rows["approximate R1, D compiled"]["error"] == "left out with --no-compile"
    error = results["penalties"]["error"]
    assert abs(error["of_the_mean"]) < 5 * error["its_deviation"]
    assert error["deviation"] == pytest.approx((2 / results["penalties"]["batch"]) ** 0.5, rel=0.6)


def test_the_table_has_every_row(folder, results):
    text = (folder / "matching.md").read_text()
    assert text == matching.SUITE.markdown(results)
    for cell in results["cells"]:
        for row in cell["rows"]:
            line = next(x for x in text.splitlines() if x.startswith(f"| {cell['title']} | {row['contender']} |"))
            assert ("left out" if "error" in row else report.microseconds(row["host_us"]["median"])) in line
    for row in results["penalties"]["rows"]:
        line = next(x for x in text.splitlines() if x.startswith(f"| {row['contender']} |"))
        assert ("left out" if "error" in row else f"{row['host_cost']['median']:.2f}×") in line
    assert (folder / "matching.png").stat().st_size > 10_000


def test_a_wrong_result_is_not_timed():
    configuration = BY_NAME["spade"]
    for wrong, said in (
        (lambda fake, real: 1.001 * configuration.drop_in(fake, real), "float64 gives"),
        (lambda fake, real: configuration.drop_in(fake, real) + 1e-3, "loss"),
        (lambda fake, real: configuration.drop_in(fake, fake[:1] + real[1:]), "gradient at map 0"),
    ):
        broken = dataclasses.replace(configuration, drop_in=wrong)
        cell = matching.cell(Setting("cpu", True, 0.01, False), broken)
        row = next(row for row in cell["rows"] if row["contender"] == "drop-in")
        assert row["error"].startswith("wrong result, not timed") and said in row["error"] and "host_us" not in row


def test_promises_are_judged_by_the_rows(results):
    found = {what: verdict for what, _, verdict in matching.promises(results)}
    assert "drop-in ≥ 2× eager, HiFi-GAN's maps" in found
    rows = results["cells"][0]["rows"]
    drop_in = next(row for row in rows if row["contender"] == "drop-in")
    for speed, verdict in ((1.99, "not met"), (2.01, "met")):
        drop_in["host_speedup"]["median"] = speed
        assert {what: v for what, _, v in matching.promises(results)}["drop-in ≥ 2× eager, HiFi-GAN's maps"] == verdict
    drop_in["host_speedup"]["median"] = 0.01
    worst = next(p for p in matching.promises(results) if p[0].startswith("drop-in never slower"))
    assert worst[2] == "not met" and "hifigan" in worst[1]
    drop_in["error"] = "wrong"
    assert matching.promises(results)[-1][2] == "not met"
    drop_in |= {"device_speedup": {"median": 4.1, "low": 4, "high": 5}, "device_us": drop_in["host_us"], "launches": 9}
    cuda = results | {"device_type": "cuda"}
    for cell in cuda["cells"]:
        for row in cell["rows"]:
            row["device_speedup"] = row.get("device_speedup") or row.get("host_speedup")
    verdicts = {what: verdict for what, _, verdict in matching.promises(cuda)}
    assert verdicts["drop-in ≥ 4× eager, HiFi-GAN's maps"] == "met"
    assert verdicts["drop-in: at most 8 launches forward and backward, HiFi-GAN's maps"] == "not met"
    assert verdicts["drop-in ≥ 1.3× torch.compile, HiFi-GAN's maps"] == "not measured"


def test_an_unknown_configuration_is_named():
    with pytest.raises(ValueError, match="configuration 'melgan': expected one of hifigan,"):
        matching.SUITE.run("cpu", ["melgan"])
