"""The command line: `fastgan train`, `fastgan sample`, `fastgan export`, `fastgan game`, `fastgan doctor`.

Exit codes: 0 done, or stopped by SIGTERM and saved; 1 failed while running (no space left, training diverged, self-test
failed), or findings of `doctor --step`; 2 bad arguments or input; 130 stopped by Ctrl-C. Errors are one line on stderr.

Each command has a file. They share `arguments`, `options`, `checks` and `errors`; a run has `folder` and `loop`.
"""

from __future__ import annotations

from fastgan.cli.arguments import make_parser
from fastgan.cli.errors import BAD_INPUT, FAILED, INTERRUPTED, OK, Failed, Refused, robust_output, say

__all__ = ["BAD_INPUT", "FAILED", "INTERRUPTED", "OK", "main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        with robust_output():
            args = make_parser().parse_args(argv)
            return args.command(args)
    except SystemExit as stop:  # from argparse: --help, or an argument that it refuses
        if isinstance(stop.code, str):  # the user's own code has ended the process with a message
            raise
        return stop.code or OK
    except (Refused, Failed) as error:
        say(str(error))
        return BAD_INPUT if isinstance(error, Refused) else FAILED
    except KeyboardInterrupt:
        say("interrupted; what was saved is kept")
        return INTERRUPTED
