"""`python -m bench gpu`: everything a GPU machine is needed for, in one command, in under nine minutes.

Stages run one after the other, each in a process of its own with a time limit; a stage that fails or is skipped is
reported and does not stop the others. Nothing is downloaded. On a machine without a GPU the stages that need one are
skipped, by name.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import environment, promises

MOST_BYTES = 16 * 2**20
PYTHON = sys.executable


@dataclass(frozen=True)
class Stage:
    """log: the file its output goes to; several stages may share one. needs: what must be there, None if it is."""

    name: str
    command: list[str]
    log: str
    seconds: float
    needs: Callable[[], str | None] = lambda: None
    variables: tuple[tuple[str, str], ...] = ()


def needs_cuda() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


def needs(tool: str) -> Callable[[], str | None]:
    return lambda: needs_cuda() or (None if shutil.which(tool) else f"{tool} is not on the PATH")


def not_installed() -> bool:
    code = "import fastgan.kernels"
    return subprocess.run([PYTHON, "-c", code], cwd=environment.ROOT, capture_output=True).returncode != 0


def _stages(folder: Path, quick: bool, cuda: bool, commit: str | None) -> list[Stage]:
    bench = [PYTHON, "-m", "bench"]
    losses = [*bench, "losses", "--out", str(folder), "--limit", "60" if quick else "220"]
    losses += ["--quick"] * quick + (["--commit", commit] if commit else [])
    lists = [*bench, "lists", "--out", str(folder), "--limit", "40" if quick else "100"]
    lists += ["--quick"] * quick + ["--budget", "0.5"] * (not quick) + (["--commit", commit] if commit else [])
    uncached = (("PYTORCH_NO_CUDA_MEMORY_CACHING", "1"),)  # else every tensor lies in one allocation to the checker
    sanitizer = ["compute-sanitizer", "--error-exitcode", "9", "--target-processes", "application-only", "--tool"]
    profiler = ["ncu", "--clock-control", "none", "--kernel-name", "regex:adversarial", "--launch-count", "6"]
    for section in ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats", "WarpStateStats"):
        profiler += ["--section", section]
    pytest = [PYTHON, "-m", "pytest", "tests", "-q", "-p", "no:cacheprovider", "-ra", "--durations=10"]
    if quick or not cuda:
        pytest += ["-x"]
    if importlib.util.find_spec("xdist"):
        pytest += ["-n", str(min(4, os.cpu_count() or 1))]
    return [
        Stage("losses", losses, "losses.log", 70 if quick else 270),
        Stage("tests", pytest, "pytest.log", 60 if quick else 170),
        Stage("checks", [*bench, "checks"], "checks.log", 50, needs_cuda),
        Stage("lists", lists, "lists.log", 50 if quick else 125),
        Stage(
            "memcheck",
            [*sanitizer, "memcheck", PYTHON, "-m", "bench.workload", "small"],
            "sanitizer.log",
            60,
            needs("compute-sanitizer"),
            uncached,
        ),
        Stage(
            "racecheck",
            [*sanitizer, "racecheck", PYTHON, "-m", "bench.workload", "small"],
            "sanitizer.log",
            60,
            needs("compute-sanitizer"),
            uncached,
        ),
        Stage("profile", [*profiler, PYTHON, "-m", "bench.workload", "large"], "ncu.log", 60, needs("ncu")),
        Stage("machine code", [*bench, "machine-code", "--json", str(folder / "machine_code.json")], "machine.log", 90),
    ]


def run(out: Path | None, *, quick: bool, minutes: float, commit: str | None) -> int:
    import torch

    begin, clock = time.perf_counter(), time.time()
    deadline = begin + 60 * minutes
    cuda = torch.cuda.is_available()
    folder = environment.folder("cuda" if cuda else "cpu", quick)
    folder.mkdir(parents=True, exist_ok=True)
    logs: dict[str, list[str]] = {}
    report = ["| stage | result | seconds |", "|---|---|---|"]
    failed = 0

    if not_installed():
        install = [PYTHON, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "-e", "."]
        stages = [Stage("install", install, "install.log", 60)]
    else:
        stages = []
    for stage in [*stages, *_stages(folder, quick, cuda, commit)]:
        why, taken = stage.needs(), 0.0
        remaining = deadline - time.perf_counter()
        if why is None and remaining < 10:
            why = f"the {minutes:g} minutes were spent"
        if why is not None:
            result = f"skipped: {why}"
        else:
            print(f"[{time.perf_counter() - begin:5.0f} s] {stage.name} ...", flush=True)
            started = time.perf_counter()
            result, text = _run(stage, min(stage.seconds, remaining))
            taken = time.perf_counter() - started
            failed += result != "passed"
            logs.setdefault(stage.log, []).append(f"== {stage.name}: {result}\n{text}")
        report.append(f"| {stage.name} | {result} | {taken:.0f} |")
        print(f"[{time.perf_counter() - begin:5.0f} s] {stage.name}: {result}", flush=True)

    summary = "\n".join([*report, "", _promises(folder, clock)])
    copies = {name: "\n".join(parts) for name, parts in logs.items()}
    if out is not None:
        _copy(out, folder, clock, summary, copies)
    for name, text in copies.items():  # the last lines of what went wrong
        if "== " in text and re.search(r"^== .*: (?!passed)", text, re.M):
            print(f"\n-- end of {name}\n" + "\n".join(text.splitlines()[-15:]))
    print("\n" + summary)
    return 1 if failed else 0


def _run(stage: Stage, seconds: float) -> tuple[str, str]:
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | dict(stage.variables)
    try:
        done = subprocess.run(
            stage.command,
            cwd=environment.ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired as error:
        text = error.stdout or b""
        return f"stopped after {seconds:.0f} s", text.decode(errors="replace") if isinstance(text, bytes) else text
    except OSError as error:
        return "could not start", str(error)
    last = done.stdout.strip().splitlines()[-1:] or [""]
    return ("passed" if done.returncode == 0 else f"failed ({done.returncode}): {last[0][:80]}"), done.stdout


def _made_since(file: Path, clock: float) -> bool:
    return file.exists() and file.stat().st_mtime >= clock


def _promises(folder: Path, clock: float) -> str:
    """The table of promises, from the numbers of this run only."""
    found = []
    for name in ("losses.json", "lists.json", "machine_code.json"):
        if not _made_since(folder / name, clock):
            found.append((f"everything that {name} shows", "the file was not written", promises.UNMEASURED))
            continue
        results = json.loads((folder / name).read_text(encoding="utf-8"))
        if name == "losses.json":
            found += promises.losses(results)
        elif name == "lists.json":
            found += promises.lists(results)
        else:
            kept, broken = len(results["rows"]) - results["broken"], results["broken"]
            what = "machine code: 128-bit accesses, no spills, at most 26 instructions a logit"
            found.append((what, f"{kept} of {len(results['rows'])} builds", "not met" if broken else "met"))
    return promises.table(found)


def _copy(out: Path, folder: Path, clock: float, summary: str, logs: dict[str, str]) -> None:
    """At most eight files, none over 16 MiB, no folders."""
    out.mkdir(parents=True, exist_ok=True)
    files = {"summary.md": summary + "\n", "pytest.log": logs.get("pytest.log", "the tests did not run\n")}
    rest = [text for name, text in logs.items() if name not in ("pytest.log", "ncu.log", "sanitizer.log")]
    files["stages.log"] = "\n".join(rest)
    files |= {name: logs[name] for name in ("ncu.log", "sanitizer.log") if name in logs}
    for name, text in files.items():
        (out / name).write_bytes(text.encode()[-MOST_BYTES:])
    for name in ("losses.json", "lists.json", "machine_code.json"):  # tables and pictures are drawn from them
        source = folder / name
        if (
            _made_since(source, clock)
            and source.stat().st_size <= MOST_BYTES
            and source.resolve() != (out / name).resolve()
        ):
            shutil.copyfile(source, out / name)
