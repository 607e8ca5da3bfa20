"""`python -m bench versions`: does fastgan run on the common versions of torch and triton?

Each pair gets a separate environment, which runs a selection of the CPU tests and compiles every launch of every kernel
ahead of time for sm_80, sm_90 and sm_100, with the promises checked on the machine code. No GPU is needed. The results
file is written again after each pair, so that a stopped run keeps the earlier pairs.
"""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from bench.harness import environment, report

RESULTS = environment.RESULTS / "versions.json"
TARGETS = ("sm_80", "sm_90", "sm_100")
DTYPES = ("float32", "bfloat16")  # of each launch


@dataclass(frozen=True)
class Pair:
    """The requirements for pip, and the version of Python."""

    name: str
    python: str
    requirements: tuple[str, ...]


PAIRS = (
    Pair("lowest", "3.10", ("torch==2.7.1", "triton==3.3.1")),
    Pair("image", "3.12", ("torch==2.11.0", "triton==3.6.0", "numpy==2.5.2")),
    Pair("newest", "3.12", ("torch",)),
)
TESTED_WITH = ("accelerate", "hypothesis", "lightning-fabric", "matplotlib", "pillow", "pytest", "pytest-benchmark")
TESTED_WITH += ("pytest-timeout", "pytest-xdist", "scikit-learn", "scipy", "setuptools>=77,<82", "tensorboard")
TESTED_WITH += ("torchmetrics", "tqdm", "wheel")
TESTS = (  # those that depend on torch or triton, a few minutes together
    *("accuracy", "autograd", "bad_input", "criteria", "gradients", "import", "launcher", "layouts", "lists"),
    *("matching", "matching_signs", "mmd", "mmd_machinery", "objective_arguments", "objectives", "operators"),
    *("penalties", "step", "step_precision", "step_work"),
)
VERSIONS = """
import json, platform, numpy, torch, triton
print(json.dumps({"torch": torch.__version__.split("+")[0], "triton": triton.__version__, "numpy": numpy.__version__,
                  "python": platform.python_version()}))
"""


class NotRun(Exception):
    """An environment could not be made or used."""


def make_environment(pair: Pair, folder: Path) -> Path:
    """Make an environment with this pair; returns its Python."""
    python = shutil.which(f"python{pair.python}") or sys.executable
    _call([python, "-m", "venv", str(folder)])
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "-q", "--no-cache-dir"]
    _call([*install, *pair.requirements, *TESTED_WITH])
    _call([*install, "--no-deps", "--no-build-isolation", "-e", "."])
    return python


def _call(command: Sequence[str], timeout: float = 3600, environ: dict | None = None) -> str:
    options = dict(cwd=environment.ROOT, env=environ, capture_output=True, text=True)
    try:
        done = subprocess.run(command, **options, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotRun(f"{Path(command[0]).name}: {error}") from error
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
        raise NotRun(f"{Path(command[0]).name} {' '.join(command[1:4])}: exit code {done.returncode}: {last}")
    return done.stdout


def measure(python: Path, tests: Sequence[str], targets: Sequence[str], jobs: int, minutes: float) -> dict:
    """One row of the results: the versions in this environment, the tests and the builds."""
    begin = time.perf_counter()
    clean = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "FASTGAN_BACKEND")}
    row = json.loads(_call([str(python), "-c", VERSIONS], environ=clean))
    row["tests"] = _tests(python, tests, jobs, minutes, clean)
    row["builds"] = _builds(python, targets, jobs, minutes, clean)
    return row | {"seconds": round(time.perf_counter() - begin)}


def _tests(python: Path, tests: Sequence[str], jobs: int, minutes: float, environ: dict) -> dict:
    files = [str(test_file(name).relative_to(environment.ROOT)) for name in tests]
    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "report.xml"
        command = [str(python), "-m", "pytest", "-p", "no:cacheprovider", "-n", str(jobs), "--dist", "worksteal"]
        try:
            options = dict(cwd=environment.ROOT, env=environ, capture_output=True, text=True)
            done = subprocess.run([*command, f"--junitxml={xml}", *files], **options, timeout=60 * minutes)
        except subprocess.TimeoutExpired:
            return {"files": list(tests), "error": f"stopped after {minutes:g} minutes"}
        if not xml.exists():
            return {"files": list(tests), "error": (done.stderr or done.stdout).strip().splitlines()[-1]}
        return {"files": list(tests)} | outcomes(xml.read_text(encoding="utf-8"))


def test_file(name: str) -> Path:
    """tests/ROOM/test_NAME.py, in any room; names of test files are unique."""
    found = sorted((environment.ROOT / "tests").glob(f"*/test_{name}.py"))
    if not found:
        raise ValueError(f"versions: test {name!r}: there is no tests/*/test_{name}.py")
    return found[0]


def outcomes(junit: str) -> dict:
    """{"passed": n, "skipped": {reason: n}, "failed": {test: why}} of a JUnit report."""
    passed, skipped, failed = 0, {}, {}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        wrong = [node for node in case if node.tag in ("failure", "error")]
        left_out = case.find("skipped")
        if wrong:
            lines = (wrong[0].get("message") or "").strip().splitlines() or [""]
            failed[f"{case.get('classname')}::{case.get('name')}"] = lines[0][:200]
        elif left_out is not None:
            reason = left_out.get("message") or ""
            skipped[reason] = skipped.get(reason, 0) + 1
        else:
            passed += 1
    return {"passed": passed, "skipped": skipped, "failed": failed}


def _builds(python: Path, targets: Sequence[str], jobs: int, minutes: float, environ: dict) -> dict:
    code = (
        "import sys; from bench.checks.versions import print_builds as f; f(sys.argv[1].split(','), int(sys.argv[2]))"
    )
    try:
        lines = _call([str(python), "-c", code, ",".join(targets), str(jobs)], 60 * minutes, environ).splitlines()
    except NotRun as error:
        return {"error": str(error)}
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    failed = {row["build"]: row["error"] for row in rows if "error" in row}
    broken = {row["build"]: row["broken"] for row in rows if row.get("broken")}
    return {"targets": list(targets), "made": len(rows) - len(failed), "failed": failed, "broken": broken}


def print_builds(targets: Sequence[str], jobs: int) -> None:
    """Print a line of JSON for each build, in the environment under test."""
    with concurrent.futures.ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(build, work(targets)):
            print(json.dumps(row), flush=True)


def work(targets: Sequence[str]) -> list[tuple]:
    """(call, dtype, target) of every build in `DTYPES`, or in all of a launch's dtypes if it has none of these."""
    from bench.checks import machine_code

    every = machine_code.builds(targets)
    return [build for build in every if build[1] in DTYPES or not {*DTYPES} & {*build[0].dtypes}]


def build(item: tuple) -> dict:
    """What is wrong with this build, if anything."""
    from bench.checks import machine_code

    call, dtype, target = item
    row = {"build": f"{call.kernel}, {call.name}, {dtype}, {target}"}
    try:
        return row | {"broken": machine_code.measure(*item)["broken"]}
    except Exception as error:  # any error of the compiler: the next build may pass
        return row | {"error": f"{type(error).__name__}: {error}"[-300:]}


def run(args) -> int:
    """Run the command, in new environments or in the given ones."""
    names = [pair.name for pair in PAIRS]
    if unknown := [name for name in args.only or () if name not in names]:
        raise ValueError(f"versions: pair {unknown[0]!r}: expected one of {', '.join(names)}")
    tests = args.tests or TESTS
    for name in tests:
        test_file(name)
    header = environment.describe("cpu")
    header = {key: header[key] for key in ("device", "system", "commit", "dirty", "date", "command")}
    rows = []
    if (args.only or args.python) and args.out.exists():  # the other pairs stay
        rows = json.loads(args.out.read_text(encoding="utf-8"))["rows"]
    jobs = args.jobs or os.cpu_count() or 1
    complete = True
    for pair_or_python in args.python or [pair for pair in PAIRS if not args.only or pair.name in args.only]:
        with tempfile.TemporaryDirectory(prefix="fastgan-versions-") as folder:
            try:
                is_pair = isinstance(pair_or_python, Pair)
                python = make_environment(pair_or_python, Path(folder)) if is_pair else pair_or_python
                row = measure(python, tests, TARGETS, jobs, args.minutes)
            except NotRun as error:
                print(f"python -m bench versions: {error}", file=sys.stderr)
                complete = False
                continue
        row |= {key: header[key] for key in ("commit", "dirty", "date")}
        rows = [other for other in rows if (other["torch"], other["triton"]) != (row["torch"], row["triton"])] + [row]
        rows.sort(key=lambda row: [int(part) for part in row["torch"].split(".")[:2]])
        environment.write_json(args.out, {"environment": header, "rows": rows})
        print(table([row]), flush=True)
        complete = complete and not wrong(row)
    return 0 if complete else 1


def wrong(row: dict) -> bool:
    """Whether anything failed: a test, a build, a promise."""
    tests, builds = row["tests"], row["builds"]
    return "error" in tests or "error" in builds or bool(tests["failed"] or builds["failed"] or builds["broken"])


def table(rows: Sequence[dict]) -> str:
    """The pages' table."""
    if not rows:
        return "Not measured yet."
    shown = []
    for row in rows:
        tests, builds = row["tests"], row["builds"]
        skipped = sum(tests.get("skipped", {}).values())
        ran = tests.get("error") or f"{tests['passed']} passed, {len(tests['failed'])} failed, {skipped} skipped"
        built, kept = builds.get("error"), ""
        if built is None:
            built = f"{builds['made']} of {builds['made'] + len(builds['failed'])}"
            kept = f"{builds['made'] - len(builds['broken'])} of {builds['made']}"
        shown.append((row["torch"], row["triton"], row["numpy"], row["python"], ran, built, kept))
    head = ["torch", "triton", "NumPy", "Python", "CPU tests", "kernels built", "as promised"]
    return "\n".join(report.table(head, shown))


def found_wrong(rows: Sequence[dict]) -> str:
    """What failed, a line each; "" if nothing did."""
    lines = []
    for row in rows:
        where, tests, builds = f"torch {row['torch']}, Triton {row['triton']}", row["tests"], row["builds"]
        parts = {"tests": tests, "builds": builds}
        lines += [f"* {where}: {name}: {part['error']}" for name, part in parts.items() if "error" in part]
        lines += [f"* {where}: `{name}` failed" for name in tests.get("failed", {})]
        lines += [f"* {where}: {name} was not built" for name in builds.get("failed", {})]
        lines += [f"* {where}: {name}: {', '.join(broken)}" for name, broken in builds.get("broken", {}).items()]
    return "\n".join(lines)
