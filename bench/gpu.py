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

from bench import environment, promises, suites

MOST_BYTES = 16 * 2**20
PYTHON = sys.executable
SUITES = (("matching", 35), ("training", 60), ("mmd", 25), ("lists", 35), ("batches", 20), ("timeline", 12))  # seconds


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
    common = [
        "--out",
        str(folder),
        "--quiet",
        "--processes",
        "1",
        *["--quick"] * quick,
        *(["--commit", commit] if commit else []),
    ]

    def suite(name: str, seconds: float) -> Stage:
        """Stops by itself, so that what it has measured is kept; is stopped where it does not."""
        seconds = min(seconds, 50) if quick else seconds
        return Stage(
            name, [*bench, name, *common, "--limit", f"{0.8 * seconds:.0f}"], f"{name}.log", 1.3 * seconds + 10
        )

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
        suite("losses", 140),
        Stage("tests", pytest, "pytest.log", 60 if quick else 120),
        Stage("checks", [*bench, "checks"], "checks.log", 25, needs_cuda),
        *(suite(name, seconds) for name, seconds in SUITES if name in suites.there()),
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
    for name in [*suites.there(), "machine_code"]:
        if not _made_since(folder / f"{name}.json", clock):
            found.append((f"everything that {name}.json shows", "the file was not written", promises.UNMEASURED))
            continue
        results = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        if name == "machine_code":
            kept, broken = len(results["rows"]) - results["broken"], results["broken"]
            what = "machine code: 128-bit accesses, no spills, at most 26 instructions a logit"
            found.append((what, f"{kept} of {len(results['rows'])} builds", "not met" if broken else "met"))
            continue
        try:
            found += suites.module(name).promises(results)
        except Exception as error:  # a suite that was stopped halfway
            found.append(
                (f"everything that {name}.json shows", f"{type(error).__name__}: {error}", promises.UNMEASURED)
            )
    return promises.table(found)


def _copy(out: Path, folder: Path, clock: float, summary: str, logs: dict[str, str]) -> None:
    """At most eight files, none over 16 MiB, no folders. results.json is all suites together: `python -m bench report
    results.json` on another machine puts them in their places and draws tables and pictures."""
    out.mkdir(parents=True, exist_ok=True)
    files = {"summary.md": summary + "\n", "pytest.log": logs.get("pytest.log", "the tests did not run\n")}
    rest = [text for name, text in logs.items() if name not in ("pytest.log", "ncu.log", "sanitizer.log")]
    files["stages.log"] = "\n".join(rest)
    files |= {name: logs[name] for name in ("ncu.log", "sanitizer.log") if name in logs}
    for name, text in files.items():
        (out / name).write_bytes(text.encode()[-MOST_BYTES:])
    made = [folder / f"{name}.json" for name in [*suites.there(), "machine_code"]]
    made = [file for file in made if _made_since(file, clock)]
    bundle = {"folder": folder.name, "suites": {f.stem: json.loads(f.read_text(encoding="utf-8")) for f in made}}
    environment.write_json(out / "results.json", bundle)
