"""convert: a dump that somebody wrote, in the format that somebody else reads."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from dumpwriter.cli.progress import progress_bar
from dumpwriter.cli.show import print_json
from dumpwriter.conversion.conversion import Wish, convert
from dumpwriter.conversion.formats import FORMATS
from dumpwriter.conversion.outputs import Stream, new_file
from dumpwriter.dumpfile.opening import open_dump
from dumpwriter.hostfile import HostFile
from dumpwriter.sizes import format_count, format_size
from vdisk.errors import UsageError, naming

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from dumpwriter.conversion.outputs import NewFile

STANDARD_OUTPUT = "-"
NOT_THERE = {"excluded": "left out by the level", "missing": "missing", "filled": "filled with zeros"}


def run(arguments: argparse.Namespace) -> int:
    wish = Wish(arguments.to, arguments.compress, fill=arguments.fill, level=arguments.dump_level)
    wish.check()
    began = time.monotonic()
    with (
        naming(arguments.dump),
        HostFile(arguments.dump) as file,
        _output(arguments) as output,
        progress_bar("convert") as show,
    ):
        report = convert(open_dump(file), wish, output, show)
        report["sha256"] = output.digest() if arguments.digest else None
    report = _placed(arguments, report) | {"seconds": round(time.monotonic() - began, 3)}
    if arguments.json:
        print_json(report)
    else:
        _tell(report)
    return 0


@contextlib.contextmanager
def _output(arguments: argparse.Namespace) -> Iterator[NewFile | Stream]:
    if arguments.output != STANDARD_OUTPUT:
        with new_file(arguments.output, arguments.dump, replace=arguments.force) as file:
            yield file
        return
    with standard_output(arguments.to) as stream:
        yield stream


@contextlib.contextmanager
def standard_output(format_name: str) -> Iterator[Stream]:
    """Standard output for the dump alone: whatever is printed from now on goes to standard error.

    Raises `UsageError` where it is a terminal, and for a format that is not written from front to end.
    """
    if not FORMATS[format_name].is_stream:
        raise UsageError(f"-o -: {format_name} is not written from front to end; kdump-flattened goes through a pipe")
    if os.isatty(sys.stdout.fileno()):
        raise UsageError("-o -: standard output is a terminal: send it to a file or a pipe")
    sys.stdout.flush()
    descriptor = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        yield Stream(descriptor)
    finally:
        os.close(descriptor)


def _placed(arguments: argparse.Namespace, report: dict[str, Any]) -> dict[str, Any]:
    path = None if arguments.output == STANDARD_OUTPUT else os.path.abspath(arguments.output)
    return {"dump": os.path.abspath(arguments.dump), "path": path, **report}


def _tell(report: dict[str, Any]) -> None:
    """One line: what was made, and what is not in it."""
    pages = f"{format_count(report['pages_written'], 'page')} in {format_size(report['size_bytes'])}"
    line = f"{report['path'] or 'standard output'}: {report['format']}, {pages}"
    for field, words in NOT_THERE.items():
        if report[field]:
            line += f", {sum(run['page_count'] for run in report[field])} {words}"
    print(line + (" (of a dump that is PARTIAL)" if report["partial"] else ""))
