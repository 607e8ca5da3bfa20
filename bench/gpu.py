"""`python -m bench gpu`: everything that needs a GPU machine, in one command, the most valuable first.

Each stage is a separate process group with a budget of seconds. Its measurements reach the output folder within a
second, so a stage that is stopped, or a machine that is lost, costs only what was not measured yet. Nothing is
downloaded. On a machine without a GPU, stages that need one are skipped, and the summary says so.

The output folder holds at most seven files: results.json (every number; `python -m bench report results.json` draws
tables, pictures and the pages' tables from it on another machine), summary.md, and the logs of the stages.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import bundle
from bench.harness import environment

PYTHON = sys.executable
SCRATCH = environment.ROOT / "build" / "gpu"  # ignored by git; a later call reads earlier results here
MINUTES = 500 / 60
FAILURES = "FASTGAN_TEST_FAILURES"  # names the file to which tests/conftest.py writes each traceback at once
GRACE = 8.0  # seconds from SIGINT to SIGKILL
LEAST = 8.0  # seconds: no stage is started with less time left

HEADLINES = "float32:2^26,bfloat16:2^26,float32:128,float32:2^12,float32:2^16"
QUICK_HEADLINES = "float32:2^18,bfloat16:2^18,float32:128"
STRONGEST = "hifigan,dac"  # the public steps with the largest speed-ups on a CPU


@dataclass(frozen=True)
class Stage:
    """seconds: the most it may take. log: the file for its output. tool: a program that it needs. beside: a stage that
    runs at the same time."""

    name: str
    seconds: float
    command: tuple[str, ...]
    log: str = "stages.log"
    tool: str | None = None
    needs_gpu: bool = True
    variables: tuple[tuple[str, str], ...] = ()
    beside: Stage | None = None


def plan(commit: str | None = None, quick: bool = False, failed: Sequence[str] = ()) -> list[Stage]:
    """The stages, the most valuable first. failed: ids of the tests to run; by default all for a GPU."""
    header = ("--commit", commit) if commit else ()

    def bench(name: str, seconds: float, *arguments: str, needs_gpu: bool = True) -> Stage:
        out = ("--out", str(SCRATCH / name.replace(" ", "-")))
        return Stage(name, seconds, (PYTHON, "-m", "bench", *arguments, *out, *header), needs_gpu=needs_gpu)

    def suite(name: str, seconds: float, suite: str, only: str | None, *options: str) -> Stage:
        """Its time limit is below `seconds`, so that it ends before it is stopped."""
        common = ("--processes", "1", "--quiet", "--limit", f"{0.8 * seconds:.0f}", *["--quick"] * quick)
        selection = ("--only", only) if only else ()
        return bench(name, seconds, suite, *selection, *common, *options, needs_gpu=False)

    def tests(name: str, seconds: float, marks: str, *options: str, beside: Stage | None = None) -> Stage:
        command = (PYTHON, "-m", "pytest", *(failed or ("tests",)), "-vv", "--tb=short", "-p", "no:cacheprovider")
        command += ("--continue-on-collection-errors", "-m", marks, *options)
        return Stage(name, seconds, command, "pytest.log", beside=beside)

    uncached = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)  # so that the checker sees each tensor's allocation
    sanitizer = ("compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9", PYTHON, "-m", "bench.workload")
    command = (*sanitizer, "small")
    memory = Stage("memcheck", 90, command, "sanitizer.log", "compute-sanitizer", variables=uncached)
    sections = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats", "WarpStateStats")
    profile = ("ncu", "--clock-control", "none", "--kernel-name", "regex:adversarial|matching", "--launch-count", "6")
    profile += tuple(word for section in sections for word in ("--section", section))
    losses, hifigan = QUICK_HEADLINES if quick else HEADLINES, "hifigan"
    mmd, dcgan = ("256 x 64" if quick else "16384 x 64"), "64px-b128"
    rest = _others(losses, hifigan, mmd)
    workers = ("-n", str(min(12, os.cpu_count() or 1)))
    return [
        bench("checks", 60, "checks"),
        suite("losses", 20, "losses", losses, "--no-compile", "--budget", "1.5"),
        suite("matching", 30, "matching", hifigan, "--no-compile", "--budget", "1.5"),
        suite("mmd", 30, "mmd", mmd, "--no-compile", "--budget", "1.5"),
        suite("training", 35, "training", dcgan, "--no-compile", "--budget", "8"),
        bench("tune", 30, "tune", *["--quick"] * quick),
        tests("tests", 100, "gpu and not capture_fails and not slow", *workers, beside=memory),
        tests("failing captures", 20, "gpu and capture_fails and not slow"),  # alone: they may break the CUDA context
        Stage("profile", 20, (*profile, PYTHON, "-m", "bench.workload", "large"), "ncu.log", "ncu"),
        suite("losses compiled", 50, "losses", losses, "--budget", "1.5"),
        suite("matching compiled", 30, "matching", hifigan, "--budget", "1.5"),
        suite("mmd compiled", 30, "mmd", mmd, "--budget", "1.5"),
        suite("training compiled", 40, "training", dcgan, "--budget", "8"),
        suite("integrations", 60, "integrations", STRONGEST, "--budget", "8"),
        suite("layers", 45, "layers", None, "--no-compile"),  # the cells with promises first, then as many as fit
        suite("lists", 40, "lists", None, "--no-compile", "--budget", "0.5"),
        suite("more losses", 60, "losses", rest["losses"], "--no-compile", "--budget", "0.5"),
        suite("more matching", 40, "matching", rest["matching"], "--no-compile", "--budget", "0.5"),
        suite("more mmd", 25, "mmd", rest["mmd"], "--no-compile", "--budget", "0.5"),
        suite("batches", 20, "batches", None, "--no-compile"),
        suite("timeline", 15, "timeline", None),
    ]


def _others(losses: str, matching: str, mmd: str) -> dict[str, str]:
    """The cells of each suite, without those that have separate stages."""
    from bench.harness.promises import size
    from bench.suites import losses as losses_
    from bench.suites import suite

    known = {
        "losses": [f"{dtype}:{size(n)}" for dtype, n in losses_.cells("cuda", False)],
        "matching": suite("matching").names("cuda", False),
        "mmd": suite("mmd").names("cuda", False),
    }
    measured = {"losses": losses.split(","), "matching": [matching], "mmd": [mmd]}
    return {name: ",".join(cell for cell in cells if cell not in measured[name]) for name, cells in known.items()}


def again(earlier: dict, commit: str | None = None, quick: bool = False) -> list[Stage]:
    """The headline cells, and the stages and tests that did not pass in an earlier call."""
    headlines = ("losses", "matching", "mmd", "training")
    passed = {row["name"] for row in earlier.get("stages", ()) if row["result"] == "passed"}
    failed = earlier.get("tests", {}).get("failed", ())
    if not all((environment.ROOT / name.split("::")[0]).exists() for name in failed):
        failed = ()  # the earlier checkout had its tests elsewhere: run all
    stages = plan(commit, quick, failed)
    return [stage for stage in stages if stage.name in headlines or stage.name not in passed]


def run(
    out: Path,
    *,
    minutes: float = MINUTES,
    commit: str | None = None,
    quick: bool = False,
    repeat: Path | None = None,
    only: list[str] | None = None,
) -> int:
    """Run the stages. repeat: the results.json of an earlier call. only: names of stages, in the order in which they
    run. Returns 0 if every stage passed, else 1, and summary.md says why."""
    stages = plan(commit, quick) if repeat is None else again(bundle.read(repeat), commit, quick)
    known = [stage.name for stage in plan()]
    for name in only or ():
        if name not in known:
            raise ValueError(f"stage {name!r}: expected one of {', '.join(known)}")
    if only:
        stages = sorted([stage for stage in stages if stage.name in only], key=lambda stage: only.index(stage.name))
    begin = time.perf_counter()
    shutil.rmtree(SCRATCH, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    made = bundle.Bundle(out, SCRATCH)
    for number in (signal.SIGINT, signal.SIGTERM):  # a background job of a shell, and its children, ignore SIGINT
        signal.signal(number, _interrupt)
    gpu = _has_gpu()
    try:
        for i, stage in enumerate(stages):
            left = 60 * minutes - (time.perf_counter() - begin)
            why = _why_not(stage, gpu) or (f"{minutes:g} minutes were spent" if left < LEAST else None)
            made.waiting = [s.name for s in stages[i + 1 :]]
            if why is not None:
                made.add(stage.name, f"not run: {why}", 0.0)
                continue
            seconds = min(stage.seconds, left)
            print(f"[{time.perf_counter() - begin:4.0f} s] {stage.name}, at most {seconds:.0f} s", flush=True)
            _run(stage, seconds, gpu, made)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    made.write()
    print(made.summary())
    return 0 if made.complete() and not made.waiting else 1


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


def _has_gpu() -> bool:
    return bool(environment.capture("nvidia-smi", "-L"))


def _why_not(stage: Stage, gpu: bool) -> str | None:
    if stage.needs_gpu and not gpu:
        return "no CUDA device"
    if stage.tool and not shutil.which(stage.tool):
        return f"{stage.tool} is not on the PATH"
    return None


def _run(stage: Stage, seconds: float, gpu: bool, made: bundle.Bundle) -> None:
    """Run the stage, and the one beside it, until both end or their time is over."""
    together = [stage] + ([stage.beside] if stage.beside and _why_not(stage.beside, gpu) is None else [])
    begin = time.perf_counter()
    with _started(together, made.out) as processes:
        waiting = dict(zip([s.name for s in together], processes))
        while waiting:
            timed_out = time.perf_counter() - begin > seconds
            for name, process in list(waiting.items()):
                if timed_out:
                    _stop(process)
                if process.poll() is None:
                    continue
                result = f"stopped after {seconds:.0f} s" if timed_out else _result(process.returncode)
                made.add(name, result, time.perf_counter() - begin)
                del waiting[name]
            made.refresh()
            time.sleep(0.25)


@contextmanager
def _started(stages: list[Stage], out: Path) -> Iterator[list[subprocess.Popen]]:
    """Start each stage in a separate session, so that a signal reaches all of its processes."""
    processes = []
    variables = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    options = dict(cwd=environment.ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        for stage in stages:
            added = dict(stage.variables) | {"PYTHONUNBUFFERED": "1", FAILURES: str(out / stage.log)}
            shown = [Path(word).name if os.path.isabs(word) else word for word in stage.command]
            with (out / stage.log).open("ab") as log:
                log.write(f"\n== {stage.name}: {' '.join(shown)}\n".encode())
                log.flush()
                processes.append(subprocess.Popen(stage.command, env=variables | added, stdout=log, **options))
        yield processes
    finally:
        for process in processes:
            _stop(process)


def _stop(process: subprocess.Popen) -> None:
    """Send SIGINT to the process group, so that Python can write its results; then SIGKILL to what is left of it."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def _result(code: int) -> str:
    return "passed" if code == 0 else f"failed ({code})"


def earlier() -> Path:
    """The results of the last call on this machine."""
    return SCRATCH / "results.json"
