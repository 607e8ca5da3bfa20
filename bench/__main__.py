"""The command line: `python -m bench`, and `python -m bench COMMAND`."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from bench.harness.environment import RESULTS
from bench.suites import SUITES

TOP = """Measures what fastgan does against eager PyTorch and torch.compile. Without a command: every suite that fits
this machine, within --minutes, then tables, pictures and the tables in README.md."""

EXAMPLES = """examples:
  python -m bench                                every suite, in at most 10 minutes
  python -m bench --quick                        do they run? shorter, with wider intervals; README.md stays as it is
  python -m bench losses                         every contender, dtype and size on the device at hand
  python -m bench losses --dtypes float32 --sizes 2^18,2^22
  python -m bench lists --only hifigan-d,vits-d --no-compile
  python -m bench compare HEAD~3                 this checkout against another commit, in one run, interleaved
  python -m bench gate                           launches, bytes, operators, instructions: as the baseline has them?
  python -m bench gate --update                  they are meant to be otherwise: write the baseline again
  python -m bench report                         tables and pictures again, from the stored numbers
  python -m bench report --agree A.json B.json   do two runs agree within their intervals?
  python -m bench machine-code                   compile the kernels for GPUs that are not here, and check the result
  python -m bench versions                       tests and builds on the lowest, the image's and the newest torch
  python -m bench gpu --out RESULTS              all there is to do on a GPU machine, in one command, in 8.3 minutes
  python -m pytest bench --benchmark-only --benchmark-enable      the same contenders under pytest-benchmark

Results: bench/results/<device>/<suite>.json, with tables (.md) and pictures (.png) drawn from it.
Exit codes: 0 well; 1 a suite failed, the gate found a difference, two runs disagree; 2 bad arguments."""

LISTS = """Adversarial losses as public codebases have them: lists of discriminators, their shapes, their dtype, their
reductions. Each is timed four ways, forward and backward, into the logits: the codebase's own formula in eager PyTorch,
torch.compile of it, the drop-in of fastgan.compat, and fastgan's value_and_grad. A result that differs from float64 is
an error in the table, and gets no time."""

LISTS_EXAMPLES = """examples:
  python -m bench lists                          every configuration on the device at hand, in about 9 minutes
  python -m bench lists --quick                  three of them, in seconds; wider intervals
  python -m bench lists --only hifigan-d         one of them
  python -m bench lists --no-compile             the compiler takes most of the time
  python -m bench lists --threads 1              what one CPU thread does

configurations, each the loss of D, or of G where the name ends in -g:
{names}

Results: bench/results/<device>/lists.json, .md and .png. The times of a busy machine are not worth keeping: lists.md
says so where others kept the cores busy."""

GPU = """Everything that only a GPU can show, the most valuable first: launches, waits and reruns; the headline cells of
every suite; block sizes; the tests marked gpu; a profile; torch.compile beside the headline cells; then the other
cells. Each stage has a budget, and its numbers are in DIR as soon as they are measured. Nothing is downloaded."""

GPU_EXAMPLES = """examples:
  python -m bench gpu --out DIR                        on the GPU machine, in 8.3 minutes
  python -m bench gpu --out DIR --again --minutes 4    there, once more: the headline cells, and what failed
  python -m bench gpu --out DIR --stages checks,losses
  python -m bench report DIR/results.json              anywhere: tables, pictures and README.md from what came back

Exit codes: 0 every stage passed; 1 something failed or is missing, summary.md says what; 2 bad arguments."""

COMPARE = """Times this checkout, with its uncommitted changes, against another commit: two processes, one a side, take
turns in random order, round by round, in several pairs of processes. A row is a ratio, above 1 where this checkout is
the faster, with Student's interval over the pairs, widened so that all rows together hold at 95 %. Rows of eager
PyTorch, the same code on both sides, show what the machine does by itself. A wrong result is named and not timed."""


class Parser(argparse.ArgumentParser):
    """Bad arguments: one line, exit code 2."""

    def error(self, message: str):
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def size(text: str) -> int:
    base, _, power = text.partition("^")
    try:
        n = int(base) ** int(power) if power else int(text)
    except ValueError:
        n = 0
    if not 1 <= n <= 2**28:
        raise argparse.ArgumentTypeError(f"size {text!r}: expected logits a side from 1 to 2^28, as 128 or 2^18")
    return n


def sizes(text: str) -> list[int]:
    return [size(part) for part in text.split(",")]


def dtypes(text: str) -> list[str]:
    known = ("float32", "bfloat16", "float16", "float64")
    for name in text.split(","):
        if name not in known:
            raise argparse.ArgumentTypeError(f"dtype {name!r}: expected one of {', '.join(known)}")
    return text.split(",")


def cells(text: str) -> list[str]:
    """float32:2^26,bfloat16:128 -> as `bench.suites.losses.run` takes them."""
    pairs = [part.partition(":")[::2] for part in text.split(",")]
    return [f"{dtypes(dtype)[0]} {size(n)}" for dtype, n in pairs]


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return value


def words(text: str) -> list[str]:
    return text.split(",")


def names(text: str) -> list[str]:
    known = configurations()
    for name in text.split(","):
        if name not in known:
            raise argparse.ArgumentTypeError(f"configuration {name!r}: expected one of {', '.join(known)}")
    return text.split(",")


def configurations() -> tuple[str, ...]:
    """Names of `lists.CONFIGURATIONS`, without importing torch for `--help`; a test compares the two."""
    audio = ("hifigan-d", "hifigan-d-5+3", "hifigan-g", "vits-d", "bigvgan-d", "dac-d", "encodec-d")
    images = ("pix2pixhd-d", "spade-d", "spade-d-sliced", "cyclegan-d", "vqgan-d", "real-esrgan-d", "esrgan-d")
    return (*audio, *images, "dcgan-d", "dcgan-d-logits", "stylegan2-d", "r3gan-d", "biggan-d")


def _wrapped(words: tuple[str, ...]) -> str:
    return textwrap.fill(", ".join(words), 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _common(add: argparse.ArgumentParser, quick: str) -> None:
    add.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    add.add_argument("--quick", action="store_true", help=quick)
    add.add_argument("--threads", type=int, choices=range(1, 257), metavar="T", help="CPU threads; default torch's")
    add.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    add.add_argument("--commit", metavar="HASH", help="record this commit, where the checkout has no git history")
    add.add_argument("--out", type=Path, metavar="DIR", help="default bench/results/<device>, or <device>-quick")


def _measuring(add: argparse.ArgumentParser, quick: str, unit: str) -> None:
    """The options of a command that times."""
    _common(add, quick)
    add.add_argument("--budget", type=positive, metavar="S", help=f"most seconds of timing a {unit}, in all processes")
    add.add_argument(
        "--limit",
        type=positive,
        metavar="S",
        help=f"start no further {unit.split()[0]} after so many seconds (540, GPU 400)",
    )
    add.add_argument(
        "--processes",
        type=int,
        choices=range(1, 33),
        metavar="P",
        help="repeat all in so many processes: what differs between runs is then in the intervals",
    )
    add.add_argument("--quiet", action="store_true", help="print no table")


def _document(add: argparse.ArgumentParser) -> None:
    add.add_argument("--out", type=Path, metavar="DIR", help="write the numbers here as well")
    add.add_argument("--commit", metavar="HASH", help="record this commit, where the checkout has no git history")


def parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    top = Parser(prog="python -m bench", description=TOP, epilog=EXAMPLES, formatter_class=formatter)
    _common(top, "shorter; does it run, not how fast is it")
    top.add_argument("--minutes", type=positive, default=9.5, metavar="M", help="of all suites together (default 9.5)")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    for name, (_, _, what) in SUITES.items():
        if name == "lists":
            add = commands.add_parser(
                name,
                help=what,
                description=LISTS,
                epilog=LISTS_EXAMPLES.format(names=_wrapped(configurations())),
                formatter_class=formatter,
            )
        else:
            add = commands.add_parser(name, help=what)
        if name == "losses":
            add.add_argument("--sizes", type=sizes, metavar="N,N", help="logits a side; by default 1 to 2^24, GPU 2^28")
            add.add_argument("--dtypes", type=dtypes, metavar="D,D", help="default float32,bfloat16,float16,float64")
            add.add_argument("--only", type=cells, metavar="D:N,D:N", help="these cells: float32:2^26,bfloat16:128")
            _measuring(add, "few sizes and rounds: does it run, not how fast is it", "cell (dtype and size)")
        else:
            known = names if name == "lists" else words
            add.add_argument("--only", type=known, metavar="NAME,NAME", help="these alone; an unknown name lists them")
            _measuring(add, "few of them and few rounds: does it run, not how fast is it", "configuration")

    add = commands.add_parser("compare", help="time this checkout against another commit", description=COMPARE)
    add.add_argument("revision", metavar="REV", help="a commit, branch or tag")
    add.add_argument("--only", type=words, metavar="NAME,NAME", help="rows whose name has one of these in it")
    add.add_argument("--pairs", type=int, choices=range(2, 33), default=5, metavar="P", help="of processes (default 5)")
    add.add_argument("--seconds", type=positive, default=1.0, metavar="S", help="of timing a row and pair (default 1)")
    add.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    add.add_argument("--threads", type=int, choices=range(1, 257), metavar="T", help="CPU threads; default torch's")
    add.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here as well")

    add = commands.add_parser("report", help="tables, pictures and README's tables from the stored numbers")
    add.add_argument("file", nargs="*", type=Path, help="default: every results file in bench/results, and README.md")
    add.add_argument("--agree", nargs=2, type=Path, metavar=("A", "B"), help="do two runs of one suite agree?")
    add.add_argument("--check", action="store_true", help="write nothing; exit code 1 where README.md says otherwise")

    add = commands.add_parser("gate", help="compare the counts that do not vary with the committed baseline")
    add.add_argument("--update", action="store_true", help="write the whole baseline again")
    add.add_argument("--only", type=words, metavar="S,S", help="of launches, operators, instructions; default all")
    add.add_argument("--cases", type=words, metavar="W,W", help="only cases with one of these words in their name")

    add = commands.add_parser("machine-code", help="compile for sm_80, sm_90, sm_100 and gfx942, and check promises")
    add.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here as well")
    add.add_argument("--targets", metavar="T,T", help="of sm_80,sm_90,sm_100,gfx942; default all")
    add.add_argument("--jobs", type=int, choices=range(1, 65), metavar="J", help="processes; default one a core")

    add = commands.add_parser("versions", help="tests and ahead-of-time builds on several pairs of torch and triton")
    add.add_argument("--python", nargs="+", type=Path, metavar="PATH", help="of existing environments; makes none")
    add.add_argument("--only", type=words, metavar="NAME,NAME", help="of lowest,image,newest; default all")
    add.add_argument("--tests", type=words, metavar="NAME,NAME", help="of tests/test_NAME.py; default a selection")
    add.add_argument("--jobs", type=int, choices=range(1, 65), metavar="J", help="processes; default one a core")
    add.add_argument("--minutes", type=positive, default=40.0, metavar="M", help="tests or builds of a pair, at most")
    add.add_argument("--out", type=Path, default=RESULTS / "versions.json", metavar="FILE")

    add = commands.add_parser("checks", help="launch counts, no synchronisation, graph replay; needs a CUDA device")
    _document(add)

    add = commands.add_parser("tune", help="block sizes and programs of the kernels, timed; needs a CUDA device")
    add.add_argument("--only", type=words, metavar="NAME,NAME", help="these problems alone; an unknown name lists them")
    add.add_argument("--quick", action="store_true", help="small problems")
    _document(add)

    add = commands.add_parser(
        "gpu",
        help="checks, suites, tests and profile on a GPU machine, in one command",
        description=GPU,
        epilog=GPU_EXAMPLES,
        formatter_class=formatter,
    )
    add.add_argument("--out", type=Path, required=True, metavar="DIR", help="at most 7 files go here, as they are made")
    add.add_argument("--minutes", type=positive, default=8.3, metavar="M", help="of all stages together (default 8.3)")
    add.add_argument(
        "--stages", type=words, metavar="NAME,NAME", help="these alone, in this order; an unknown name lists them"
    )
    add.add_argument(
        "--again",
        nargs="?",
        const=True,
        metavar="FILE",
        help="the headline cells again, and what did not pass in that results.json (default: the last run's here)",
    )
    add.add_argument("--quick", action="store_true", help="small cells: does it run, not how fast is it")
    add.add_argument("--commit", metavar="HASH", help="record this commit, where the checkout has no git history")
    return top


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parser().parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0") and args.command not in ("report", "gate", "versions"):
        return complain("TRITON_INTERPRET is set: unset it, the interpreter says nothing about speed or machine code")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    if args.command == "gpu":
        from bench import gpu

        repeat = gpu.earlier() if args.again is True else args.again and Path(args.again)
        try:
            return gpu.run(
                args.out, minutes=args.minutes, commit=args.commit, quick=args.quick, repeat=repeat, only=args.stages
            )
        except ValueError as error:
            return complain(str(error))
    if args.command == "versions":
        from bench.checks import versions

        return versions.run(args)
    if args.command == "report":
        return agree(*args.agree) if args.agree else report(args.file, args.check)
    try:
        import fastgan.kernels  # noqa: F401
    except ImportError as error:
        return complain(f"{error}: install with `python -m pip install -e .`")
    if args.command == "gate":
        from bench.checks import gate

        return gate.run(args.only, args.update, args.cases)
    if args.command == "machine-code":
        from bench.checks import machine_code

        return machine_code.run(args.targets, args.json, args.jobs)
    if args.command == "checks":
        from bench.checks import device as checks

        return checks.run(args.out, args.commit)
    if args.command == "tune":
        from bench import tune

        try:
            return tune.run(args.only, args.out, args.commit, args.quick)
        except ValueError as error:
            return complain(str(error))
    if getattr(args, "device", None) == "cuda":
        import torch

        if not torch.cuda.is_available():
            return complain("--device cuda: torch sees no CUDA device here")
    if args.command == "compare":
        from bench import compare

        return compare.run(args)
    return every_suite(args, arguments) if args.command is None else measure(args, arguments)


def measure(args: argparse.Namespace, arguments: list[str]) -> int:
    """One suite."""
    import torch

    from bench import suites
    from bench.harness import environment, promises
    from bench.harness import processes as passes

    if args.threads:
        torch.set_num_threads(args.threads)
    if args.command not in suites.there():
        return complain(f"{args.command}: bench/{args.command}.py is not there")
    suite = suites.module(args.command)
    device = args.device or environment.default_device()
    folder = args.out or environment.folder(device, args.quick)
    out = folder / f"{args.command}.json"
    processes = args.processes or (1 if args.quick else min(SUITES[args.command][1], 3 if device == "cuda" else 32))
    watch = environment.Others()
    try:
        if processes > 1:
            kept = passes.inherited(arguments[1:], ("--processes", "--limit", "--out", "--budget", "--quiet"))
            budget = args.budget or (1.5 if device == "cuda" else 2.5)
            kept += ["--budget", f"{budget / processes:.3g}"]
            limit = args.limit or (400 if device == "cuda" else 540)
            results = passes.run(args.command, kept, processes, limit, out)
        else:
            results = suite.run(
                device,
                _only(args, device),
                quick=args.quick,
                budget_s=args.budget,
                limit_s=args.limit,
                compiled=not args.no_compile,
                commit=args.commit,
                out=out,
            )
    except (ValueError, RuntimeError) as error:
        return complain(str(error)) if isinstance(error, ValueError) else fail(str(error))
    results["environment"]["others"] = watch.share()
    environment.write_json(out, results)
    if not args.quiet:
        suite.write(results, folder)
        print(suite.markdown(results))
        if promised := suite.promises(results):
            print(promises.table(promised))
    return 0


def _only(args: argparse.Namespace, device: str) -> list[str] | None:
    if args.command != "losses" or args.only is not None:
        return args.only
    if args.sizes is None and args.dtypes is None:
        return None
    from bench.suites import losses

    found = losses.cells(device, args.quick)
    dtype_names = args.dtypes or list(losses.DTYPES)
    if args.sizes is None:
        return [f"{dtype} {n}" for dtype, n in found if dtype in dtype_names]
    return [f"{dtype} {n}" for dtype in dtype_names for n in args.sizes]


def every_suite(args: argparse.Namespace, arguments: list[str]) -> int:
    """Each in its own process with its share of the time left; what one leaves over, the next ones have."""
    from bench import suites
    from bench.harness import environment
    from bench.harness import processes as passes

    begin, failed = time.perf_counter(), []
    names_ = suites.there()
    folder = args.out or environment.folder(args.device or environment.default_device(), args.quick)
    kept = passes.inherited(arguments, ("--minutes", "--out"))
    drawing = 5 + 3 * len(names_)  # seconds
    for i, name in enumerate(names_):
        left = 60 * args.minutes - drawing - (time.perf_counter() - begin)
        limit = max(left, 1) * SUITES[name][0] / sum(SUITES[other][0] for other in names_[i:])
        if limit < 5:
            failed.append(name)
            print(f"python -m bench: {name}: not run, the time was spent: see --minutes", file=sys.stderr)
            continue
        print(f"[{time.perf_counter() - begin:4.0f} s] {name} ({limit:.0f} s) ...", flush=True)
        command = [
            sys.executable,
            "-m",
            "bench",
            name,
            *kept,
            "--quiet",
            "--limit",
            f"{limit:.1f}",
            "--out",
            str(folder),
        ]
        try:
            done = subprocess.run(command, cwd=environment.ROOT, timeout=1.5 * limit + 60)
            failed += [name] * (done.returncode != 0)
        except subprocess.TimeoutExpired:
            failed.append(name)
            print(f"python -m bench: {name}: stopped after {1.5 * limit + 60:.0f} s", file=sys.stderr)
    files = [folder / f"{name}.json" for name in names_ if (folder / f"{name}.json").exists()]
    status = report(files, False)
    if status == 0 and not args.quick and args.out is None:
        status = report([], False)  # README.md as well
    print(f"[{time.perf_counter() - begin:4.0f} s] done" + (f"; failed: {', '.join(failed)}" if failed else ""))
    return 1 if failed else status


def report(files: list[Path], check: bool) -> int:
    """Tables and pictures beside each file; without files, of all there are, and README's tables."""
    from bench import readme, suites
    from bench.harness import environment

    everything = not files
    files = files or readme.files()
    if not files:
        return complain("no results yet: run `python -m bench losses` first")
    for file in [] if check else files:
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
            if "suites" in results:  # what `bench gpu --out` brings from another machine
                written, everything = readme.unpack(results), True
            else:
                written = suites.module(suites.name_of(results)).write(results, file.parent)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return complain(f"{file}: no results file of this benchmark ({type(error).__name__}: {error})")
        print(f"{file.parent.name}: {', '.join(path.name for path in written)}")
    if everything or check:
        stale = readme.rewrite(environment.ROOT / "README.md", write=not check)
        if check:
            print("\n".join(stale) or "README.md says what the results files say")
            return 1 if stale else 0
    return 0


def agree(first: Path, second: Path) -> int:
    from bench.harness import processes as passes

    try:
        found = [json.loads(file.read_text(encoding="utf-8")) for file in (first, second)]
        apart, compared, same = passes.agree(*found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return complain(f"--agree: no two results files of one suite ({type(error).__name__}: {error})")
    if not compared:
        return complain("--agree: the two files have no row in common")
    for line in apart:
        print(f"outside: {line}")
    inside = f"{compared - len(apart)} of {compared} rows within their intervals"
    by_chance = f"up to {passes.most_by_chance(compared)} may be outside by chance"
    print(f"The two runs {'agree' if same else 'do not agree'}: {inside}; {by_chance}.")
    return 0 if same else 1


def complain(message: str) -> int:
    print(f"python -m bench: {message}", file=sys.stderr)
    return 2


def fail(message: str) -> int:
    complain(message)
    return 1


if __name__ == "__main__":
    sys.exit(main())
