"""The kernel that saves signs, compiled ahead of time for GPUs that are not here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[1]
MEASURE = """
import json, sys
from bench.checks import machine_code_matching as m
print(json.dumps([m.measure(*m.CALLS[call][:3], dtype, target) for call, dtype, target in json.loads(sys.argv[1])]))
"""
KEYS = """
import itertools
from bench.checks import machine_code_matching as m
from bench.checks.machine_code import specialised
seen = {}
lists = [(1,), (16,), (3000,), (2**20,), (1, 16), (33, 4096), (2**20 + 1, 16), (5, 16, 9000)]
for sizes, forward in itertools.product(lists, (True, False)):
    launch = m.recorded("", sizes, forward, "float32", "sm_90")
    options, signature, constants, attributes = specialised(launch, "sm_90")
    binary = repr((signature, constants, attributes, sorted(options.items(), key=lambda item: item[0])))
    first, before = seen.setdefault(launch.key, (binary, sizes))
    if first != binary:
        print(f"{before} and {sizes} share a key and need different binaries")
print(len(seen), "keys")
"""
FEW = [(call, dtype, "sm_90") for call in (0, 1) for dtype in ("float32", "bfloat16")]
ALL = [
    (call, dtype, target)
    for call, dtypes in enumerate((4, 4, 2, 2))
    for dtype in ("float32", "bfloat16", "float16", "float64")[:dtypes]
    for target in ("sm_80", "sm_90", "sm_100", "gfx942")
]


def ask(*command):
    """What a process without the interpreter, which compiles nothing, prints."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", *command], cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def check(builds):
    from bench.checks.machine_code_matching import CALLS

    rows = json.loads(ask(MEASURE, json.dumps(builds)))
    assert [(row["launch"], row["dtype"], row["target"]) for row in rows] == [
        (CALLS[call][0], dtype, target) for call, dtype, target in builds
    ]
    assert {f"{row['launch']}, {row['dtype']}, {row['target']}": row["broken"] for row in rows if row["broken"]} == {}
    return rows


def test_maps_and_signs_move_in_wide_accesses_and_nothing_spills():
    for row in check(FEW):
        narrow = "stores" if row["forward"] else "loads"
        assert row[narrow] == [128], "sixteen signs at a time"


@pytest.mark.slow
def test_every_target_and_dtype():
    check(ALL)


def test_a_launch_key_settles_the_binary():
    assert ask(KEYS) == "6 keys\n"


def test_a_broken_promise_is_named():
    from bench.checks.machine_code_matching import broken

    row = dict(forward=True, dtype="float32", loads=[128] * 8, stores=[128], spills=0, atomics=["atom.gpu.acq_rel.add"])
    assert list(broken(row)) == []
    for change, said in (
        ({"spills": 2}, "2 spills"),
        ({"loads": []}, "no tile loop"),
        ({"loads": [128, 32]}, "maps: loads"),
        ({"stores": [8]}, "signs: stores"),
        ({"atomics": ["atom.gpu.relaxed.add"]}, "atomics"),
        ({"forward": False, "atomics": [], "loads": [128], "stores": [128, 16]}, "maps: stores"),
        ({"forward": False}, "atomics"),
    ):
        assert any(said in why for why in broken(row | change)), said
