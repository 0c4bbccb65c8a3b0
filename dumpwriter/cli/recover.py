"""recover and verify: the dump of an image that no machine runs on."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

from dumpwriter.cli import FAILED_EXIT_CODE
from dumpwriter.cli.convert import STANDARD_OUTPUT, standard_output
from dumpwriter.cli.keys import dump_opener, volume_key
from dumpwriter.cli.progress import progress_bar
from dumpwriter.cli.show import describe_recovery, print_json
from dumpwriter.commandline import command_line, opening_command_line
from dumpwriter.conversion.conversion import Wish
from dumpwriter.recovery.crashstore import SEALED, HostStore
from dumpwriter.recovery.offline import recover_image, recover_sealed_file, verify_image
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.recognition import holds_sealed_dump
from dumpwriter.recovery.report import together
from dumpwriter.recovery.retention import Retention
from dumpwriter.recovery.sending import check_sendable, send_image, send_sealed_file
from dumpwriter.verdict import Verdict
from vdisk.errors import KeyFileError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from dumpwriter.recovery.opening import Opener


def run(arguments: argparse.Namespace) -> int:
    _wish(arguments).check()
    if arguments.key_file and holds_sealed_dump(arguments.image):
        raise UsageError(f"{arguments.image} is a sealed dump, not an encrypted image: leave --key-file out")
    if arguments.output == STANDARD_OUTPUT:
        return _send(arguments)
    new_opener = dump_opener(arguments)
    with progress_bar("recover") as show:
        if not holds_sealed_dump(arguments.image):
            report = _recover_image(arguments, new_opener or WithoutKey, show)
        elif new_opener is not None:
            report = _recover_file(arguments, new_opener(), show)
        else:
            raise KeyFileError(f"{arguments.image} is a sealed dump: {opening_command_line(arguments.image)} opens it")
    code = tell(report, as_json=arguments.json)
    for reason in report.get("unopened", []):
        print(f"ghostdump: another dump stays in {arguments.image}: {reason}", file=sys.stderr)
    sealed = [os.path.join(dump["path"], SEALED) for dump in together(report) if dump["sealed"] and dump["path"]]
    for file in sealed:
        print(f"ghostdump: the dump is sealed: {opening_command_line(file)} opens it", file=sys.stderr)
    return FAILED_EXIT_CODE if sealed or "unopened" in report else code


def _send(arguments: argparse.Namespace) -> int:
    """The dump goes to standard output, all that is said to standard error."""
    wish = _wish(arguments)
    check_sendable(wish)
    new_opener = dump_opener(arguments)
    with standard_output(wish.format) as output, progress_bar("recover") as show:
        if not holds_sealed_dump(arguments.image):
            key = volume_key(arguments)
            report = send_image(arguments.image, output, wish, show, key, new_opener or WithoutKey)
        elif new_opener is not None:
            report = send_sealed_file(arguments.image, output, wish, show, new_opener())
        else:
            raise KeyFileError(f"{arguments.image} is a sealed dump: give --dump-private-key PRIVATE.pem")
    code = tell(report, as_json=arguments.json)
    if report["verdict"] != Verdict.NONE:
        _tell_what_was_sent(arguments)
    return code


def _tell_what_was_sent(arguments: argparse.Namespace) -> None:
    encrypted = bool(arguments.key_file)
    take = command_line("recover", arguments.image, "--output", "DIR", encrypted=encrypted)
    give_up = command_line("mount", arguments.image, "MOUNTPOINT", "--discard-dump", encrypted=encrypted)
    print(
        f"ghostdump: the dump stays in {arguments.image}, since nobody here knows whether its copy is safe; "
        f"{take} takes it out, and {give_up} gives it up",
        file=sys.stderr,
    )


def _recover_file(arguments: argparse.Namespace, opener: Opener, show: Callable[[int, int], None]) -> dict[str, Any]:
    retention = Retention(arguments.keep, arguments.min_free)
    with contextlib.closing(HostStore(arguments.output)) as store:
        return recover_sealed_file(arguments.image, store, retention, show, opener, _wish(arguments))


def _recover_image(
    arguments: argparse.Namespace, new_opener: Callable[[], Opener], show: Callable[[int, int], None]
) -> dict[str, Any]:
    retention = Retention(arguments.keep, arguments.min_free)
    key = volume_key(arguments)
    with contextlib.closing(HostStore(arguments.output)) as store:
        report = recover_image(arguments.image, store, retention, show, key, new_opener, _wish(arguments))
    if not arguments.json and any(dump["verdict"] != Verdict.NONE for dump in together(report)):
        _tell_what_stays(report, arguments.image)
    return report


def _wish(arguments: argparse.Namespace) -> Wish:
    return Wish(arguments.format, arguments.compress, fill=arguments.fill, level=arguments.dump_level)


def _tell_what_stays(report: dict[str, Any], image: str) -> None:
    if any(dump.get("hibernated") for dump in together(report)):
        print(f"{image} holds a hibernated machine: this is a copy of its memory, and the next mount resumes it")
    elif not os.access(image, os.W_OK):
        print(f"{image} is read-only: the dump in it is not marked as taken")


def verify(arguments: argparse.Namespace) -> int:
    key = volume_key(arguments)
    with progress_bar("verify") as show:
        report = verify_image(arguments.image, show, key)
    return tell(report, as_json=arguments.json)


def tell(report: dict[str, Any], *, as_json: bool) -> int:
    """A line for each dump; the exit code is that of the worst verdict."""
    dumps = together(report)
    if as_json:
        print_json(report)
    else:
        for dump in dumps:
            kind = "hibernated machine: " if dump.get("hibernated") else ""
            print(f"{kind}{describe_recovery(dump)}")
    return 0 if all(dump["verdict"] == Verdict.COMPLETE for dump in dumps) else FAILED_EXIT_CODE
