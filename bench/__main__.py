"""The command line: `python -m bench`, and `python -m bench COMMAND`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bench import options
from bench.suites import SUITES

WITHOUT_KERNELS = ("report", "gpu", "versions")  # commands that run where fastgan.kernels cannot be imported
INTERPRETED = ("report", "gate", "versions")  # commands whose numbers do not depend on TRITON_INTERPRET


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    args = options.parser().parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0") and args.command not in INTERPRETED:
        return complain("TRITON_INTERPRET is set: unset it, the interpreter says nothing about speed or machine code")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    try:
        if args.command not in WITHOUT_KERNELS:
            import fastgan.kernels  # noqa: F401
    except ImportError as error:
        return complain(f"{error}: install with `python -m pip install -e .`")
    if getattr(args, "device", None) == "cuda":
        import torch

        if not torch.cuda.is_available():
            return complain("--device cuda: torch sees no CUDA device here")
    try:
        return run(args, arguments)
    except ValueError as error:
        return complain(str(error))


def run(args: argparse.Namespace, arguments: list[str]) -> int:
    if args.command == "gpu":
        from bench import gpu

        repeat = gpu.earlier() if args.again is True else args.again and Path(args.again)
        settings = dict(minutes=args.minutes, commit=args.commit, quick=args.quick)
        return gpu.run(args.out, **settings, repeat=repeat, only=args.stages)
    if args.command == "versions":
        from bench.checks import versions

        return versions.run(args)
    if args.command == "report":
        return agree(*args.agree) if args.agree else report(args.file, args.check)
    if args.command == "gate":
        from bench.checks import gate

        return gate.run(args.only, args.update, args.cases)
    if args.command == "machine-code":
        from bench.checks import machine_code

        return machine_code.run(args.targets, args.json, args.jobs)
    if args.command == "checks":
        from bench.checks import device

        return device.run(args.out, args.commit)
    if args.command == "tune":
        from bench import tune

        return tune.run(args.only, args.out, args.commit, args.quick)
    if args.command == "compare":
        from bench import compare

        return compare.run(args)
    return every_suite(args, arguments) if args.command is None else measure(args, arguments)


def measure(args: argparse.Namespace, arguments: list[str]) -> int:
    """One suite."""
    import torch

    from bench import suites
    from bench.harness import environment, processes, promises

    if args.threads:
        torch.set_num_threads(args.threads)
    suite = suites.suite(args.command)
    device = args.device or environment.default_device()
    cuda, only = device == "cuda", _selection(args, device)
    suite.selected_names(device, only, args.quick)
    folder = args.out or environment.folder(device, args.quick)
    out = folder / f"{args.command}.json"
    count = args.processes or (1 if args.quick else min(SUITES[args.command][1], 3 if cuda else 32))
    watch = environment.OtherPrograms()
    if count > 1:
        kept = processes.inherited(arguments[1:], ("--processes", "--limit", "--out", "--budget", "--quiet"))
        kept += ["--budget", f"{(args.budget or (1.5 if cuda else 2.5)) / count:.3g}"]
        try:
            results = processes.run(args.command, kept, count, args.limit or (400 if cuda else 540), out)
        except RuntimeError as error:
            complain(str(error))
            return 1
    else:
        settings = dict(quick=args.quick, budget_s=args.budget, limit_s=args.limit, compiled=not args.no_compile)
        results = suite.run(device, only, **settings, commit=args.commit, out=out)
    results["environment"]["others"] = watch.share()
    environment.write_json(out, results)
    if not args.quiet:
        suite.write(results, folder)
        print(suite.markdown(results))
        if promised := suite.promises(results):
            print(promises.table(promised))
    return 0


def _selection(args: argparse.Namespace, device: str) -> list[str] | None:
    """The names of the selected cells; None for all."""
    if args.command != "losses" or args.only is not None or args.sizes is args.dtypes is None:
        return args.only
    from bench.suites import losses

    names = args.dtypes or list(losses.DTYPES)
    if args.sizes is None:
        return [f"{dtype} {n}" for dtype, n in losses.cells(device, args.quick) if dtype in names]
    return [f"{dtype} {n}" for dtype in names for n in args.sizes]


def every_suite(args: argparse.Namespace, arguments: list[str]) -> int:
    """Run each suite in its own process, with its share of the remaining time; unused time goes to the next suites."""
    from bench.harness import environment, processes

    begin, failed, names = time.perf_counter(), [], [name for name, (share, *_) in SUITES.items() if share]
    folder = args.out or environment.folder(args.device or environment.default_device(), args.quick)
    kept = processes.inherited(arguments, ("--minutes", "--out"))
    drawing = 5 + 3 * len(names)  # seconds
    for i, name in enumerate(names):
        left = 60 * args.minutes - drawing - (time.perf_counter() - begin)
        limit = max(left, 1) * SUITES[name][0] / sum(SUITES[other][0] for other in names[i:])
        if limit < 5:
            failed.append(name)
            complain(f"{name}: not run, no time left: see --minutes")
            continue
        print(f"[{time.perf_counter() - begin:4.0f} s] {name} ({limit:.0f} s) ...", flush=True)
        command = [sys.executable, "-m", "bench", name, *kept, "--quiet"]
        command += ["--limit", f"{limit:.1f}", "--out", str(folder)]
        try:
            done = subprocess.run(command, cwd=environment.ROOT, timeout=1.5 * limit + 60)
            failed += [name] * (done.returncode != 0)
        except subprocess.TimeoutExpired:
            failed.append(name)
            complain(f"{name}: stopped after {1.5 * limit + 60:.0f} s")
    files = [folder / f"{name}.json" for name in names if (folder / f"{name}.json").exists()]
    status = report(files, False)
    if status == 0 and not args.quick and args.out is None:
        status = report([], False)  # README and docs as well
    print(f"[{time.perf_counter() - begin:4.0f} s] done" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else status


def report(files: list[Path], check: bool) -> int:
    """Write tables and pictures beside each file; without files, for all results, and the tables of README and docs."""
    from bench import readme, suites

    everything = not files
    files = files or readme.files()
    if not files:
        return complain("no results yet: run `python -m bench losses` first")
    for file in [] if check else files:
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
            if "suites" in results:  # written by `bench gpu --out` on another machine
                written, everything = readme.unpack(results), True
            else:
                written = suites.suite(suites.name_of(results)).write(results, file.parent)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return complain(f"{file}: not a results file of this benchmark ({type(error).__name__}: {error})")
        print(f"{file.parent.name}: {', '.join(path.name for path in written)}")
    if everything or check:
        stale = [line for page in readme.pages() for line in readme.rewrite(page, write=not check)]
        if check:
            print("\n".join(stale) or f"{' and '.join(readme.PAGES)} say what the results files say")
            return 1 if stale else 0
    return 0


def agree(first: Path, second: Path) -> int:
    from bench.harness import processes, statistics

    try:
        found = [json.loads(file.read_text(encoding="utf-8")) for file in (first, second)]
        apart, compared, same = processes.agree(*found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return complain(f"--agree: expected two results files of one suite ({type(error).__name__}: {error})")
    if not compared:
        return complain("--agree: the two files have no row in common")
    for line in apart:
        print(f"outside: {line}")
    inside = f"{compared - len(apart)} of {compared} rows within their intervals"
    by_chance = f"up to {statistics.most_by_chance(compared)} may be outside by chance"
    print(f"The two runs {'agree' if same else 'do not agree'}: {inside}; {by_chance}.")
    return 0 if same else 1


def complain(message: str) -> int:
    print(f"python -m bench: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
