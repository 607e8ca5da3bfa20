"""The command line: `fastgan train`, `fastgan sample`, `fastgan export`, `fastgan game`, `fastgan doctor`.

Exit codes: 0 done, or stopped by SIGTERM and saved; 1 failed while running (no space left, training diverged, self-test
failed), or findings of `doctor --step`; 2 bad arguments or input; 130 stopped by Ctrl-C. What goes wrong is said in one
line on stderr.

A file a command, and what they share: `arguments`, `options`, `checks`, `errors`, `folder` and `loop` (of a run).
"""

from __future__ import annotations

from fastgan.cli.arguments import make_parser
from fastgan.cli.errors import BAD_INPUT, FAILED, INTERRUPTED, OK, Failed, Refused, say, speaking

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "OK", "main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        with speaking():
            args = make_parser().parse_args(argv)
            return args.command(args)
    except SystemExit as stop:  # argparse: --help, or an argument it refuses
        return stop.code or OK
    except (Refused, Failed) as error:
        say(str(error))
        return BAD_INPUT if isinstance(error, Refused) else FAILED
    except KeyboardInterrupt:
        say("interrupted; what was saved stands")
        return INTERRUPTED
