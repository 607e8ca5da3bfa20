"""The kernel of the maximum mean discrepancy, compiled ahead of time for GPUs that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[1]
DIFFERENCES, PRODUCTS, TF32, CHUNKS, BFLOAT16, CHUNKS_FLOAT32 = range(6)  # of `machine_code_mmd.CALLS`
FEW = [(DIFFERENCES, "sm_90"), (DIFFERENCES, "gfx942"), (PRODUCTS, "sm_90"), (BFLOAT16, "sm_80"), (CHUNKS, "sm_90")]
ALL = [(call, target) for call in range(6) for target in ("sm_80", "sm_90", "sm_100", "gfx942")]
MEASURE = """
import json, sys
from bench.checks import machine_code_mmd as m
print(json.dumps([m.measure(m.CALLS[call], target) for call, target in json.loads(sys.argv[1])]))
"""
KEYS = """
import itertools
import sys
from unittest import mock
from bench.checks import machine_code_mmd as m
from bench.checks.machine_code import specialised
seen = {}
sizes = itertools.product((1, 16, 4097), (1, 2, 4, 5, 16, 48, 64, 100, 260), (True, False))
for n, d, value in sizes:
    launch = m.recorded(m.Call("", n, d, value=value, precision="exact" if d <= 4 else "fp32"), "sm_90")
    options, signature, constants, attributes = specialised(launch, "sm_90")
    binary = repr((signature, constants, attributes, sorted(options.items(), key=lambda item: item[0])))
    first, before = seen.setdefault(launch.key, (binary, (n, d)))
    if first != binary:
        print(f"{before} and {(n, d)} share a key and need different binaries")
"""


def python(code, *arguments):
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def check(builds):
    rows = json.loads(python(MEASURE, json.dumps(builds)))
    assert len(rows) == len(builds)
    assert {f"{row['launch']}, {row['target']}": row["broken"] for row in rows if row["broken"]} == {}
    for row in rows:
        assert row["instructions"] > 100 and (row["products"] == (row["matrix"] > 0)), row


def test_no_spills_wide_loads_matrix_units_and_shared_memory():
    check(FEW)


@pytest.mark.slow
def test_every_launch_on_every_target():
    check([build for build in ALL if build not in FEW])


def test_a_launch_key_settles_the_binary():
    """A binary is launched again for every call with the same key."""
    assert python(KEYS) == ""


def test_a_broken_promise_is_named():
    from bench.checks.machine_code_mmd import broken

    good = {"target": "sm_90", "products": True, "shared": 1, "spills": 9, "spills_in_loops": 0, "matrix": 9}
    good |= {"loads_128": 4, "loads_narrow": 0}
    assert list(broken(good)) == []
    for change, said in (
        ({"shared": 10**6}, "shared memory"),
        ({"products": False}, "9 spills"),
        ({"spills_in_loops": 2}, "2 spills in loops"),
        ({"loads_narrow": 3}, "3 narrower"),
        ({"matrix": 0}, "matrix units"),
    ):
        assert any(said in why for why in broken(good | change)), said
