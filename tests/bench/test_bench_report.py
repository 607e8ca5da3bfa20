"""Reports of results: README's tables, the benchmark page, fits of growth, merged processes, two runs compared."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from checkout import ROOT

from bench import __main__ as command
from bench import readme, suites
from bench.harness import environment, processes, statistics


def interval(median, half=0.01, **more):
    return {"median": median, "low": median * (1 - half), "high": median * (1 + half)} | more


def test_the_pages_say_what_the_results_files_say():
    assert [path.relative_to(ROOT).as_posix() for path in readme.pages()] == list(readme.PAGES)
    marked = []
    for page in readme.pages():
        assert readme.rewrite(page, write=False) == []
        marked += re.findall(r"<!-- bench:(\w+)", page.read_text())
    assert set(marked) == {*suites.SUITES, "devices", "versions"} - {"timeline", "penalties"}


def test_the_losses_in_readme_are_those_of_gpus():
    measured = set(re.findall(r"<!-- bench:(\w+ ?\w*) -->", (ROOT / "README.md").read_text()))
    assert measured and {name for name in measured if not name.endswith((" gpu", " sentence"))} == {
        *("versions", "integrations")
    }
    for suite in ("losses", "matching", "training"):
        assert "CPU" in readme.table(suite) and "CPU" not in readme.table(suite, gpus=True)


def test_readme_says_whether_a_gpu_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "RESULTS", tmp_path)
    assert readme.table("devices").startswith("Measured: nothing yet. **No GPU has been")
    for device, kind in (("a CPU", "cpu"), ("a GPU", "cuda")):
        (tmp_path / kind).mkdir()
        results = {"environment": {"device": device}, "device_type": kind}
        (tmp_path / kind / "losses.json").write_text(json.dumps(results))
        measured = readme.table("devices")
        assert device in measured and ("No GPU" in measured) == (kind == "cpu")


def test_the_tables_beside_the_files_say_what_the_files_say():
    files = readme.files()
    assert files
    for file in files:
        results = json.loads(file.read_text())
        assert file.with_suffix(".md").read_text() == suites.suite(file.stem).markdown(results), file.name


@pytest.mark.parametrize("name", readme.PAGES)
def test_a_number_that_differs_is_found_and_put_right(name, tmp_path, monkeypatch, capsys):
    text, page = (ROOT / name).read_text(), tmp_path / name
    number = re.search(r"<!-- bench:losses.*?\*\*([\d.,]+)\*\*", text, re.S)[1]
    start = text.index("<!-- bench:losses")
    page.parent.mkdir(exist_ok=True)
    page.write_text(text[:start] + text[start:].replace(f"**{number}**", "**0.01**", 1))
    assert command.main(["report", "--check"]) == 0 and "say what" in capsys.readouterr().out
    (tmp_path / "bench").symlink_to(ROOT / "bench")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "RESULTS", tmp_path / "bench" / "results")
    assert readme.rewrite(page, write=False) == [f"{name}: the table of losses is not that of the results files"]
    readme.rewrite(page, write=True)
    assert page.read_text() == text


def test_rows_where_fastgan_loses_are_in_readme():
    for file in readme.files():
        if file.stem == "lists":
            results = json.loads(file.read_text())
            losing = [
                cell["title"]
                for cell in results["cells"]
                for row in cell["rows"]
                if row["contender"] in ("drop-in", "value_and_grad")
                and row.get("host_speedup", {"median": 1})["median"] < 1
            ]
            table = readme.table("lists")
            assert all(f"| {title} |" in table for title in losing)


def test_a_fit_finds_the_floor_and_the_cost_that_made_the_times():
    n = [1, 16, 256, 2**12, 2**16, 2**20, 2**24]
    found = statistics.fit(n, [20 + x * 0.003 for x in n])
    assert found["floor_us"] == pytest.approx(20, rel=1e-9) and found["ns_a_logit"] == pytest.approx(3, rel=1e-9)
    assert found["even_at"] == pytest.approx(20 / 0.003) and found["worst"] < 1e-9 and 0.9 < found["slope"] <= 1
    noise = np.random.default_rng(0).normal(1, 0.02, len(n))
    found = statistics.fit(n, (20 + np.array(n) * 0.003) * noise)
    assert found["floor_us"] == pytest.approx(20, rel=0.05) and found["ns_a_logit"] == pytest.approx(3, rel=0.05)
    flat = statistics.fit([1, 2, 3, 4], [5.0, 5.0, 5.0, 4.9])
    assert flat["ns_a_logit"] == 0 and flat["floor_us"] == pytest.approx(5, rel=0.02) and flat["slope"] is None
    steep = statistics.fit([1000, 2000, 3000, 4000], [1.0, 2.1, 3.3, 4.6])
    assert steep["floor_us"] == 0 and steep["ns_a_logit"] == pytest.approx(1.1, rel=0.1)
    assert statistics.fit([1, 2, 3], [1, 2, 3]) is None


@pytest.mark.parametrize(("freedom", "expected"), [(1, 12.706), (2, 4.303), (4, 2.776), (30, 2.042)])
def test_students_t_is_that_of_the_tables(freedom, expected):
    assert statistics.student(0.95, freedom) == pytest.approx(expected, rel=5e-4)


def test_the_interval_over_processes_covers_what_another_run_finds():
    """Processes differ by 5 %, rounds within one by 0.1 %: an interval of the rounds alone would be too narrow."""
    random, covered = np.random.default_rng(1), 0
    for _ in range(400):
        parts = [interval(100 * math.exp(0.05 * random.normal()), half=0.001, rounds=9) for _ in range(5)]
        merged = statistics.across(parts)
        covered += merged["low"] <= 100 <= merged["high"]
    assert 0.92 <= covered / 400 <= 0.98
    assert merged["rounds"] == 45 and merged["processes"] == 5
    alike = statistics.across([interval(100, half=0.01, rounds=9)] * 4)
    assert alike["median"] == pytest.approx(100) and alike["high"] == pytest.approx(100.5, rel=1e-3)  # from the rounds


def results(*rows, name="a"):
    return {"environment": {}, "cells": [{"name": name, "rows": [dict(row) for row in rows]}]}


def test_processes_are_merged_row_by_row_and_an_error_in_one_is_an_error():
    def row(us, **more):
        return {"contender": "eager", "host_us": interval(us, rounds=3), "launches": 3, "peak_bytes": us} | more

    merged = processes.merge([results(row(100)), results(row(121))])
    (cell,) = merged["cells"]
    assert merged["processes"] == 2 and cell["rows"][0]["host_us"]["median"] == pytest.approx(110)
    assert cell["rows"][0]["launches"] == 3 and cell["rows"][0]["peak_bytes"] == 121
    wrong = {"contender": "eager", "error": "wrong result, not timed: gradient"}
    assert processes.merge([results(row(100)), results(wrong)])["cells"][0]["rows"] == [wrong]
    only_first = processes.merge([results(row(100)), results(row(90), name="b")])
    assert only_first["cells"][0]["rows"][0]["host_us"]["processes"] == 1


def test_report_says_whether_two_runs_agree_within_their_intervals(tmp_path, capsys):
    def file(name, values):
        rows = [{"contender": f"c{i}", "host_us": interval(v)} for i, v in enumerate(values)]
        environment.write_json(tmp_path / name, results(*rows))
        return str(tmp_path / name)

    first = file("a.json", [10.0] * 20)
    assert command.main(["report", "--agree", first, file("b.json", [10.1] * 20)]) == 0
    assert "The two runs agree: 20 of 20 rows within their intervals" in capsys.readouterr().out
    assert command.main(["report", "--agree", first, file("c.json", [10.1] * 19 + [11.0])]) == 0  # one by chance
    assert "outside: a, c19, host: 10 and 11 µs, 9.1% apart" in capsys.readouterr().out
    assert command.main(["report", "--agree", first, file("d.json", [10.0] * 10 + [11.0] * 10)]) == 1
    assert "The two runs do not agree: 10 of 20" in capsys.readouterr().out


def test_most_by_chance_is_a_quantile_of_the_binomial_distribution():
    assert [statistics.most_by_chance(n) for n in (1, 20, 100)] == [1, 4, 11]  # P(more) < 1 %


def test_results_of_another_machine_are_unpacked_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(environment, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    for name in readme.PAGES:
        (tmp_path / name).write_text("<!-- bench:losses -->\n<!-- /bench -->\n")
    stored = json.loads((ROOT / "bench/results").joinpath("cpu-amd-epyc-2-threads/losses.json").read_text())
    there = {"environment": stored["environment"]}
    checks = there | {
        "machine": {"copy_bytes_per_s": 3e12},
        "rows": [{"check": "a", "call": "b", "dtype": "c", "wrong": "d"}],
    }
    tune = there | {"problems": {"p": [{"plan": "slow", "graph_us": 9.0}, {"plan": "fast", "graph_us": 2.0}]}}
    bundle = {
        "folder": "../a-gpu",
        "suites": {"losses": stored, "../evil": {}},
        "checks": checks,
        "tune": tune,
        "stages": [],
    }
    environment.write_json(tmp_path / "results.json", bundle)
    assert command.main(["report", str(tmp_path / "results.json")]) == 0
    made = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    kept = ("losses.json", "losses.md", "losses.png", "growth.png", "gpu.json")
    kept += tuple(f"{name}.{kind}" for name in ("checks", "tune") for kind in ("json", "md"))
    assert made == {*readme.PAGES, "results.json", *(f"results/a-gpu/{name}" for name in kept)}
    assert "losses.md" in capsys.readouterr().out
    assert "(results/a-gpu/losses.md)" in (tmp_path / "README.md").read_text()
    assert "(../results/a-gpu/losses.md)" in (tmp_path / "docs/benchmarks.md").read_text()
    text = (tmp_path / "results/a-gpu/tune.md").read_text()
    assert text.index("fast") < text.index("slow")


def test_the_harness_imports_neither_fastgan_nor_the_rooms_above():
    above = re.compile(r"^\s*(import|from) (fastgan|kernels|bench\.(?!harness\b)|bench import (?!harness\b))", re.M)
    for file in (ROOT / "bench/harness").glob("*.py"):
        assert not above.search(file.read_text()), file.name


def test_every_suite_is_there_under_its_name():
    assert all(suites.suite(name).name == name for name in suites.SUITES)
    assert sum(share for share, *_ in suites.SUITES.values()) == pytest.approx(1)
