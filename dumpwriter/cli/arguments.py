"""The grammar of the command line: every command, its arguments, and the function that carries it out."""

from __future__ import annotations

import argparse
import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from dumpwriter.conversion.formats import COMPRESSION_NAMES, DEFAULT_FORMAT, FORMATS
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.script import SCRIPTS
from dumpwriter.levels import NAMES as LEVEL_NAMES
from dumpwriter.levels import parse_level
from dumpwriter.machine.causes import DEFAULT
from dumpwriter.machine.trigger import parse_value
from dumpwriter.sizes import (
    parse_count,
    parse_dump_level,
    parse_number,
    parse_parity,
    parse_percent,
    parse_seconds,
    parse_size,
)
from vdisk.bootarea import BootStage
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Value = TypeVar("Value")

RECOVERIES = ("boot", "partial", "several", "image")  # of the laboratory, which is slow to import
WRITES_MAX = 16  # in flight: 2^17 states and more
CRASH_STAGES = tuple(stage.label for stage in BootStage if stage != BootStage.OFF)
EPILOG = """exit codes: 0 done, 1 failed or a verdict less than COMPLETE, 2 bad usage.
Start with: ghostdump create disk.img --size 1GiB --memory 64MiB"""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    return _parser().parse_args(arguments)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and where the help is, instead of printing half of it."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Let each command refuse what it does not know: argparse leaves it to the program, and names its help."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {shlex.join(unknown)}")
        return parsed, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """In words: how argparse shows a list differs from one Python to the next."""
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} is none of {', '.join(map(str, action.choices))}")

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} ({self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ghostdump",
        description="A crash-dump stack that you may crash on purpose.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"ghostdump {version('ghostdump')}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    adders = (
        _create,
        _mount,
        _unmount,
        _status,
        _drivers,
        _extents,
        _device,
        _rehearse,
        _register,
        _unregister,
        _crash,
        _hibernate,
        _recover,
        _convert,
        _inspect,
        _log,
        _read,
        _diff,
        _verify,
        _lab,
    )
    for add in adders:
        add(commands)
    return parser


def _create(commands: Any) -> None:
    command = _command(commands, "create", "create", "run", "make a disk image: ext4, a dump region, a boot area")
    command.add_argument("image", help="the file to make; it must not exist")
    command.add_argument("--size", type=_typed(parse_size), help="size of the disk, such as 1GiB")
    command.add_argument("--memory", type=_typed(parse_size), help="memory of the machine, such as 64MiB")
    command.add_argument(
        "--region", metavar="KIND", help="dedicated: a file for dumps alone, the default; pagefile: the page file"
    )
    command.add_argument("--recipe", metavar="FILE", help="a recipe of sizes, fragmentation and files (images/*.toml)")
    command.add_argument("--encrypt", action="store_true", help="encrypt the whole volume; asks for a passphrase")
    _key_file(command)
    _levels(command, "size the region for dumps of this level")
    _parity(command, "and for so much parity")
    _json(command)


def _mount(commands: Any) -> None:
    command = _command(commands, "mount", "mount", "run", "boot: replay, recover, mount, arm")
    command.add_argument("image", help="an image that create made")
    command.add_argument("mountpoint", help="an empty directory")
    command.add_argument(
        "--memory-image", metavar="FILE", help="memory from a dump (vmcore, kdump, Windows, LiME) or a raw file"
    )
    _key_file(command)
    command.add_argument("--allow-other", action="store_true", help="let other users into the mount")
    command.add_argument(
        "--crash-at", choices=CRASH_STAGES, metavar="STAGE", help=f"crash there: {', '.join(CRASH_STAGES)}"
    )
    command.add_argument(
        "--discard-dump",
        action="store_true",
        help="give up a dump, or a hibernated machine, that is still in the region",
    )
    _levels(command, "what a dump of this run is to hold")
    _parity(command, "how much parity a dump of this run is to have")
    command.add_argument(
        "--deadline", type=_typed(parse_seconds), default=0.0, metavar="SECONDS", help="cut the dump after so long"
    )
    command.add_argument("--dump-key", metavar="FILE", help="seal the dump for this public key (PEM: X25519 or RSA)")
    _retention(command)
    command.add_argument("--foreground", action="store_true", help="stay, and unmount at Ctrl-C")
    _json(command)


def _unmount(commands: Any) -> None:
    command = _command(commands, "unmount", "mount", "unmount", "clean shutdown")
    command.add_argument("mountpoint", help="where the machine is mounted")


def _status(commands: Any) -> None:
    command = _command(commands, "status", "show", "status", "what the machine is doing")
    command.add_argument("mountpoint", help="where the machine is mounted")
    _json(command)


def _drivers(commands: Any) -> None:
    command = _command(commands, "drivers", "show", "drivers", "the module table: live drivers and their clones")
    command.add_argument("mountpoint", help="where the machine is mounted")
    _json(command)


def _extents(commands: Any) -> None:
    command = _command(commands, "extents", "show", "extents", "where the dump region lies on the disk")
    command.add_argument("target", metavar="MOUNTPOINT|IMAGE", help="a machine that runs, or an image")
    _json(command)


def _device(commands: Any) -> None:
    command = _command(commands, "device", "device", "run", "show an image as one file, for e2fsck and its kind")
    command.add_argument("image", help="an image that no machine runs on")
    _key_file(command)
    command.add_argument(
        "--run", metavar="COMMAND", type=_typed(_parse_command), help="run this on the file, and end with it"
    )


def _rehearse(commands: Any) -> None:
    command = _command(commands, "rehearse", "crash", "rehearse", "let the clone write, read back, leave no trace")
    command.add_argument("mountpoint", help="where the machine is mounted")
    _json(command)


def _register(commands: Any) -> None:
    command = _command(commands, "register", "secondary", "register", "let a dump carry a file beside memory")
    command.add_argument("mountpoint", help="where the machine is mounted")
    command.add_argument("name", help="its name beside the vmcore")
    command.add_argument("file", help="what it holds; - for standard input")


def _unregister(commands: Any) -> None:
    command = _command(commands, "unregister", "secondary", "unregister", "take such a file out of the next dump")
    command.add_argument("mountpoint", help="where the machine is mounted")
    command.add_argument("name", help="its name, as it was registered")


def _crash(commands: Any) -> None:
    command = _command(commands, "crash", "crash", "run", "crash the machine and watch the clone write its dump")
    command.add_argument("mountpoint", nargs="?", help="where the machine is mounted")
    command.add_argument("--list", action="store_true", help="explain the causes")
    command.add_argument("--cause", default=DEFAULT.name, metavar="NAME", help="how it dies; a bugcheck by default")
    command.add_argument("--at", type=_typed(parse_percent), metavar="PERCENT", help="where in the dump the power goes")
    command.add_argument("--write", type=_typed(parse_count), metavar="N", help="at its n-th write command from now")
    command.add_argument("--bugcheck", type=_typed(parse_value), metavar="CODE", help="such as 0xD1")
    command.add_argument(
        "--parameter",
        type=_typed(parse_value),
        action="append",
        default=[],
        metavar="N",
        help="a parameter of the bugcheck; up to four times",
    )
    command.add_argument("--text", help="the reason, as it stands in the log")
    _json(command)


def _hibernate(commands: Any) -> None:
    command = _command(commands, "hibernate", "hibernate", "run", "write memory, power off; the next mount resumes")
    command.add_argument("mountpoint", help="where the machine is mounted")
    _json(command)


def _recover(commands: Any) -> None:
    command = _command(commands, "recover", "recover", "run", "take the dump out of an image that is not mounted")
    command.add_argument("image", metavar="IMAGE|SEALED", help="an image, or a sealed dump that was carried out of one")
    command.add_argument(
        "-o", "--output", metavar="DIR", required=True, help="where the numbered directory goes; - for standard output"
    )
    _key_file(command)
    command.add_argument("--dump-private-key", metavar="FILE", help="open a sealed dump with this private key (PEM)")
    command.add_argument(
        "--format",
        choices=FORMATS,
        default=DEFAULT_FORMAT,
        metavar="FORMAT",
        help=f"elf, the default, or {', '.join([*FORMATS][1:])}",
    )
    _export(command)
    _retention(command)
    _json(command)


def _convert(commands: Any) -> None:
    command = _command(commands, "convert", "convert", "run", "write a dump anew in the format that a reader wants")
    command.add_argument("dump", help="a dump in any format that ghostdump reads, of ghostdump's or of others'")
    command.add_argument("--to", choices=FORMATS, required=True, metavar="FORMAT", help=", ".join(FORMATS))
    command.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="the file to make; - for standard output"
    )
    command.add_argument("--force", action="store_true", help="replace the file if it exists")
    command.add_argument("--no-digest", dest="digest", action="store_false", help="do not compute its SHA-256")
    _export(command)
    _json(command)


def _inspect(commands: Any) -> None:
    command = _command(commands, "inspect", "inspect", "inspect", "what an image or a dump holds")
    command.add_argument(
        "image", metavar="IMAGE|DUMP", help="an image, also beside a machine that runs on it; or a dump"
    )
    _key_file(command)
    _json(command)


def _log(commands: Any) -> None:
    command = _command(commands, "log", "inspect", "log", "the kernel log in a dump, as dmesg prints it")
    command.add_argument("dump", help="a dump in any format that ghostdump reads")
    _json(command)


def _read(commands: Any) -> None:
    command = _command(commands, "read", "inspect", "read", "bytes of a dump's memory, as hexdump -C prints them")
    command.add_argument("dump", help="a dump in any format that ghostdump reads")
    command.add_argument("address", type=_typed(parse_value), help="a physical address, such as 0x200000")
    command.add_argument("length", type=_typed(parse_size), help="how much, such as 64 or 4KiB")
    command.add_argument("--virtual", action="store_true", help="the address is one of the kernel's")
    _json(command)


def _diff(commands: Any) -> None:
    command = _command(commands, "diff", "inspect", "diff", "the pages in which two dumps differ")
    command.add_argument("first", help="a dump")
    command.add_argument("second", help="another, of whatever format")
    _json(command)


def _verify(commands: Any) -> None:
    command = _command(commands, "verify", "recover", "verify", "check every frame of the dump, and copy nothing")
    command.add_argument("image", help="an image that no machine runs on")
    _key_file(command)
    _json(command)


def _lab(commands: Any) -> None:
    laboratory = commands.add_parser("lab", help="every state that a crash can leave, and what recovery makes of it")
    experiments = laboratory.add_subparsers(metavar="COMMAND", required=True, help="the experiment")
    _lab_prove(experiments)
    _lab_run(experiments)
    _lab_merge(experiments)
    _lab_replay(experiments)
    _lab_shrink(experiments)
    _lab_filesystem(experiments)
    _lab_recovery(experiments)
    _lab_mutate(experiments)


def _lab_prove(commands: Any) -> None:
    command = _command(commands, "prove", "lab", "run_prove", "every state of a small disk, with a certificate")
    _scenario(command)
    command.add_argument(
        "--writes",
        type=_typed(_parse_writes),
        metavar="N",
        help=f"writes in flight, 1 to {WRITES_MAX}; 8 by default, 1 for parity",
    )
    _json(command)


def _lab_run(commands: Any) -> None:
    command = _command(commands, "run", "campaign", "run", "cases drawn at random, each with up to three faults")
    _scenario(command)
    command.add_argument("--seed", type=_typed(parse_number), default=0, metavar="S", help="which cases; 0 by default")
    command.add_argument(
        "--first", type=_typed(parse_number), default=0, metavar="N", help="the number of the first; 0 by default"
    )
    command.add_argument(
        "--cases", type=_typed(parse_count), default=10_000, metavar="N", help="how many; 10000 by default"
    )
    command.add_argument(
        "--jobs", type=_typed(parse_count), default=1, metavar="J", help="in how many processes; 1 by default"
    )
    command.add_argument("--state", metavar="DIR", help="keep there what was judged, and do not judge it again")
    _json(command)


def _lab_merge(commands: Any) -> None:
    command = _command(commands, "merge", "campaign", "run_merge", "what several runs found, put together")
    command.add_argument("directories", nargs="+", metavar="DIR", help="a directory that was given to run as --state")
    _json(command)


def _lab_replay(commands: Any) -> None:
    command = _command(commands, "replay", "replay", "run", "one case, write by write")
    command.add_argument("case", help="SCENARIO:SEED:NUMBER, or a line that shrink printed")
    _json(command)


def _lab_shrink(commands: Any) -> None:
    command = _command(commands, "shrink", "replay", "run_shrink", "the fewest faults by which a case goes wrong")
    command.add_argument("case", help="a case that does not hold, as run printed it")


def _lab_filesystem(commands: Any) -> None:
    summary = "what a crash can leave of a filesystem at any write, repaired and read"
    command = _command(commands, "filesystem", "wholedisk", "run_filesystem", summary)
    command.add_argument(
        "script",
        nargs="?",
        default="files",
        metavar="SCRIPT",
        help=f"{', '.join(SCRIPTS)}; drawn: one that the seed gives; or a text as 'write a 0 5000; sync'",
    )
    command.add_argument(
        "--shrink", action="store_true", help="of a script that fails, print a state of the fewest operations"
    )
    _bounds(command)


def _lab_recovery(commands: Any) -> None:
    summary = "a recovery that is cut at any of its writes, and done again"
    command = _command(commands, "recovery", "wholedisk", "run_recovery", summary)
    command.add_argument(
        "procedure",
        nargs="?",
        choices=RECOVERIES,
        default=RECOVERIES[0],
        metavar="PROCEDURE",
        help=", ".join(RECOVERIES),
    )
    _bounds(command)


def _lab_mutate(commands: Any) -> None:
    command = _command(commands, "mutate", "mutate", "run", "faults planted in the product, and what finds them")
    command.add_argument("name", nargs="*", metavar="NAME", help="which faults; all by default, and one run with none")
    command.add_argument("--list", action="store_true", help="only name them")
    command.add_argument(
        "--seconds", type=_typed(parse_count), default=60, metavar="N", help="of CPU time for each; 60 by default"
    )
    command.add_argument(
        "--jobs", type=_typed(parse_count), default=1, metavar="N", help="how many side by side; 1 by default"
    )
    command.add_argument("--markdown", action="store_true", help="print the page docs/planted-faults.md")
    _json(command)


def _bounds(command: argparse.ArgumentParser) -> None:
    """Of an experiment with a whole disk."""
    for option, default, summary in (
        ("--exhaustive", 64, "epochs with up to so many states have all of them"),
        ("--tears", 4, "tears of each write in the others"),
        ("--random", 4, "states at random of each of these"),
    ):
        command.add_argument(
            option,
            type=_typed(parse_number),
            default=default,
            metavar="N",
            help=f"{summary}; {default} by default",
        )
    command.add_argument("--seed", type=_typed(parse_number), default=0, metavar="S", help="of these; 0 by default")
    command.add_argument("--case", metavar="LINE", help="only this state, as it was printed")
    _json(command)


def _scenario(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "scenario", nargs="?", choices=SCENARIOS, default="pages", metavar="SCENARIO", help=", ".join(SCENARIOS)
    )


def _command(commands: Any, name: str, module: str, function: str, summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(module=module, function=function)
    return command


def _export(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--compress",
        choices=COMPRESSION_NAMES,
        metavar="HOW",
        help=f"for kdump: {', '.join(COMPRESSION_NAMES)}; zlib by default",
    )
    command.add_argument(
        "-d",
        "--dump-level",
        type=_typed(parse_dump_level),
        metavar="N",
        help="leave pages out as makedumpfile -d does: 1 zeros, 2 and 4 cache, 8 user, 16 free, 31 all of these",
    )
    command.add_argument(
        "--fill", action="store_true", help="zeros for missing pages, in a format that cannot say that they are missing"
    )


def _retention(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--keep", type=_typed(parse_count), metavar="N", help="keep the first and the latest crashes, N in all"
    )
    command.add_argument(
        "--min-free", type=_typed(parse_size), default=0, metavar="SIZE", help="leave at least so much room"
    )


def _key_file(command: argparse.ArgumentParser) -> None:
    command.add_argument("--key-file", metavar="FILE", help="a file whose bytes unlock an encrypted image")


def _levels(command: argparse.ArgumentParser, summary: str) -> None:
    command.add_argument(
        "--levels", type=_typed(parse_level), metavar="LEVEL", help=f"{summary}: {', '.join(LEVEL_NAMES)}"
    )


def _parity(command: argparse.ArgumentParser, summary: str) -> None:
    command.add_argument("--parity", type=_typed(parse_parity), metavar="none|N%%", help=f"{summary}: none, or N%%")


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON document")


def _parse_writes(text: str) -> int:
    if parse_count(text) > WRITES_MAX:
        raise UsageError(f"{text} are too many: the states double with each, so {WRITES_MAX} is the most")
    return int(text)


def _parse_command(text: str) -> list[str]:
    """The words of a command, as a shell would take them. Raises `UsageError`."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words:
        raise UsageError(f"{text!r} is not a command: give it as 'e2fsck -fn', with each quote closed")
    return words


def _typed(parse: Callable[[str], Value]) -> Callable[[str], Value]:
    """argparse shows the message of an ArgumentTypeError, and of nothing else."""

    def parse_or_tell(text: str) -> Value:
        try:
            return parse(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_or_tell
