"""`python -m bench gate`: exact counts of the work that is done, against a committed baseline.

Times on a shared machine vary by more than a regression costs; these counts do not vary. For every case, a loss or a
training step on fixed data:

    launches      kernels launched, by the launcher's counter and by the interpreter, in which the real kernels run
    operators     CPU operators by name, bytes allocated, allocations and most bytes held, of the closed form
    instructions  machine code for sm_90, compiled here: instructions of the tile loop, 128-bit and narrower accesses,
                  registers, spills, atomics

Each section runs in a separate process, on one thread, after warm-up calls, so that it depends neither on the machine
nor on the order. Operators depend on the version of torch and instructions on that of Triton: if it is not the
baseline's, the section is not compared, and says so.
"""

from __future__ import annotations

import collections
import concurrent.futures
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

from bench.harness import environment

BASELINE = environment.ROOT / "bench" / "baseline.json"
SECTIONS = ("launches", "operators", "instructions")
DEPENDS_ON = {"operators": "torch", "instructions": "triton"}
BUILDS = (  # of bench.checks.machine_code.CALLS
    ("value_and_grad, 2 × 128", "float32"),
    ("value_and_grad, 2 × 4194307", "float32"),
    ("value_and_grad, 2 × 4194307", "bfloat16"),
    ("drop-in forward, 2 × 2^22", "float16"),
    ("drop-in backward, 2 × 2^22", "float32"),
    ("HiFi-GAN's list, 2 × 8 tensors, least squares", "float32"),
    ("relativistic pairs, 2^22", "bfloat16"),
)
SLOW_TO_INTERPRET = {  # seconds each; smaller cases launch as often
    "value_and_grad, 2 × 65536",
    "drop-in, 2 × 65536",
    "generator, drop-in, 65536",
    "HiFi-GAN's D list, drop-in",
    "feature matching, 12 maps, drop-in",
    "feature matching, 70 maps, value_and_grad",
    "mmd, 300 against 200, drop-in",
}
WARM_UP = 3

Call = Callable[[], object]


def run(only: Sequence[str] | None, update: bool, words: Sequence[str] | None = None) -> int:
    """Returns 0 if every count equals the baseline's, else 1. update: write the baseline. words: only cases whose name
    contains one of these."""
    sections = list(SECTIONS if update else only or SECTIONS)
    if update and words:
        raise ValueError("gate: --cases: not with --update, which writes every case")
    if unknown := [name for name in sections if name not in SECTIONS]:
        raise ValueError(f"gate: section {unknown[0]!r}: expected one of {', '.join(SECTIONS)}")
    baseline = json.loads(BASELINE.read_text(encoding="utf-8")) if BASELINE.exists() else {}
    if not update and not baseline:
        raise ValueError("gate: bench/baseline.json does not exist: `--update` writes it")
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = dict(zip(sections, pool.map(lambda section: count_section(section, words), sections)))
    if update:
        environment.write_json(BASELINE, {"versions": versions()} | {name: found[name] for name in SECTIONS})
        print(f"bench/baseline.json: {sum(len(cases) for cases in found.values())} cases written")
        return 0
    wrong = 0
    for section in sections:
        tool = DEPENDS_ON.get(section)
        there, here = baseline["versions"].get(tool), versions().get(tool)
        if tool and there != here:
            print(f"{section}: not compared: the baseline is of {tool} {there}, and this is {here}")
            continue
        expected = {name: case for name, case in baseline.get(section, {}).items() if _selected(name, words)}
        differ = list(differences(expected, found[section]))
        wrong += len(differ)
        for line in differ:
            print(f"{section}: {line}")
        print(f"{section}: {len(found[section])} cases, {len(differ) or 'no'} difference{'s' * (len(differ) != 1)}")
    if wrong:
        print("If this is intended: `python -m bench gate --update`, and commit bench/baseline.json with the change.")
    return 1 if wrong else 0


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {tool: version(tool).split("+")[0] for tool in ("torch", "triton")}


def differences(baseline: dict, found: dict, path: str = "") -> Iterator[str]:
    """A line for each count that differs, or that one of the two does not have."""
    for key in [*baseline, *(k for k in found if k not in baseline)]:
        where = f"{path}, {key}" if path else key
        before, now = baseline.get(key), found.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from differences(before, now, where)
        elif before != now:
            yield f"{where}: {_shown(now)}, and {_shown(before)} in the baseline"


def _shown(value: object) -> str:
    return "nothing" if value is None else "other counts" if isinstance(value, dict) else str(value)


def _selected(name: str, words: Sequence[str] | None) -> bool:
    return words is None or any(word in name for word in words)


def count_section(section: str, words: Sequence[str] | None = None) -> dict:
    """The counts of a section, from a new process."""
    left_out = ("TRITON_INTERPRET", "FASTGAN_BACKEND", "FASTGAN_CACHED_LAUNCH", "OMP_NUM_THREADS")
    variables = {k: v for k, v in os.environ.items() if k not in left_out} | {"OMP_NUM_THREADS": "1"}
    variables |= {"CUDA_VISIBLE_DEVICES": "", "KINETO_LOG_LEVEL": "99"}
    if section == "launches":
        variables |= {"TRITON_INTERPRET": "1", "FASTGAN_BACKEND": "triton"}
    command = [sys.executable, "-m", "bench.checks.gate", section, *(words or ())]
    done = subprocess.run(command, cwd=environment.ROOT, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"python -m bench gate: {section}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


# The cases: public calls, at sizes on both sides of every choice that the launcher and the closed form make.


def cases() -> dict[str, Callable[[], Call]]:
    import torch

    import fastgan
    from bench.codebases.shapes import HIFIGAN

    random = torch.Generator().manual_seed(0)

    def logits(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(shape, generator=random).to(dtype).requires_grad_()

    def direct(n: int, objective: str = "minimax", dtype: torch.dtype = torch.float32) -> Call:
        real, fake = logits(n, dtype=dtype), logits(n, dtype=dtype)
        return lambda: fastgan.discriminator_value_and_grad(real, fake, objective)

    def drop_in(n: int, objective: str = "minimax", dtype: torch.dtype = torch.float32) -> Call:
        real, fake = logits(n, dtype=dtype), logits(n, dtype=dtype)
        return lambda: torch.autograd.grad(fastgan.discriminator_loss(real, fake, objective), (real, fake))

    def generator(n: int) -> Call:
        fake = logits(n)
        return lambda: torch.autograd.grad(fastgan.generator_loss(fake, "nonsaturating"), fake)

    def lists(backward: bool) -> Call:
        real, fake = ([logits(math.prod(shape)) for shape in HIFIGAN] for _ in range(2))
        if not backward:
            return lambda: fastgan.discriminator_value_and_grad(real, fake, "least_squares")
        loss_of = fastgan.compat.hifigan.discriminator_loss
        return lambda: torch.autograd.grad(loss_of(real, fake)[0], [*real, *fake])

    def both_in_one() -> Call:
        scales = [[logits(8, 1, 35, 35)], [logits(8, 1, 19, 19)]]
        return lambda: fastgan.concatenated_discriminator_value_and_grad(scales, "hinge")

    def maps(pairs: int, backward: bool) -> Call:
        fake, real = ([logits(2, 8, 40) for _ in range(pairs)] for _ in range(2))
        if not backward:
            return lambda: fastgan.feature_matching_value_and_grad(fake, real)
        return lambda: torch.autograd.grad(fastgan.feature_matching_loss(fake, real), fake)

    def labels() -> Call:
        real, fake, soft = logits(3000), logits(3000), torch.rand(3000, generator=random)
        return lambda: fastgan.discriminator_value_and_grad(real, fake, real_label=soft)

    def mmd(backward: bool) -> Call:
        x, y = logits(300, 8), logits(200, 8).detach()
        if not backward:
            return lambda: fastgan.mmd_value_and_grad(x, y)
        return lambda: torch.autograd.grad(fastgan.mmd_loss(x, y), x)

    def training_step() -> Call:
        torch.manual_seed(0)
        networks = [
            torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.ReLU(), torch.nn.Linear(16, n)) for n in (2, 1)
        ]
        trainer = fastgan.GANTrainer(*networks, latent_dim=2)
        data = torch.randn(64, 2, generator=random)
        return lambda: trainer.step(data)

    return {
        "value_and_grad, 2 × 128": lambda: direct(128),
        "value_and_grad, 2 × 65536": lambda: direct(65536),
        "value_and_grad, 2 × 5000, bfloat16": lambda: direct(5000, dtype=torch.bfloat16),
        "value_and_grad, 2 × 5000, float64": lambda: direct(5000, dtype=torch.float64),
        "value_and_grad, 2 × 5000, hinge": lambda: direct(5000, "hinge"),
        "value_and_grad, 2 × 5000, relativistic": lambda: direct(5000, "relativistic"),
        "value_and_grad, 2 × 5000, relativistic average": lambda: direct(5000, "relativistic_average"),
        "value_and_grad, 2 × 3000, soft labels": labels,
        "drop-in, 2 × 128": lambda: drop_in(128),
        "drop-in, 2 × 20000": lambda: drop_in(20000),
        "drop-in, 2 × 65536": lambda: drop_in(65536),
        "drop-in, 2 × 5000, float16": lambda: drop_in(5000, dtype=torch.float16),
        "drop-in, 2 × 5000, least squares": lambda: drop_in(5000, "least_squares"),
        "generator, drop-in, 128": lambda: generator(128),
        "generator, drop-in, 65536": lambda: generator(65536),
        "HiFi-GAN's D list, value_and_grad": lambda: lists(False),
        "HiFi-GAN's D list, drop-in": lambda: lists(True),
        "SPADE's batch of both, value_and_grad": both_in_one,
        "feature matching, 12 maps, value_and_grad": lambda: maps(12, False),
        "feature matching, 12 maps, drop-in": lambda: maps(12, True),
        "feature matching, 70 maps, value_and_grad": lambda: maps(70, False),
        "training step, networks for points": training_step,
        "mmd, 300 against 200, value_and_grad": lambda: mmd(False),
        "mmd, 300 against 200, drop-in": lambda: mmd(True),
    }  # fmt: skip


def launches(words: Sequence[str] | None = None) -> dict:
    """Launches of a call of each case, under the interpreter."""
    from triton.runtime.interpreter import GridExecutor

    from fastgan import kernels

    ran, run_grid = 0, GridExecutor.__call__

    def counting(self, *arguments, **options):
        nonlocal ran
        ran += 1
        return run_grid(self, *arguments, **options)

    GridExecutor.__call__ = counting
    found = {}
    for name, make in cases().items():
        if name in SLOW_TO_INTERPRET or not _selected(name, words):
            continue
        call = make()
        before, ran = kernels.launch_count(), 0
        call()
        found[name] = {"launches": kernels.launch_count() - before, "kernels": ran}
    return found


def operators(words: Sequence[str] | None = None) -> dict:
    """Operators and memory of a call of each case, with the CPU's closed form."""
    import torch

    torch.set_num_threads(1)
    found = {}
    for name, make in cases().items():
        if not _selected(name, words):
            continue
        call = make()
        for _ in range(WARM_UP):
            call()
        found[name] = _profiled(call)
    return found


def _profiled(call: Call) -> dict:
    import itertools

    import torch

    from bench.harness.clock import memory_events

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    called = collections.Counter(e.name for e in profile.events() if not e.cpu_children and e.name.startswith("aten::"))
    memory = memory_events(profile)
    taken = [n for n in memory if n > 0]
    counts = {"operators": sum(called.values()), "allocations": len(taken), "bytes_allocated": sum(taken)}
    counts["peak_bytes"] = max(itertools.accumulate(memory, initial=0))
    return counts | {"by_name": dict(sorted(called.items()))}


def instructions(words: Sequence[str] | None = None) -> dict:
    """Counts from the machine code of each of BUILDS, for sm_90."""
    from bench.checks import machine_code

    calls = {call.name: call for call in machine_code.CALLS}
    keys = ("registers", "stack", "spills", "code", "atomics", "programs", "threads", "block", "tile_loops")
    found = {}
    for name, dtype in BUILDS:
        if not _selected(f"{name}, {dtype}", words):
            continue
        row = machine_code.measure(calls[name], dtype, "sm_90")
        row["tile_loops"] = {f"tile loop {i}": loop for i, loop in enumerate(row["tile_loops"])}
        found[f"{name}, {dtype}"] = {key: row[key] for key in keys}
    return found


if __name__ == "__main__":
    count = {"launches": launches, "operators": operators, "instructions": instructions}[sys.argv[1]]
    print(json.dumps(count(sys.argv[2:] or None)))
