"""The kernels, compiled ahead of time, without a GPU: wide accesses, no spills, few instructions."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys

import pytest
from checkout import ROOT, TESTS

pytest.importorskip("triton")

from bench.checks import machine_code
from bench.checks.launches import TARGETS

pytestmark = pytest.mark.timeout(900)  # hundreds of builds of seconds each


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    """Measure every build by `python -m bench machine-code`, without the interpreter, which compiles nothing."""
    file = tmp_path_factory.mktemp("machine_code") / "machine_code.json"
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "bench", "machine-code", "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=900)
    assert done.returncode in (0, 1) and file.exists(), done.stderr[-2000:]
    return json.loads(file.read_text())


@pytest.fixture
def rows(document):
    """The builds of the adversarial kernel."""
    return document["rows"]


def name(row):
    return f"{row['launch']}, {row['dtype']}, {row['target']}"


def test_every_target_dtype_and_path_was_built(document, rows):
    kernels = ("mmd", "signs", "augment", "bias_act", "upfirdn2d", "filtered_lrelu")
    found = [*rows, *itertools.chain.from_iterable(document[kernel] for kernel in kernels)]
    built = [(row["kernel"], row["launch"], row["dtype"], row["target"]) for row in found]
    asked = machine_code.builds(list(TARGETS))
    assert sorted(built) == sorted((call.kernel, call.name, dtype, target) for call, dtype, target in asked)
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
    """The sums of the last program may spill. On AMD nothing spills: its compiler does not say where."""
    spills = {
        name(row): [loop.get("spills", row["spills"]) for loop in row["tile_loops"]]
        for row in rows
        if row["dtype"] != "float64"
    }
    assert len(spills) >= 60 and {key: found for key, found in spills.items() if any(found)} == {}


def test_at_most_27_and_a_half_instructions_a_logit_on_sm_90(rows):
    """24 to 26 compute the loss, its gradient and its statistics; the others read the next tile ahead."""
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
    row = next(r for r in rows if r["target"] == "sm_90" and r["dtype"] == "bfloat16" and r["programs"] > 1)
    loop = row["tile_loops"][0]
    for change, said in (
        ({"tile_loops": [loop | {"spills": 2}]}, "2 spills in the tile loop"),
        ({"tile_loops": []}, "no tile loop"),
        ({"tile_loops": [loop | {"loads_narrow": 8}]}, "8 narrower"),
        ({"tile_loops": [loop | {"instructions_a_logit": 28.5}]}, "28.5 instructions"),
        ({"gradient": True, "tile_loops": [loop | {"stores_128": 0}]}, "stores"),
    ):
        assert any(said in why for why in machine_code.Adversarial.broken(row | change)), said


@pytest.mark.parametrize("kernel", ["mmd", "signs", "augment", "upfirdn2d"])
def test_the_other_kernels_keep_every_promise(document, kernel):
    broken = {name(row): row["broken"] for row in document[kernel] if row["broken"]}
    assert broken == {} and len(document[kernel]) >= 24
    for row in document[kernel]:
        if kernel == "mmd":
            assert row["instructions"] > 100 and row["products"] == (row["matrix"] > 0), name(row)
        elif kernel != "signs" or row["target"] == "gfx942" or row["dtype"] not in ("float32", "bfloat16"):
            continue
        elif "pair of" in row["launch"]:
            assert row["stores" if row["forward"] else "loads"] == [128], "sixteen signs at a time"


def test_bias_act_keeps_every_promise(document):
    broken = {name(row): row["broken"] for row in document["bias_act"] if row["broken"]}
    assert broken == {} and len(document["bias_act"]) >= 60
    for row in document["bias_act"]:  # one read and one write; backward also reads x or y
        order = 2 if "second" in row["launch"] else 1 if "backward" in row["launch"] else 0
        assert (row["reads"], row["writes"]) == ((1, 1), (2, 1), (3, 2))[order], name(row)


def test_filtered_lrelu_keeps_every_promise(document):
    broken = {name(row): row["broken"] for row in document["filtered_lrelu"] if row["broken"]}
    assert broken == {} and len(document["filtered_lrelu"]) == 20
    for row in document["filtered_lrelu"]:
        assert row["images"] == len(row["reads"]) + 1 == (3 if "backward" in row["launch"] else 2), name(row)
        assert row["instructions"] is None or row["instructions"] < 60, name(row)


MMD = {"target": "sm_90", "products": True, "shared": 1, "spills": 9, "spills_in_loops": 0, "matrix": 9}
MMD |= {"loads_128": 4, "loads_narrow": 0}
LAYER = dict(dtype="float32", reads=2, writes=1, accesses=1, loads=[128] * 4, stores=[128] * 2, spills=0, atomics=[])
LAYER |= {"ticket": False, "odd": False}
SIGNS = dict(forward=True, dtype="float32", loads=[128] * 8, stores=[128], spills=0, atomics=["atom.gpu.acq_rel.add"])
IMAGES = dict(shared_sums=True, atomics=["atom.global.gpu.acq_rel.add.u32"], spills=0, sums=[128] * 4, loads=[32] * 12)
IMAGES |= dict(stores=[128] * 3, wide_pixels=False, wide_stores=True)

FILTERED = dict(
    spills=0, shared=512, between=5120, largest=90, ends=90, loads=8, loads_expected=8, stores=4, stores_expected=4
)
FILTERED |= dict(reads=[1.2, 1.1])
RESAMPLED = dict(last=True, loads=[128] * 28 + [32] * 16, stores=[128] * 4, taps=16, spills=0)


@pytest.mark.parametrize(
    ("call", "row", "change", "said"),
    [
        (machine_code.Mmd, MMD, {"shared": 10**6}, "shared memory"),
        (machine_code.Mmd, MMD, {"products": False}, "9 spills"),
        (machine_code.Mmd, MMD, {"spills_in_loops": 2}, "2 spills in loops"),
        (machine_code.Mmd, MMD, {"loads_narrow": 3}, "3 narrower"),
        (machine_code.Mmd, MMD, {"matrix": 0}, "matrix units"),
        (machine_code.Signs, SIGNS, {"spills": 2}, "2 spills"),
        (machine_code.Signs, SIGNS, {"loads": []}, "no tile loop"),
        (machine_code.Signs, SIGNS, {"loads": [128, 32]}, "maps: loads"),
        (machine_code.Signs, SIGNS, {"stores": [8]}, "signs: stores"),
        (machine_code.Signs, SIGNS, {"atomics": ["atom.gpu.relaxed.add"]}, "atomics"),
        (machine_code.Signs, SIGNS, {"forward": False, "atomics": [], "stores": [128, 16]}, "maps: stores"),
        (machine_code.Signs, SIGNS, {"forward": False}, "atomics"),
        (machine_code.Images, IMAGES, {"spills": 1}, "1 spills"),
        (machine_code.Images, IMAGES, {"sums": [128, 64]}, "sums of"),
        (machine_code.Images, IMAGES, {"stores": []}, "stores of"),
        (machine_code.Images, IMAGES, {"wide_pixels": True}, "loads of"),
        (machine_code.Images, IMAGES, {"atomics": []}, "atomics"),
        (machine_code.Images, IMAGES, {"shared_sums": False}, "atomics"),
        (machine_code.BiasAct, LAYER, {"spills": 2}, "2 spills"),
        (machine_code.BiasAct, LAYER, {"loads": [128] * 3 + [64]}, "loads of [128, 128, 128, 64] bits"),
        (machine_code.BiasAct, LAYER, {"stores": [128] * 4}, "stores"),
        (machine_code.BiasAct, LAYER, {"loads": []}, "expected 2 × 2 of 128"),
        (machine_code.BiasAct, LAYER, {"ticket": True}, "atomics"),
        (machine_code.FilteredLrelu, FILTERED, {"spills": 2}, "2 spills"),
        (machine_code.FilteredLrelu, FILTERED, {"shared": 5120}, "5120 bytes of shared memory"),
        (machine_code.FilteredLrelu, FILTERED, {"largest": 360}, "of 360 elements"),
        (machine_code.FilteredLrelu, FILTERED, {"loads": 9}, "9 loads a step"),
        (machine_code.FilteredLrelu, FILTERED, {"stores": 0}, "0 stores a step"),
        (machine_code.FilteredLrelu, FILTERED, {"reads": [1.2, 1.7]}, "read 1.70 times"),
        (machine_code.Upfirdn2d, RESAMPLED, {"spills": 2}, "2 spills"),
        (machine_code.Upfirdn2d, RESAMPLED, {"loads": []}, "no loop"),
        (machine_code.Upfirdn2d, RESAMPLED, {"loads": [128] * 27 + [32] * 17}, "17 narrower"),
        (machine_code.Upfirdn2d, RESAMPLED, {"stores": [128, 64]}, "stores"),
    ],
)
def test_broken_promises_of_the_other_kernels_are_named(call, row, change, said):
    row = {"target": "sm_90"} | row
    assert list(call.broken(row)) == []
    assert any(said in why for why in call.broken(row | change))


# Launches of each kernel, with sizes for which Triton might specialise.
SIDES = [(1, 1), (1, 7), (7, 1), (7, 9), (16, 16), (16, 33), (128, 128), (1024, 1000), (4096, 4096), (4097, 4096)]
SIDES += [(5, 17, 33), (1, 16, 4096), (1,), (3000,), (16, 16, 16, 16, 16), (1, 1, 300, 9000, 2, 16)]
SIDES += [(1, 9000), (9000, 1), (2048, 32768), (33000, 33000), (100_000, 99_999), (2**20, 2**20), (2**20 + 1, 16)]
MAPS = [(1,), (16,), (3000,), (2**20,), (1, 16), (33, 4096), (2**20 + 1, 16), (5, 16, 9000)]
PICTURES = list(
    itertools.product((1, 2, 16, 300), (1, 3, 16), (1, 16, 33), ("map", "linear", "transpose"), (False, True))
)
LAYERS = [
    (1, 1),
    (1, 16),
    (16, 1),
    (16, 512),
    (3, 1, 16),
    (1, 5, 1),
    (2, 16, 4, 4),
    (2, 3, 5, 7),
    (16, 1, 33),
    (4, 64, 31),
]
LAYERS += [(16, 512, 4, 4), (16, 64, 64, 64), (1, 64, 16, 16), (17, 100, 12)]
POINTS = list(itertools.product((1, 16, 4097), (1, 2, 4, 5, 16, 48, 64, 100, 260), (True, False)))
ASKED = {
    "adversarial": [
        machine_code.Adversarial("", sides, value, gradient, not value)  # (1, 7): four terms, of 1, 7, 1 and 7 logits
        for value, gradient in ((True, True), (True, False), (False, True))
        for sides in SIDES
    ],
    "signs": [machine_code.Signs("", sizes, forward) for sizes in MAPS for forward in (True, False)],
    "augment": [machine_code.Images("", (n, c, size, 16), form, last) for n, c, size, form, last in PICTURES],
    "bias_act": [
        machine_code.BiasAct("", shape, act, order, biased, last)
        for shape, last in [*[(shape, False) for shape in LAYERS], ((2, 16, 8, 8), True), ((3, 5, 7, 1), True)]
        for act, order in (("lrelu", 0), ("lrelu", 1), ("tanh", 2))
        for biased in (True, False)
    ],
    "upfirdn2d": [
        machine_code.Upfirdn2d("", (n, c, size, size + odd), taps, up, down, (2, 2), last)
        for n, c, size, odd in itertools.product((1, 2), (1, 3, 16), (4, 16, 33), (0, 1))
        for taps, up, down, last in (((4, 4), 1, 1, False), ((4, 4), 2, 1, True), ((6,), 1, 2, True))
    ],
    "filtered_lrelu": [
        machine_code.FilteredLrelu("", (n, c, size, size + odd), up, down, (4, 4), (4, 3), backward)
        for n, c, size, odd in itertools.product((1, 2), (1, 3, 16), (4, 16, 33), (0, 1))
        for up, down, backward in ((1, 1, False), (2, 1, True), (1, 2, False), (2, 2, True))
    ],
    "mmd": [machine_code.Mmd("", n, d, value=value, precision="exact" if d <= 4 else "fp32") for n, d, value in POINTS],
}
KEYS = """
import sys
from test_machine_code import ASKED
from bench.checks.launches import specialised
seen = {}
for call in ASKED[sys.argv[1]]:
    launch = call.launch("float32", "sm_90")
    options, signature, constants, attributes = specialised(launch, "sm_90")
    binary = repr((signature, constants, attributes, sorted(options.items(), key=lambda item: item[0])))
    first, before = seen.setdefault(launch.key, (binary, call))
    if first != binary:
        print(f"{before} and {call} share a key and need different binaries")
"""


def output_without_interpreter(code: str, *arguments: str) -> str:
    """Run the code without the interpreter, which compiles nothing; return the output."""
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    folders = [str(TESTS), str(TESTS / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables["PYTHONPATH"] = os.pathsep.join(folders)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("kernel", ASKED)
def test_a_launch_key_determines_the_binary(kernel):
    """Every call with the same key launches the same binary. This can fail: Triton specialises integers in a tuple in
    spite of `do_not_specialize` (1 becomes a constant, and a multiple of 16 is assumed to be one)."""
    assert output_without_interpreter(KEYS, kernel) == ""
