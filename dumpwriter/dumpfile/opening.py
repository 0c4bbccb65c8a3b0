"""Which format a dump file is in, by its first bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.dumpfile.elf import open_elf
from dumpwriter.dumpfile.kdump import KdumpDump
from dumpwriter.export import elf_format as elf
from dumpwriter.export import kdump_format as kdump
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.dumpfile.dump import Dump
    from dumpwriter.dumpfile.file import File

    Opener = Callable[[File], Dump]

MAGIC_SIZE_BYTES = 16

_OPENERS: dict[bytes, Opener] = {
    elf.MAGIC: open_elf,
    kdump.SIGNATURE: KdumpDump,
}


def open_dump(file: File) -> Dump:
    """Read the headers of a dump file. FormatError where it is none, or none that holds together."""
    opener = find_opener(file)
    if opener is None:
        raise FormatError("this is no dump in a format that can be read here")
    return opener(file)


def find_opener(file: File) -> Opener | None:
    """What opens the file's format; None where its first bytes are those of none."""
    start = file.read(0, min(MAGIC_SIZE_BYTES, file.size_bytes))
    return next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
