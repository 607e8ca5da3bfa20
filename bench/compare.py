"""`python -m bench compare REV`: this checkout against another commit, in one run, interleaved.

Both sides are copies in a temporary folder, each with its own fastgan and kernels and with this checkout's bench, so
only the measured code differs. A pair of processes, one for each side, runs interleaved, so that a slow second of the
machine affects both. Several pairs run one after the other, since two processes of the same code differ by more than
their rounds do. A row's ratio is that of the geometric means over the pairs.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.harness import environment, report
from bench.harness.progress import progress
from bench.harness.promises import times
from bench.harness.statistics import geometric_mean

HERE, THERE = "this checkout", "other"
SIZES = (128, 2**12, 2**18, 2**21)
FROM_LISTS = ("hifigan-d", "real-esrgan-d")


def rows() -> list[str]:
    """The compared rows: the loss by two calls, lists of discriminators, and eager, which is the same on both sides."""
    found = [f"{name} {dtype} {n}" for name in ("drop-in", "value_and_grad") for n in SIZES for dtype in ("float32",)]
    found += [f"{name} bfloat16 {2**18}" for name in ("drop-in", "value_and_grad")]
    found += [f"{name} {configuration}" for configuration in FROM_LISTS for name in ("drop-in", "value_and_grad")]
    return [*found, *(f"eager float32 {n}" for n in (SIZES[0], SIZES[2]))]


def copy_tree(folder: Path, revision: str | None) -> None:
    """Copy fastgan and kernels of a revision, or of this checkout with its changes, and this checkout's bench, so that
    a process started in `folder` imports them. Raises ValueError for an unknown revision."""
    folder.mkdir(parents=True)
    if revision is None:
        for name in ("fastgan", "kernels"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(environment.ROOT / name, folder / name, symlinks=True, ignore=ignore)
    else:
        command = ["git", "archive", "--format=tar", revision, "fastgan", "kernels"]
        done = subprocess.run(command, cwd=environment.ROOT, capture_output=True)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["git archive failed"]
            raise ValueError(f"REV: got {revision!r}: {said[-1]}")
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
            archive.extractall(folder, filter="data")
    if not (folder / "fastgan" / "kernels").exists():  # a revision whose installation puts the kernels there
        (folder / "fastgan" / "kernels").symlink_to("../kernels")
    ignore = shutil.ignore_patterns("__pycache__", "results")
    shutil.copytree(environment.ROOT / "bench", folder / "bench", ignore=ignore)


class Worker:
    """A process that times rows, one sample for each request."""

    def __init__(self, folder: Path, device: str, threads: int | None):
        variables = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYTHONPATH")}
        command = [sys.executable, "-m", "bench.compare", device, str(threads or 0)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, cwd=folder, env=variables, stdin=pipe, stdout=pipe, text=True)

    def ask(self, *words: str):
        """The worker's answer; a dict with "error" if the row failed."""
        try:
            self.process.stdin.write(json.dumps(words) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        return json.loads(answer) if answer else {"error": f"the process ended with {self.process.wait()}"}

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def run(args: argparse.Namespace) -> int:
    """Print the table and the verdict. Returns 0 whatever the times are, and 1 if a result is wrong."""
    selected = [row for row in rows() if args.only is None or any(word in row for word in args.only)]
    if not selected:
        raise ValueError(f"compare: --only: expected part of one of {', '.join(rows())}")
    device = args.device or environment.default_device()
    with tempfile.TemporaryDirectory() as temporary:
        folders = {HERE: Path(temporary) / "here", THERE: Path(temporary) / "there"}
        copy_tree(folders[HERE], None)
        copy_tree(folders[THERE], args.revision)
        found, wrong = compared(folders, selected, device, args.pairs, args.seconds, args.threads)
    revision = environment.capture("git", "rev-parse", args.revision) or args.revision
    results = {"environment": environment.describe(device), "device_type": device, "revision": revision}
    results |= {"pairs": args.pairs, "rows": found, "wrong": wrong}
    if args.json:
        environment.write_json(args.json, results)
    print(table(results))
    return 1 if wrong else 0


def compared(
    folders: dict[str, Path], selected: Sequence[str], device: str, pairs: int, seconds: float, threads: int | None
) -> tuple[dict, dict]:
    """({row: {kind of time: interval of the ratio}}, {row: what is wrong})."""
    ratios: dict[str, dict[str, list[float]]] = {row: {} for row in selected}
    spent: dict[str, dict[str, list[float]]] = {row: {} for row in selected}
    wrong, shuffle = {}, random.Random(0)
    for _ in progress(range(pairs), "pairs"):
        order = list(folders.items())
        shuffle.shuffle(order)
        workers = {side: Worker(folder, device, threads) for side, folder in order}
        try:
            for row in selected:
                answers = {side: worker.ask("make", row) for side, worker in workers.items()}
                errors = [f"{side}: {a['error']}" for side, a in answers.items() if "error" in a]
                if errors:
                    wrong[row] = "; ".join(errors)
                    continue
                for kind, sides in _rounds(workers, seconds, shuffle).items():
                    medians = {side: float(np.median(values)) for side, values in sides.items()}
                    ratios[row].setdefault(kind, []).append(math.log(medians[THERE] / medians[HERE]))
                    spent[row].setdefault(kind, []).append(medians[HERE])
        finally:
            for worker in workers.values():
                worker.stop()
    timed = [row for row in selected if row not in wrong]
    confidence = 1 - 0.05 / max(1, sum(len(ratios[row]) for row in timed))  # for each row, so that all hold at 95 %
    return {
        row: {
            kind: geometric_mean(logs, confidence) | {"us": float(np.exp(np.mean(np.log(spent[row][kind]))))}
            for kind, logs in ratios[row].items()
        }
        for row in timed
    }, wrong


def _rounds(workers: dict[str, Worker], seconds: float, shuffle: random.Random) -> dict[str, dict[str, list[float]]]:
    """{kind of time: {side: samples}}; each round takes a sample of each side, in random order."""
    found: dict[str, dict[str, list[float]]] = {}
    begin, done, order = time.perf_counter(), 0, list(workers)
    while done < 5 or (time.perf_counter() - begin < seconds and done < 400):
        shuffle.shuffle(order)
        for side in order:
            for kind, value in workers[side].ask("sample").items():
                found.setdefault(kind, {}).setdefault(side, []).append(value)
        done += 1
    return found


def verdict(ratio: dict) -> str:
    return "faster" if ratio["low"] > 1 else "slower" if ratio["high"] < 1 else "agree"


def table(results: dict) -> str:
    found = [(row, kind, ratio) for row, kinds in results["rows"].items() for kind, ratio in kinds.items()]
    shown = [(row, kind, f"{ratio['us']:.4g}", times(ratio), verdict(ratio)) for row, kind, ratio in found]
    shown += [(row, "not timed", "", "", why) for row, why in results["wrong"].items()]
    head = ["row", "time", "this checkout µs", f"speed against {results['revision'][:12]}", ""]
    apart = [row for row, _, ratio in found if verdict(ratio) != "agree"]
    if any(row.startswith("eager") for row in apart):
        said = "Eager, the same code on both sides, differs: this machine is too unsteady for the other rows to count."
    elif apart:
        said = f"The two do not agree: {len(apart)} rows differ by more than their intervals allow."
    else:
        said = f"The two agree within the intervals, over {results['pairs']} pairs of processes."
    return "\n".join([*report.table(head, shown), "", said])


# The worker: answers each line of standard input with a line of JSON.


def make(row: str, device: str):
    """(clock, call) of a row; raises ValueError if its result is wrong."""
    import torch

    from bench.codebases.configurations import BY_NAME
    from bench.harness.accuracy import DTYPES
    from bench.harness.clock import clock_of, poison
    from bench.harness.contest import rotating
    from bench.suites import contenders, lists

    clock, (name, *where) = clock_of(device, quick=False), row.split()
    generator = torch.Generator(device=device).manual_seed(1)
    if len(where) == 2:
        dtype, n = DTYPES[where[0]], int(where[1])
        sets, _ = clock.buffers(4 * n * dtype.itemsize)
        contender = next(c for c in contenders.CONTENDERS if c.name == name)
        step, outputs = contender.make(None), [torch.empty(n, dtype=dtype)]
        batches = [contenders.draw(n, dtype, device, generator) for _ in range(sets)]
    else:
        c = BY_NAME[where[0]]
        sets, _ = clock.buffers(4 * c.logits * DTYPES[c.dtype].itemsize)
        batches = [(lists.draw(c, device, generator),) for _ in range(sets)]
        outputs = batches[0][0].tensors
        step = lists.steps(c, outputs[0], None)[name]()
    for x in outputs:
        poison(device, x.shape, x.dtype)
    result = step(*batches[0])
    if len(where) == 2:
        wrong, _ = contenders.why_wrong(result, *batches[0], 1.0, contender.ours)
    else:
        wrong, _ = lists.why_wrong(result, batches[0][0], lists.exact(c, batches[0][0], 1.0), True)
    if wrong:
        raise ValueError(f"wrong result, not timed: {wrong}")
    call = rotating(step, batches)
    for i in range(max(3, sets)):
        call(i)
    return clock, call


def work(device: str, threads: int) -> None:
    import gc

    import torch

    if threads:
        torch.set_num_threads(threads)
    gc.disable()
    clock = call = plan = None
    for line in sys.stdin:
        words = json.loads(line)
        try:
            if words[0] == "make":
                gc.collect()
                clock, call = make(words[1], device)
                plan, answer = clock.plan(call), {}
            else:
                answer = clock.sample(call, plan)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
