"""The command line: `python -m bench {losses,lists,report,machine-code,checks,gpu}`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from pathlib import Path

EXAMPLES = """examples:
  python -m bench losses                         every contender, dtype and size on the device at hand
  python -m bench losses --quick --sizes 128     seconds instead of minutes; wider intervals
  python -m bench losses --dtypes float32 --sizes 2^18,2^22
  python -m bench lists                          losses of HiFi-GAN, SPADE, Real-ESRGAN, ..., at their own shapes
  python -m bench lists --only hifigan-d,vits-d --no-compile
  python -m bench report                         draw the table and picture again from the stored numbers
  python -m bench machine-code                   compile the kernels for GPUs that are not here, and check the result
  python -m bench gpu --out RESULTS              all there is to do on a GPU machine, in one command, in 9 minutes
  python -m pytest bench --benchmark-only --benchmark-enable      the same contenders under pytest-benchmark

Results: bench/results/<device>/losses.json, .md and .png, and lists.json, .md and .png."""

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


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number of seconds above 0")
    return value


def names(text: str) -> list[str]:
    known = configurations()
    for name in text.split(","):
        if name not in known:
            raise argparse.ArgumentTypeError(f"configuration {name!r}: expected one of {', '.join(known)}")
    return text.split(",")


def configurations() -> tuple[str, ...]:
    """Names of `bench.lists.CONFIGURATIONS`, without importing torch for `--help`; a test holds the two together."""
    audio = ("hifigan-d", "hifigan-d-5+3", "hifigan-g", "vits-d", "bigvgan-d", "dac-d", "encodec-d")
    images = ("pix2pixhd-d", "spade-d", "spade-d-sliced", "cyclegan-d", "vqgan-d", "real-esrgan-d", "esrgan-d")
    return (*audio, *images, "dcgan-d", "dcgan-d-logits", "stylegan2-d", "r3gan-d", "biggan-d")


def _wrapped(words: tuple[str, ...]) -> str:
    return textwrap.fill(", ".join(words), 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _measuring(add: argparse.ArgumentParser, quick: str, unit: str) -> None:
    """The options of a command that times."""
    add.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is one")
    add.add_argument("--quick", action="store_true", help=quick)
    add.add_argument("--budget", type=positive, metavar="S", help=f"most seconds of timing a {unit}")
    add.add_argument(
        "--limit",
        type=positive,
        metavar="S",
        help=f"start no further {unit.split()[0]} after so many seconds (540, GPU 400)",
    )
    add.add_argument("--threads", type=int, choices=range(1, 257), metavar="T", help="CPU threads; default torch's")
    add.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    add.add_argument("--commit", metavar="HASH", help="record this commit, where the checkout has no git history")
    add.add_argument("--out", type=Path, metavar="DIR", help="default bench/results/<device>, or <device>-quick")


def parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    top = Parser(prog="python -m bench", description=__doc__, epilog=EXAMPLES, formatter_class=formatter)
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    add = commands.add_parser("losses", help="time the loss and its gradients against eager and torch.compile")
    add.add_argument("--sizes", type=sizes, metavar="N,N", help="logits a side; default 1 to 2^24 (2^26 on a GPU)")
    add.add_argument("--dtypes", type=dtypes, metavar="D,D", help="default float32,bfloat16,float16,float64")
    _measuring(add, "few sizes and rounds: does it run, not how fast is it", "cell (dtype and size)")

    add = commands.add_parser(
        "lists",
        help="time the losses of public codebases, at their own shapes, against eager and torch.compile",
        description=LISTS,
        epilog=LISTS_EXAMPLES.format(names=_wrapped(configurations())),
        formatter_class=formatter,
    )
    add.add_argument("--only", type=names, metavar="NAME,NAME", help="these configurations, of those listed below")
    _measuring(add, "three configurations and few rounds: does it run, not how fast is it", "configuration")

    add = commands.add_parser("report", help="table, picture and promises from a losses.json or lists.json")
    add.add_argument("file", nargs="*", type=Path, help="default: every losses.json and lists.json in bench/results")

    add = commands.add_parser("machine-code", help="compile for sm_80, sm_90, sm_100 and gfx942, and check promises")
    add.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here as well")
    add.add_argument("--targets", metavar="T,T", help="of sm_80,sm_90,sm_100,gfx942; default all")
    add.add_argument("--jobs", type=int, choices=range(1, 65), metavar="J", help="processes; default one a core")

    commands.add_parser("checks", help="launch counts, no synchronisation, graph replay; needs a CUDA device")

    add = commands.add_parser("gpu", help="tests, benchmark, sanitizers and profile on a GPU machine, in one command")
    add.add_argument("--out", type=Path, metavar="DIR", help="also copy the results here, at most 8 files")
    add.add_argument("--quick", action="store_true", help="shorter stages")
    add.add_argument("--minutes", type=positive, default=8.7, metavar="M", help="of all stages together (default 8.7)")
    add.add_argument("--commit", metavar="HASH", help="record this commit, where the checkout has no git history")
    return top


def main(arguments: list[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0") and args.command != "report":
        return complain("TRITON_INTERPRET is set: unset it, the interpreter says nothing about speed or machine code")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages
    if args.command == "gpu":
        from bench import gpu

        return gpu.run(args.out, quick=args.quick, minutes=args.minutes, commit=args.commit)
    if args.command == "report":
        return report(args.file)
    try:
        import fastgan.kernels  # noqa: F401
    except ImportError as error:
        return complain(f"{error}: install with `python -m pip install --no-build-isolation --no-deps -e .`")
    if args.command == "machine-code":
        from bench import machine_code

        return machine_code.run(args.targets, args.json, args.jobs)
    if args.command == "checks":
        from bench import checks

        return checks.run()
    return measure(args)


def measure(args: argparse.Namespace) -> int:
    """`losses` and `lists`."""
    import torch

    from bench import environment, promises

    if args.threads:
        torch.set_num_threads(args.threads)
    device = args.device or environment.default_device()
    if device == "cuda" and not torch.cuda.is_available():
        return complain("--device cuda: torch sees no CUDA device here")
    folder = args.out or environment.folder(device, args.quick)
    options = dict(
        quick=args.quick,
        budget_s=args.budget,
        limit_s=args.limit,
        compiled=not args.no_compile,
        commit=args.commit,
        out=folder / f"{args.command}.json",
    )
    if args.command == "lists":
        from bench import lists as drawn

        results, judge = drawn.run(device, args.only, **options), promises.lists
    else:
        from bench import losses
        from bench import report as drawn

        results, judge = losses.run(device, args.sizes, args.dtypes or list(losses.DTYPES), **options), promises.losses
    drawn.write(results, folder)
    print(drawn.markdown(results))
    print(promises.table(judge(results)))
    return 0


def report(files: list[Path]) -> int:
    from bench import environment, lists
    from bench import report as bench_report

    files = files or sorted([*environment.RESULTS.glob("*/losses.json"), *environment.RESULTS.glob("*/lists.json")])
    if not files:
        return complain("no results yet: run `python -m bench losses` first")
    for file in files:
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
            drawn = lists if results.get("suite") == "lists" else bench_report
            written = drawn.write(results, file.parent)
        except (OSError, ValueError, KeyError) as error:
            return complain(f"{file}: no results file of this benchmark ({type(error).__name__}: {error})")
        print(f"{file.parent.name}: {', '.join(path.name for path in written)}")
    return 0


def complain(message: str) -> int:
    print(f"python -m bench: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
