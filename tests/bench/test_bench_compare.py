"""`python -m bench compare`: two checkouts in one run. Equal code agrees, and wrong results are not timed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench import compare
from bench.harness import statistics

ROWS = ["value_and_grad float32 128", "eager float32 128"]


def test_two_checkouts_run_interleaved_and_a_wrong_one_is_not_timed(tmp_path):
    folders = {side: tmp_path / str(i) for i, side in enumerate((compare.HERE, compare.THERE))}
    compare.copy_tree(folders[compare.HERE], None)
    compare.copy_tree(folders[compare.THERE], None)
    planted = folders[compare.THERE] / "fastgan/losses/adversarial.py"
    planted.write_text(planted.read_text() + "\ndiscriminator_value_and_grad = generator_value_and_grad\n")
    init = folders[compare.THERE] / "fastgan/__init__.py"
    assert "discriminator_value_and_grad" in init.read_text()
    found, wrong = compare.compared(folders, ROWS, "cpu", pairs=2, seconds=0.02, threads=1)
    assert list(found) == ["eager float32 128"] and list(wrong) == ["value_and_grad float32 128"]
    assert wrong["value_and_grad float32 128"].startswith("other: ")
    ratio = found["eager float32 128"]["host"]
    assert 0 < ratio["low"] < ratio["median"] < ratio["high"] and ratio["us"] > 1
    results = {"revision": "abc", "pairs": 2, "rows": found, "wrong": wrong}
    assert "| value_and_grad float32 128 | not timed |" in compare.table(results)


def test_a_commit_is_exported_from_git_without_its_results(tmp_path):
    try:
        compare.copy_tree(tmp_path / "tree", "HEAD")
    except ValueError as error:
        pytest.skip(f"no git history here: {error}")
    for file in ("fastgan/__init__.py", "fastgan/kernels/__init__.py", "bench/compare.py"):
        assert (tmp_path / "tree" / file).is_file()
    assert not (tmp_path / "tree/bench/results").exists()
    with pytest.raises(ValueError, match="REV: got 'no-such-commit'"):
        compare.copy_tree(tmp_path / "other", "no-such-commit")


def test_the_interval_covers_one_for_the_same_code_and_not_for_a_fifth_more():
    random, covered, found = np.random.default_rng(0), 0, 0
    for _ in range(300):
        logs = 0.02 * random.standard_normal(5)  # how much pairs of processes differ on an unshared machine
        same, slower = statistics.geometric_mean(logs, 0.99), statistics.geometric_mean(logs + math.log(1.2), 0.99)
        covered += same["low"] <= 1 <= same["high"]
        found += slower["low"] > 1
    assert covered >= 290 and found >= 290


def verdict(**rows):
    found = {name: {"host": dict(zip(("median", "low", "high"), values), us=5.0)} for name, values in rows.items()}
    return compare.table({"revision": "abc", "pairs": 5, "rows": found, "wrong": {}})


def test_the_verdict_is_that_of_the_intervals():
    assert "The two agree within the intervals, over 5 pairs" in verdict(a=(1.01, 0.99, 1.03), eager=(1, 0.98, 1.02))
    text = verdict(a=(1.1, 1.05, 1.15), b=(0.9, 0.85, 0.95), eager=(1, 0.98, 1.02))
    assert "do not agree: 2 rows" in text and "| faster |" in text and "| slower |" in text
    assert "too unsteady" in verdict(a=(1, 0.9, 1.1), eager=(1.1, 1.05, 1.2))


def test_rows_name_existing_contenders_and_configurations():
    from bench.codebases.configurations import BY_NAME
    from bench.harness.accuracy import DTYPES
    from bench.suites import contenders

    names = {c.name for c in contenders.CONTENDERS}
    for row in compare.rows():
        name, *where = row.split()
        assert name in names
        assert where[0] in (DTYPES if len(where) == 2 else BY_NAME)
