"""The command line: the one place that faces the user. Each command is a module, loaded when it is asked for."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED_EXIT_CODE = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed or less than asked for, 2 bad usage."""
    from vdisk.errors import GhostdumpError

    try:
        # An interrupt may come while modules are loaded, too: nothing is loaded outside of this block.
        from dumpwriter.cli.arguments import parse_arguments

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # to be told to end is to be interrupted
        parsed = parse_arguments(sys.argv[1:] if arguments is None else arguments)
        command = importlib.import_module(f"dumpwriter.cli.{parsed.module}")
        code: int = getattr(command, parsed.function)(parsed)
        sys.stdout.flush()
    except GhostdumpError as error:
        print(f"ghostdump: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("ghostdump: interrupted", file=sys.stderr)
        return INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; so has the message
        return 1
    return code
