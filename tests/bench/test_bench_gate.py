"""The gate: it passes on this checkout, it fails if work is added, and its counts do not vary."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

pytest.importorskip("triton")

from bench import compare
from bench.checks import gate


def clean(**variables: str) -> dict[str, str]:
    left_out = ("TRITON_INTERPRET", "FASTGAN_BACKEND", "PYTHONPATH")
    return {k: v for k, v in os.environ.items() if k not in left_out} | variables


def run(folder: Path, *arguments: str):
    command = [sys.executable, "-m", "bench", "gate", *arguments]
    return subprocess.run(command, cwd=folder, env=clean(), capture_output=True, text=True, timeout=900)


def test_every_count_equals_the_baseline():
    baseline = json.loads(gate.BASELINE.read_text())
    done = run(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    for section in gate.SECTIONS:
        tool = gate.DEPENDS_ON.get(section)
        if tool is None or baseline["versions"][tool] == gate.versions()[tool]:
            assert f"{section}: {len(baseline[section])} cases, no differences" in done.stdout
        else:
            assert f"{section}: not compared: the baseline is of {tool}" in done.stdout


LOOP = "    for tile in range(first, full, stride):\n        base"
PLANTS = {  # name: (file, what stands there, what replaces it, section, cases, what the gate says)
    "one extra launch": (
        *("kernels/launch.py", "    _launches += 1\n"),
        "    _launches += 1\n    plan.kernel[(plan.programs,)](*args, **plan.constants, **plan.options)\n",
        *("launches", "2 × 128", "launches: value_and_grad, 2 × 128, kernels: 2, and 1 in the baseline"),
    ),
    "one extra operator": (
        *("fastgan/losses/feature_matching.py", "    loss, rows, grads = operators.value_and_gradient("),
        "    terms.logits[0].cos()\n    loss, rows, grads = operators.value_and_gradient(",
        *("operators", "12 maps", "by_name, aten::cos: 1, and nothing in the baseline"),
    ),
    "one extra pass": (
        *("kernels/tiles.py", LOOP),
        "    for tile in range(first, full, stride):\n"
        "        logits += in_thread_sum(widen(tl.load(x_ptr + tile * BLOCK + lane), ACC), V)\n" + LOOP,
        *("instructions", "4194307", "tile loop 1: other counts, and nothing in the baseline"),
    ),
    "no vector loads": (
        *("kernels/tiles.py", "tl.minimum(tile + stride, full - 1) * BLOCK, lane, None)"),
        *("tl.minimum(tile + stride, full - 1) * BLOCK, lane, base + lane < n)", "instructions", "4194307"),
        "tile loop 0, loads_128: 0, and 2 in the baseline",
    ),
}
SLOW = ("one extra pass", "no vector loads")  # they compile kernels


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in PLANTS])
def test_added_work_is_found(name, tmp_path):
    file, old, new, section, words, said = PLANTS[name]
    tree = tmp_path / "tree"
    compare.copy_tree(tree, None)
    text = (tree / file).read_text()
    assert text.count(old) == 1
    (tree / file).write_text(text.replace(old, new))
    done = run(tree, "--only", section, "--cases", words)
    assert done.returncode == 1, done.stdout + done.stderr[-2000:]
    assert said in done.stdout and "--update" in done.stdout


def test_counts_depend_neither_on_threads_nor_on_hashes_nor_on_order():
    words = ("2 × 128", "HiFi-GAN's D list, value_and_grad", "12 maps, value_and_grad")
    code = f"import json\nfrom bench.checks import gate\nprint(json.dumps(gate.operators({words!r})))"
    reverse = (
        "import bench.checks.gate as g\nof = g.cases\ng.cases = lambda: dict(reversed(list(of().items())))\n" + code
    )
    counts = []
    for text, seed, threads in ((code, "0", "1"), (reverse, "7", "2")):
        variables = clean(PYTHONHASHSEED=seed, OMP_NUM_THREADS=threads, KINETO_LOG_LEVEL="99")
        command = [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        counts.append(json.loads(done.stdout.splitlines()[-1]))
    assert counts[0] == counts[1] and len(counts[0]) == 4


def test_differences_are_named():
    before = {"a": {"launches": 1, "by_name": {"aten::mul": 2}}, "gone": {"launches": 1}}
    now = {"a": {"launches": 2, "by_name": {"aten::mul": 2, "aten::add": 1}}, "new": {"launches": 3}}
    assert list(gate.differences(before, now)) == [
        "a, launches: 2, and 1 in the baseline",
        "a, by_name, aten::add: 1, and nothing in the baseline",
        "gone: nothing, and other counts in the baseline",
        "new: other counts, and nothing in the baseline",
    ]
    assert list(gate.differences(before, before)) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--only", "times"), "section 'times'"), (("--update", "--cases", "x"), "not with --update")],
)
def test_bad_arguments_give_one_line_and_exit_code_2(arguments, said):
    done = run(ROOT, *arguments)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
