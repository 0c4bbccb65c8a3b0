"""The command line: the one place that faces the user. Each command is a module, loaded when it is asked for."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED_EXIT_CODE = 1
INTERRUPTED_EXIT_CODE = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed or less than asked for, 2 bad usage."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        _open_standard_streams()
        for ending in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.default_int_handler)  # to be told to end is to be interrupted
        code = _run(given)
        interrupt_no_more()
        return code
    except KeyboardInterrupt:
        return _fail(given, "interrupted", INTERRUPTED_EXIT_CODE)


def interrupt_no_more() -> None:
    """What was asked for is done; what comes now interrupts nothing, and nobody is told that it did."""
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.SIG_IGN)


def _run(arguments: Sequence[str]) -> int:
    """Nothing is loaded outside of this: an interrupt may come while modules are loaded, too."""
    from vdisk.errors import GhostdumpError

    try:
        code = _carry_out(arguments)
    except GhostdumpError as error:
        from dumpwriter.cli.failures import explain

        return _fail(arguments, explain(error), error.exit_code)
    except BrokenPipeError:
        _drop_output()  # the reader has gone; so has the message
        return FAILED_EXIT_CODE
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        try:
            return _fail(arguments, f"{place}{error.strerror or error}", FAILED_EXIT_CODE)
        finally:
            _drop_output()  # it may be what failed: what still stands in its buffer would fail once more
    return code


def _carry_out(arguments: Sequence[str]) -> int:
    import importlib

    from dumpwriter.cli.arguments import parse_arguments

    parsed = parse_arguments(arguments)
    command = importlib.import_module(f"dumpwriter.cli.{parsed.module}")
    code: int = getattr(command, parsed.function)(parsed)
    sys.stdout.flush()
    return code


def _fail(arguments: Sequence[str], reason: str, code: int) -> int:
    """One line for people; with --json, a document for programs too, where they can be reached."""
    from dumpwriter.printable import printable

    if "--json" in arguments:
        import contextlib
        import json

        with contextlib.suppress(OSError):
            print(json.dumps({"error": reason, "exit_code": code}), flush=True)
    return _complain(printable(reason), code)


def _complain(reason: str, code: int) -> int:
    print(f"ghostdump: {reason}", file=sys.stderr)
    return code


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _open_standard_streams() -> None:
    """Whoever closed one of the first three descriptors gets /dev/null there, and never a disk of ours."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
