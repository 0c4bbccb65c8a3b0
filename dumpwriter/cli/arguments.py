"""The grammar of the command line: every command, its arguments, and the function that carries it out."""

from __future__ import annotations

import argparse
import shlex
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from dumpwriter.cli.grammar import Parser, add_command, add_json, typed
from dumpwriter.cli.labarguments import add_lab
from dumpwriter.conversion.formats import COMPRESSION_NAMES, DEFAULT_FORMAT, FORMATS
from dumpwriter.levels import NAMES as LEVEL_NAMES
from dumpwriter.levels import parse_level
from dumpwriter.machine.causes import DEFAULT
from dumpwriter.machine.trigger import parse_value
from dumpwriter.sizes import (
    parse_count,
    parse_dump_level,
    parse_parity,
    parse_percent,
    parse_seconds,
    parse_size,
)
from vdisk.bootarea import BootStage
from vdisk.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

CRASH_STAGES = tuple(stage.label for stage in BootStage if stage != BootStage.OFF)
EPILOG = """exit codes: 0 done, 1 failed or a verdict less than COMPLETE, 2 bad usage.
Start with: ghostdump create disk.img --size 1GiB --memory 64MiB"""


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
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
        add_lab,
    )
    for add in adders:
        add(commands)
    return parser


def _create(commands: Any) -> None:
    command = add_command(commands, "create", "create", "run", "make a disk image: ext4, a dump region, a boot area")
    command.add_argument("image", help="the file to make; it must not exist")
    command.add_argument("--size", type=typed(parse_size), help="size of the disk, such as 1GiB")
    command.add_argument("--memory", type=typed(parse_size), help="memory of the machine, such as 64MiB")
    command.add_argument(
        "--region", metavar="KIND", help="dedicated: a file for dumps alone, the default; pagefile: the page file"
    )
    command.add_argument("--recipe", metavar="FILE", help="a recipe of sizes, fragmentation and files (images/*.toml)")
    command.add_argument("--encrypt", action="store_true", help="encrypt the whole volume; asks for a passphrase")
    _key_file(command)
    _levels(command, "size the region for dumps of this level")
    _parity(command, "and for so much parity")
    add_json(command)


def _mount(commands: Any) -> None:
    command = add_command(commands, "mount", "mount", "run", "boot: replay, recover, mount, arm")
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
        "--deadline", type=typed(parse_seconds), default=0.0, metavar="SECONDS", help="cut the dump after so long"
    )
    command.add_argument("--dump-key", metavar="FILE", help="seal the dump for this public key (PEM: X25519 or RSA)")
    _retention(command)
    command.add_argument("--foreground", action="store_true", help="stay, and unmount at Ctrl-C")
    add_json(command)


def _unmount(commands: Any) -> None:
    command = add_command(commands, "unmount", "mount", "unmount", "clean shutdown")
    command.add_argument("mountpoint", help="where the machine is mounted")


def _status(commands: Any) -> None:
    command = add_command(commands, "status", "show", "status", "what the machine is doing")
    command.add_argument("mountpoint", help="where the machine is mounted")
    add_json(command)


def _drivers(commands: Any) -> None:
    command = add_command(commands, "drivers", "show", "drivers", "the module table: live drivers and their clones")
    command.add_argument("mountpoint", help="where the machine is mounted")
    add_json(command)


def _extents(commands: Any) -> None:
    command = add_command(commands, "extents", "show", "extents", "where the dump region lies on the disk")
    command.add_argument("target", metavar="MOUNTPOINT|IMAGE", help="a machine that runs, or an image")
    add_json(command)


def _device(commands: Any) -> None:
    command = add_command(commands, "device", "device", "run", "show an image as one file, for e2fsck and its kind")
    command.add_argument("image", help="an image that no machine runs on")
    _key_file(command)
    command.add_argument(
        "--run", metavar="COMMAND", type=typed(_parse_command), help="run this on the file, and end with it"
    )


def _rehearse(commands: Any) -> None:
    command = add_command(commands, "rehearse", "crash", "rehearse", "let the clone write, read back, leave no trace")
    command.add_argument("mountpoint", help="where the machine is mounted")
    add_json(command)


def _register(commands: Any) -> None:
    command = add_command(commands, "register", "secondary", "register", "let a dump carry a file beside memory")
    command.add_argument("mountpoint", help="where the machine is mounted")
    command.add_argument("name", help="its name beside the vmcore")
    command.add_argument("file", help="what it holds; - for standard input")


def _unregister(commands: Any) -> None:
    command = add_command(commands, "unregister", "secondary", "unregister", "take such a file out of the next dump")
    command.add_argument("mountpoint", help="where the machine is mounted")
    command.add_argument("name", help="its name, as it was registered")


def _crash(commands: Any) -> None:
    command = add_command(commands, "crash", "crash", "run", "crash the machine and watch the clone write its dump")
    command.add_argument("mountpoint", nargs="?", help="where the machine is mounted")
    command.add_argument("--list", action="store_true", help="explain the causes")
    command.add_argument("--cause", default=DEFAULT.name, metavar="NAME", help="how it dies; a bugcheck by default")
    command.add_argument("--at", type=typed(parse_percent), metavar="PERCENT", help="where in the dump the power goes")
    command.add_argument("--write", type=typed(parse_count), metavar="N", help="at its n-th write command from now")
    command.add_argument("--bugcheck", type=typed(parse_value), metavar="CODE", help="such as 0xD1")
    command.add_argument(
        "--parameter",
        type=typed(parse_value),
        action="append",
        default=[],
        metavar="N",
        help="a parameter of the bugcheck; up to four times",
    )
    command.add_argument("--text", help="the reason, as it stands in the log")
    add_json(command)


def _hibernate(commands: Any) -> None:
    command = add_command(commands, "hibernate", "hibernate", "run", "write memory, power off; the next mount resumes")
    command.add_argument("mountpoint", help="where the machine is mounted")
    add_json(command)


def _recover(commands: Any) -> None:
    command = add_command(commands, "recover", "recover", "run", "take the dump out of an image that is not mounted")
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
    add_json(command)


def _convert(commands: Any) -> None:
    command = add_command(commands, "convert", "convert", "run", "write a dump anew in the format that a reader wants")
    command.add_argument("dump", help="a dump in any format that ghostdump reads, of ghostdump's or of others'")
    command.add_argument("--to", choices=FORMATS, required=True, metavar="FORMAT", help=", ".join(FORMATS))
    command.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="the file to make; - for standard output"
    )
    command.add_argument("--force", action="store_true", help="replace the file if it exists")
    command.add_argument("--no-digest", dest="digest", action="store_false", help="do not compute its SHA-256")
    _export(command)
    add_json(command)


def _inspect(commands: Any) -> None:
    command = add_command(commands, "inspect", "inspect", "inspect", "what an image or a dump holds")
    command.add_argument(
        "image", metavar="IMAGE|DUMP", help="an image, also beside a machine that runs on it; or a dump"
    )
    _key_file(command)
    add_json(command)


def _log(commands: Any) -> None:
    command = add_command(commands, "log", "inspect", "log", "the kernel log in a dump, as dmesg prints it")
    command.add_argument("dump", help="a dump in any format that ghostdump reads")
    add_json(command)


def _read(commands: Any) -> None:
    command = add_command(commands, "read", "inspect", "read", "bytes of a dump's memory, as hexdump -C prints them")
    command.add_argument("dump", help="a dump in any format that ghostdump reads")
    command.add_argument("address", type=typed(parse_value), help="a physical address, such as 0x200000")
    command.add_argument("length", type=typed(parse_size), help="how much, such as 64 or 4KiB")
    command.add_argument("--virtual", action="store_true", help="the address is one of the kernel's")
    add_json(command)


def _diff(commands: Any) -> None:
    command = add_command(commands, "diff", "inspect", "diff", "the pages in which two dumps differ")
    command.add_argument("first", help="a dump")
    command.add_argument("second", help="another, of whatever format")
    add_json(command)


def _verify(commands: Any) -> None:
    command = add_command(commands, "verify", "recover", "verify", "check every frame of the dump, and copy nothing")
    command.add_argument("image", help="an image that no machine runs on")
    _key_file(command)
    add_json(command)


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
        type=typed(parse_dump_level),
        metavar="N",
        help="leave pages out as makedumpfile -d does: 1 zeros, 2 and 4 cache, 8 user, 16 free, 31 all of these",
    )
    command.add_argument(
        "--fill", action="store_true", help="zeros for missing pages, in a format that cannot say that they are missing"
    )


def _retention(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--keep", type=typed(parse_count), metavar="N", help="keep the first and the latest crashes, N in all"
    )
    command.add_argument(
        "--min-free", type=typed(parse_size), default=0, metavar="SIZE", help="leave at least so much room"
    )


def _key_file(command: argparse.ArgumentParser) -> None:
    command.add_argument("--key-file", metavar="FILE", help="a file whose bytes unlock an encrypted image")


def _levels(command: argparse.ArgumentParser, summary: str) -> None:
    command.add_argument(
        "--levels", type=typed(parse_level), metavar="LEVEL", help=f"{summary}: {', '.join(LEVEL_NAMES)}"
    )


def _parity(command: argparse.ArgumentParser, summary: str) -> None:
    command.add_argument("--parity", type=typed(parse_parity), metavar="none|N%%", help=f"{summary}: none, or N%%")


def _parse_command(text: str) -> list[str]:
    """The words of a command, as a shell would take them. Raises `UsageError`."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if not words:
        raise UsageError(f"{text!r} is not a command: give it as 'e2fsck -fn', with each quote closed")
    return words
