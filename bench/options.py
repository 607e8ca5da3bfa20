"""The options of `python -m bench` and of its commands. Nothing here imports torch: `--help` is instant."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path

from bench.harness.environment import RESULTS
from bench.suites import SUITES

TOP = """Measures fastgan against eager PyTorch and torch.compile. Without a command, it runs the suites that fit this
machine, within --minutes, and then writes tables, pictures and the tables in README.md and docs/. `convergence` takes
longer and runs only by its name."""

EXAMPLES = """examples:
  python -m bench                                every suite, in at most 10 minutes
  python -m bench --quick                        do they run? shorter, with wider intervals; changes no page
  python -m bench losses                         every contender, dtype and size on the device at hand
  python -m bench losses --dtypes float32 --sizes 2^18,2^22
  python -m bench lists --only hifigan-d,vits-d --no-compile
  python -m bench convergence                    does training reach the same scores? five seeds, at most 25 minutes
  python -m bench compare HEAD~3                 this checkout against another commit, in one run, interleaved
  python -m bench gate                           do launches, bytes, operators, instructions match the baseline?
  python -m bench gate --update                  accept the new counts: write the baseline again
  python -m bench report                         draw tables and pictures again, from the stored numbers
  python -m bench report --agree A.json B.json   do two runs agree within their intervals?
  python -m bench machine-code                   compile the kernels for other GPUs, and check the machine code
  python -m bench versions                       tests and builds on the lowest, the image's and the newest torch
  python -m bench gpu --out RESULTS              everything for a GPU machine, in one command, in 8.3 minutes
  python -m pytest bench --benchmark-only --benchmark-enable      the same contenders under pytest-benchmark

Results: bench/results/<device>/<suite>.json, with tables (.md) and pictures (.png) drawn from it.
Exit codes: 0 success; 1 a suite failed, the gate found a difference, two runs disagree; 2 bad arguments."""

LISTS = """Adversarial losses of public codebases, with their lists of discriminators, shapes, dtypes and reductions.
Each is timed four ways, forward and backward, into the logits: the codebase's own formula in eager PyTorch,
torch.compile of it, the drop-in of fastgan.compat, and fastgan's value_and_grad. Results that differ from float64 are
errors in the table, and are not timed."""

LISTS_EXAMPLES = """examples:
  python -m bench lists                          every configuration on the device at hand, in about 9 minutes
  python -m bench lists --quick                  three of them, in seconds; wider intervals
  python -m bench lists --only hifigan-d         one of them
  python -m bench lists --no-compile             the compiler takes most of the time
  python -m bench lists --threads 1              with one CPU thread

configurations, each the loss of D, or of G if the name ends in -g:
{names}

Results: bench/results/<device>/lists.json, .md and .png. Do not keep times of a busy machine: lists.md warns if other
programs kept the cores busy."""

GPU = """Everything that only a GPU can show, the most valuable first: launches, waits and reruns; the headline cells of
every suite; block sizes; the tests marked gpu; a profile; the headline cells with torch.compile; then the other cells.
Each stage has a budget, and its numbers are in DIR as soon as they are measured. Nothing is downloaded."""

GPU_EXAMPLES = """examples:
  python -m bench gpu --out DIR                        on the GPU machine, in 8.3 minutes
  python -m bench gpu --out DIR --again --minutes 4    on the GPU machine, again: the headline cells, and what failed
  python -m bench gpu --out DIR --stages checks,losses
  python -m bench report DIR/results.json              on any machine: tables, pictures and pages from the results

Exit codes: 0 every stage passed; 1 something failed or is missing, summary.md says what; 2 bad arguments."""

COMPARE = """Times this checkout, with its uncommitted changes, against another commit: two processes, one a side, run
interleaved, in random order within a round, in several pairs. A row is a ratio, above 1 if this checkout is faster,
with Student's interval over the pairs, widened so that all rows together hold at 95 %. Rows of eager PyTorch, the same
code on both sides, show the machine's own variation. Wrong results are reported and not timed."""


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
    """float32:2^26,bfloat16:128 -> names of cells of `losses`."""
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


def configurations() -> tuple[str, ...]:
    """Names of `bench.codebases.configurations`, without importing torch; a test compares the two."""
    audio = ("hifigan-d", "hifigan-d-5+3", "hifigan-g", "vits-d", "bigvgan-d", "dac-d", "encodec-d")
    images = ("pix2pixhd-d", "spade-d", "spade-d-sliced", "cyclegan-d", "vqgan-d", "real-esrgan-d", "esrgan-d")
    return (*audio, *images, "dcgan-d", "dcgan-d-logits", "stylegan2-d", "r3gan-d", "biggan-d")


def _wrapped(words: tuple[str, ...]) -> str:
    return textwrap.fill(", ".join(words), 110, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _device(option) -> None:
    option("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    option("--threads", type=int, choices=range(1, 257), metavar="T", help="CPU threads; default torch's")


def _commit(option) -> None:
    option("--commit", metavar="HASH", help="record this commit, if the checkout has no git history")


def _common(option, quick: str) -> None:
    _device(option)
    _commit(option)
    option("--quick", action="store_true", help=quick)
    option("--no-compile", action="store_true", help="leave torch.compile out")
    option("--out", type=Path, metavar="DIR", help="default bench/results/<device>, or <device>-quick")


def _suite(option, name: str) -> None:
    """The options of a suite's command."""
    cell = "cell" if name == "losses" else "configuration"
    if name == "losses":
        option("--sizes", type=sizes, metavar="N,N", help="logits a side; by default 1 to 2^24, GPU 2^28")
        option("--dtypes", type=dtypes, metavar="D,D", help="default float32,bfloat16,float16,float64")
        option("--only", type=cells, metavar="D:N,D:N", help="these cells: float32:2^26,bfloat16:128")
    else:
        option("--only", type=words, metavar="NAME,NAME", help="these alone; an unknown name lists them")
    _common(option, "few cells and few rounds: does it run, not how fast is it")
    option("--budget", type=positive, metavar="S", help=f"most seconds of timing a {cell}, in all processes")
    limit = "1500" if name == "convergence" else "540, GPU 400"
    option("--limit", type=positive, metavar="S", help=f"start no further {cell} after this many seconds ({limit})")
    processes = "repeat all in this many processes, so that intervals include the variation between runs"
    option("--processes", type=int, choices=range(1, 33), metavar="P", help=processes)
    option("--quiet", action="store_true", help="print no table")


def parser() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    top = Parser(prog="python -m bench", description=TOP, epilog=EXAMPLES, formatter_class=formatter)
    _common(top.add_argument, "shorter; does it run, not how fast is it")
    top.add_argument("--minutes", type=positive, default=9.5, metavar="M", help="for all suites together (default 9.5)")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def command(name: str, what: str, description: str | None = None, epilog: str | None = None):
        text = dict(description=description, epilog=epilog)
        return commands.add_parser(name, help=what, formatter_class=formatter, **text).add_argument

    for name, (_, _, what) in SUITES.items():
        lists = (LISTS, LISTS_EXAMPLES.format(names=_wrapped(configurations()))) if name == "lists" else ()
        _suite(command(name, what, *lists), name)

    option = command("compare", "time this checkout against another commit", COMPARE)
    option("revision", metavar="REV", help="a commit, branch or tag")
    option("--only", type=words, metavar="NAME,NAME", help="rows whose name contains one of these")
    option("--pairs", type=int, choices=range(2, 33), default=5, metavar="P", help="pairs of processes (default 5)")
    option("--seconds", type=positive, default=1.0, metavar="S", help="seconds of timing a row and pair (default 1)")
    option("--json", type=Path, metavar="FILE", help="write the numbers here as well")
    _device(option)

    option = command("report", "tables and pictures, those of README and docs too, from the stored numbers")
    option("file", nargs="*", type=Path, help="default: every results file in bench/results, and the pages")
    option("--agree", nargs=2, type=Path, metavar=("A", "B"), help="do two runs of one suite agree?")
    option("--check", action="store_true", help="write nothing; exit code 1 if README or docs differ from the results")

    option = command("gate", "compare the exact counts with the committed baseline")
    option("--update", action="store_true", help="write the whole baseline again")
    option("--only", type=words, metavar="S,S", help="some of launches, operators, instructions; default all")
    option("--cases", type=words, metavar="W,W", help="only cases with one of these words in their name")

    jobs = dict(type=int, choices=range(1, 65), metavar="J", help="processes; default one per core")
    option = command("machine-code", "compile for sm_80, sm_90, sm_100 and gfx942, and check promises")
    option("--json", type=Path, metavar="FILE", help="write the numbers here as well")
    option("--targets", metavar="T,T", help="some of sm_80,sm_90,sm_100,gfx942; default all")
    option("--jobs", **jobs)

    option = command("versions", "tests and ahead-of-time builds on several pairs of torch and triton")
    option("--python", nargs="+", type=Path, metavar="PATH", help="existing environments with fastgan installed")
    option("--only", type=words, metavar="NAME,NAME", help="some of lowest,image,newest; default all")
    option("--tests", type=words, metavar="NAME,NAME", help="names as in tests/*/test_NAME.py; default a selection")
    option("--jobs", **jobs)
    option("--minutes", type=positive, default=40.0, metavar="M", help="at most, for a pair's tests and for its builds")
    option("--out", type=Path, default=RESULTS / "versions.json", metavar="FILE")

    option = command("checks", "launch counts, no synchronisation, graph replay; needs a CUDA device")
    option("--out", type=Path, metavar="DIR", help="write the numbers here as well")
    _commit(option)

    option = command("tune", "block sizes and programs of the kernels, timed; needs a CUDA device")
    option("--only", type=words, metavar="NAME,NAME", help="these problems alone; an unknown name lists them")
    option("--quick", action="store_true", help="small problems")
    option("--out", type=Path, metavar="DIR", help="write the numbers here as well")
    _commit(option)

    option = command("gpu", "checks, suites, tests and profile on a GPU machine, in one command", GPU, GPU_EXAMPLES)
    option("--out", type=Path, required=True, metavar="DIR", help="at most 7 files go here, as they are made")
    option("--minutes", type=positive, default=8.3, metavar="M", help="for all stages together (default 8.3)")
    stages = "these alone, in this order; an unknown name lists them"
    option("--stages", type=words, metavar="NAME,NAME", help=stages)
    again = "the headline cells again, and what did not pass in this results.json (default: the last run's)"
    option("--again", nargs="?", const=True, metavar="FILE", help=again)
    option("--quick", action="store_true", help="small cells: does it run, not how fast is it")
    _commit(option)
    return top
