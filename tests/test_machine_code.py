"""The kernels, compiled ahead of time for GPUs that are not here: wide accesses, no spills, few instructions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Every build, as `python -m bench machine-code` measures it; not under the interpreter, which compiles nothing."""
    file = tmp_path_factory.mktemp("machine_code") / "machine_code.json"
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench", "machine-code", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode in (0, 1) and file.exists(), done.stderr[-2000:]
    return json.loads(file.read_text())["rows"]


def name(row):
    return f"{row['launch']}, {row['dtype']}, {row['target']}"


def test_every_target_dtype_and_path_was_built(rows):
    from bench.checks.machine_code import CALLS, LEFT_OUT, TARGETS  # imports Triton, compiles nothing

    built = {(row["launch"], row["dtype"], row["target"]) for row in rows}
    dtypes = ("float32", "bfloat16", "float16", "float64")
    asked = {(call.name, dtype) for call in CALLS for dtype in dtypes} - {(call, dtype) for dtype, call in LEFT_OUT}
    assert built == {(*build, target) for build in asked for target in TARGETS}
    assert {row["programs"] == 1 for row in rows} == {True, False}


def test_full_tiles_are_read_and_written_128_bits_at_a_time(rows):
    nvidia = [row for row in rows if row["target"] != "gfx942"]
    for row in nvidia:
        assert row["tile_loops"], name(row)
        for loop in row["tile_loops"]:
            assert loop["loads_128"] > 0 and loop["loads_narrow"] == 0, name(row)
            assert (loop["stores_128"] > 0) == row["gradient"] and loop["stores_narrow"] == 0, name(row)
    assert not [(name(row), row["broken"]) for row in rows if any("128" in why for why in row["broken"])]


def test_nothing_spills_in_a_tile_loop(rows):
    """The last program's sums may, once a launch; on AMD, whose compiler does not say where, nothing does."""
    spills = {
        name(row): [loop.get("spills", row["spills"]) for loop in row["tile_loops"]]
        for row in rows
        if row["dtype"] != "float64"
    }
    assert len(spills) >= 60 and {key: found for key, found in spills.items() if any(found)} == {}


def test_at_most_27_and_a_half_instructions_a_logit_on_sm_90(rows):
    """24 to 26 are the loss, its gradient and its statistics, the rest is the price of reading a tile ahead."""
    each = {
        name(row): loop["instructions_a_logit"]
        for row in rows
        if row["target"] == "sm_90" and row["dtype"] != "float64" and row["programs"] > 1
        for loop in row["tile_loops"]
    }
    assert len(each) >= 9
    assert {key: value for key, value in each.items() if not 5 < value <= 27.5} == {}


def test_one_program_takes_no_ticket_and_many_take_one_that_orders_memory(rows):
    for row in rows:
        summed = row["programs"] > 1 and "backward" not in row["launch"]
        if row["target"] == "gfx942":
            assert bool(row["atomics"]) == summed, name(row)
        else:
            assert any("acq_rel" in atomic for atomic in row["atomics"]) == summed, name(row)


def test_a_broken_promise_is_named(rows):
    from bench.checks.machine_code import broken

    row = next(r for r in rows if r["target"] == "sm_90" and r["dtype"] == "bfloat16" and r["programs"] > 1)
    loop = row["tile_loops"][0]
    for change, said in (
        ({"tile_loops": [loop | {"spills": 2}]}, "2 spills in the tile loop"),
        ({"tile_loops": []}, "no tile loop"),
        ({"tile_loops": [loop | {"loads_narrow": 8}]}, "8 narrower"),
        ({"tile_loops": [loop | {"instructions_a_logit": 28.5}]}, "28.5 instructions"),
        ({"gradient": True, "tile_loops": [loop | {"stores_128": 0}]}, "stores"),
    ):
        assert any(said in why for why in broken(row | change)), said


SIDES = [(1, 1), (1, 7), (7, 1), (7, 9), (16, 16), (16, 33), (128, 128), (1024, 1000), (4096, 4096), (4097, 4096)]
SIDES += [(5, 17, 33), (1, 16, 4096), (1,), (3000,), (16, 16, 16, 16, 16), (1, 1, 300, 9000, 2, 16)]
SIDES += [(1, 9000), (9000, 1), (2048, 32768), (33000, 33000), (100_000, 99_999), (2**20, 2**20), (2**20 + 1, 16)]
SPECIALISED = """
import json, sys
from bench.checks.machine_code import Call, recorded, specialised
seen = {}
for name, value, gradient in (("both", True, True), ("value", True, False), ("gradient", False, True)):
    for sides in json.loads(sys.argv[1]):
        # both sides of these sizes: (1, 7) is four terms, of 1, 7, 1 and 7 logits
        launch = recorded(Call(name, tuple(sides), value, gradient, not value), "float32", "sm_90")
        options, signature, constants, attributes = specialised(launch, "sm_90")
        binary = repr((signature, constants, attributes, sorted(options.items(), key=lambda item: item[0])))
        first, sides_first = seen.setdefault(launch.key, (binary, sides))
        if first != binary:
            print(f"{name}: {sides_first} and {sides} share a key and need different binaries")
"""


def test_a_launch_key_settles_the_binary():
    """A binary is launched again for every call with the same key. Triton specialises integers in a tuple (1 becomes
    a constant, multiples of 16 are assumed to be that) whatever `do_not_specialize` says, so this can go wrong."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", SPECIALISED, json.dumps(SIDES)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""
