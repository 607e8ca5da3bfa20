"""`python -m bench gpu`: what was measured is kept, whatever happens to a stage or to the machine."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time

import pytest
from checkout import ROOT

from bench import bundle, gpu
from bench.harness import environment
from bench.suites import integrations

WRITE = """
import json, sys, time
from pathlib import Path
out, name, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
out.mkdir(parents=True)
cell = {"name": name, "rows": [{"contender": "ours"}]}
results = {"suite": "mmd", "environment": {"device": "A GPU"}, "device_type": "cuda", "cells": [cell], "skipped": []}
(out / "mmd.json").write_text(json.dumps(results))
print("wrote", name, flush=True)
time.sleep(seconds)
sys.exit(int(sys.argv[4]) if len(sys.argv) > 4 else 0)
"""

RUN = """
import sys
from pathlib import Path
from bench import gpu, suites
suites.suite("mmd")  # imported before the clock starts, as the real plan does
out, scratch = Path(sys.argv[1]), Path(sys.argv[2])
gpu.SCRATCH, gpu.GRACE = scratch, 1.0
write = sys.argv[3]

def stage(name, seconds, sleeps, code=0):
    words = (sys.executable, "-c", write, str(scratch / name), name, str(sleeps), str(code))
    return gpu.Stage(name, seconds, words, needs_gpu=False)

gpu.plan = lambda *_: [
    *(stage("first", 20, 0), stage("fails", 20, 0, 3), stage("long", 2, 100)),
    *(stage("last", 20, 0), stage("never", 99, 100)),
]
sys.exit(gpu.run(out, minutes=float(sys.argv[4])))
"""


def ignore_interrupts():
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def started(tmp_path, minutes):
    """Start the run as a shell starts a background job: with SIGINT ignored."""
    out = tmp_path / "out"
    command = [sys.executable, "-c", RUN, str(out), str(tmp_path / "scratch"), WRITE, str(minutes)]
    return out, subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=ignore_interrupts
    )


def measured(out):
    return [cell["name"] for cell in json.loads((out / "results.json").read_text())["suites"]["mmd"]["cells"]]


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def test_a_stage_that_fails_or_is_stopped_does_not_affect_the_others(tmp_path):
    out, process = started(tmp_path, 14 / 60)
    said = process.communicate(timeout=300)[0]
    assert process.returncode == 1, said
    assert measured(out) == ["first", "fails", "long", "last", "never"]  # a stopped stage keeps what it wrote
    stages = {row["name"]: row["result"] for row in json.loads((out / "results.json").read_text())["stages"]}
    assert stages["first"] == stages["last"] == "passed"
    assert stages["fails"] == "failed (3)" and stages["long"] == "stopped after 2 s"
    assert stages["never"].startswith("stopped after")
    assert "Missing or incomplete: fails, long, never." in (out / "summary.md").read_text()
    assert len(list(out.iterdir())) <= 7 and "wrote last" in (out / "stages.log").read_text()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_killed_keeps_what_was_measured(tmp_path, how):
    out, process = started(tmp_path, 5)
    wait_for(lambda: (out / "results.json").exists() and "long" in measured(out))
    os.kill(process.pid, how)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == (-9 if how == signal.SIGKILL else 1), said
    assert measured(out) == ["first", "fails", "long"]
    text = (out / "summary.md").read_text()
    assert "| first | passed |" in text and "last, never" in text


def test_the_plan_fits_500_seconds_and_brings_the_headlines_first():
    stages = gpu.plan()
    names = [stage.name for stage in stages]
    ends = names.index("training compiled")
    assert sum(stage.seconds for stage in stages[: ends + 1]) <= 500
    assert names[:5] == ["checks", "losses", "matching", "mmd", "training"]
    assert all("--no-compile" in stage.command for stage in stages[1:5])
    assert min(i for i, name in enumerate(names) if "compiled" in name) > names.index("profile")
    assert names[ends + 1] == "integrations" and set(gpu.STRONGEST.split(",")) < set(integrations.cells("cuda"))
    assert {stage.log for stage in stages} | {"results.json", "summary.md", "sanitizer.log"} <= {
        *("results.json", "summary.md", "stages.log", "pytest.log", "ncu.log", "sanitizer.log")
    }


def test_again_repeats_the_headlines_and_what_did_not_pass():
    passed = [{"name": stage.name, "result": "passed"} for stage in gpu.plan()]
    assert [s.name for s in gpu.again({"stages": passed})] == ["losses", "matching", "mmd", "training"]
    failed = [row | {"result": "failed (1)"} if row["name"] in ("tests", "lists") else row for row in passed]
    chosen = gpu.again({"stages": failed, "tests": {"failed": ["tests/kernels/test_cuda.py::test_two_streams"]}})
    assert [s.name for s in chosen] == ["losses", "matching", "mmd", "training", "tests", "lists"]
    command = chosen[4].command
    assert "tests/kernels/test_cuda.py::test_two_streams" in command and "tests" not in command
    moved = gpu.again({"stages": failed, "tests": {"failed": ["tests/test_cuda.py::test_two_streams"]}})
    assert "tests" in moved[4].command and "tests/test_cuda.py::test_two_streams" not in moved[4].command


def cell(name, *contenders, error=()):
    rows = [{"contender": c} | ({"error": "no"} if c in error else {}) for c in contenders]
    return {"name": name, "rows": rows}


def test_of_two_measurements_of_a_cell_the_more_complete_one_is_kept():
    first = {"cells": [cell("a", "eager", "ours"), cell("b", "ours")], "skipped": [], "products": {"x": 1}}
    full = {
        "cells": [cell("a", "eager", "ours", "compiled")],
        "skipped": [{"name": "c", "why": "time"}],
        "products": {},
    }
    poor = {"cells": [cell("a", "eager", "ours", error=("ours",)), cell("c", "ours")], "skipped": [], "products": {}}
    found = bundle.merged(bundle.merged(bundle.merged(None, first), full), poor)
    assert [c["name"] for c in found["cells"]] == ["a", "b", "c"]
    assert found["cells"][0] == full["cells"][0]
    assert found["skipped"] == [] and found["products"] == {"x": 1}


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path):
    environment.write_json(tmp_path / "x.json", {"a": [math.nan, 1.0], "b": {"c": math.inf, "d": (2, -math.inf)}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [None, 1.0], "b": {"c": None, "d": [2, None]}}


def test_outcomes_are_read_from_a_truncated_log():
    log = """
[gw3] [ 12%] PASSED tests/kernels/test_a.py::test_one[float32-(1, 2)]
[gw0] [ 14%] FAILED tests/kernels/test_a.py::test_two[a b]
[gw1] [ 15%] SKIPPED tests/kernels/test_a.py::test_three
tests/kernels/test_b.py::test_four[x y] PASSED      [ 50%]
tests/kernels/test_b.py::test_five ERROR            [ 75%]
tests/kernels/test_b.py::test_six """
    found = bundle.outcomes(log)
    assert found == {
        "passed": 2,
        "skipped": 1,
        "failed": ["tests/kernels/test_a.py::test_two[a b]", "tests/kernels/test_b.py::test_five"],
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "x", "--stages", "nothing"), "stage 'nothing': expected one of checks, losses,"),
        (("--out", "x", "--again", "no_such.json"), "no_such.json: expected the results.json of an earlier call"),
        (("--out", "x", "--minutes", "0"), "above 0"),
        ((), "--out"),
    ],
)
def test_bad_arguments(arguments, said, tmp_path):
    command = [sys.executable, "-m", "bench", "gpu", *arguments]
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (ROOT / "x").exists()
