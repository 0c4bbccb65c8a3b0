"""Which format a dump file is in, by its first bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from dumpwriter.dumpfile.elf import open_elf
from dumpwriter.dumpfile.flattened import FlattenedFile
from dumpwriter.dumpfile.kdump import KdumpDump
from dumpwriter.dumpfile.lime import open_lime
from dumpwriter.dumpfile.pagedump import open_pagedump
from dumpwriter.export import elf_format as elf
from dumpwriter.export import flattened, lime
from dumpwriter.export import kdump_format as kdump
from dumpwriter.export import pagedump_format as pagedump
from dumpwriter.formats.region import FRAME_MAGIC, HEADER_MAGIC
from vdisk.bootarea import BOOT_AREA_SIZE_BYTES
from vdisk.bootarea import MAGIC as BOOT_RECORD_MAGIC
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.dumpfile.dump import Dump
    from dumpwriter.dumpfile.file import File

    Opener = Callable[[File], Dump]

Value = TypeVar("Value")

MAGIC_SIZE_BYTES = 16
COMPRESSED = "it is a compressed file: unpack it first"

_PLAIN: dict[bytes, Opener] = {
    elf.MAGIC: open_elf,
    kdump.SIGNATURE: KdumpDump,
    pagedump.SIGNATURE: open_pagedump,
    lime.MAGIC: open_lime,
}

_NOT_READ = {
    HEADER_MAGIC: "it is a sealed dump: open it with ghostdump recover and its private key",
    FRAME_MAGIC: "it is a sealed dump: open it with ghostdump recover and its private key",
    b"DISKDUMP": "it is a diskdump: makedumpfile writes it as a kdump file",
    b"PAGEDUMP": "it is a Windows crash dump of 32 bits, which is not read here",
    b"MDMP": "it is a minidump of a program, not the memory of a machine",
    b"QFI\xfb": "it is a qcow2 image: qemu-img convert -O raw unpacks it",
    b"\x1f\x8b": COMPRESSED,
    b"BZh": COMPRESSED,
    b"\xfd7zXZ\0": COMPRESSED,
    b"\x28\xb5\x2f\xfd": COMPRESSED,
}


def open_dump(file: File) -> Dump:
    """Read the headers of a dump file. FormatError where it is none, or none that holds together."""
    opener = find_opener(file)
    if opener is None:
        raise FormatError(_what_it_is(file))
    return opener(file)


def find_opener(file: File) -> Opener | None:
    """What opens the file's format; None where its first bytes are those of none."""
    start = _start(file)
    return _open_flattened if start.startswith(flattened.SIGNATURE) else _first(_PLAIN, start)


def _open_flattened(file: File) -> Dump:
    """The dump in the file that a flattened one describes; that is no flattened one again."""
    described = FlattenedFile(file)
    opener = _first(_PLAIN, _start(described))
    if opener is None:
        raise FormatError("what the flattened file describes is no dump")
    dump = opener(described)
    dump.format += "-flattened"
    return dump


def _start(file: File) -> bytes:
    return file.read(0, min(MAGIC_SIZE_BYTES, file.size_bytes))


def _first(by_magic: dict[bytes, Value], start: bytes) -> Value | None:
    return next((value for magic, value in by_magic.items() if start.startswith(magic)), None)


def _what_it_is(file: File) -> str:
    boot_area_bytes = file.size_bytes - BOOT_AREA_SIZE_BYTES
    if boot_area_bytes >= 0 and file.read(boot_area_bytes, len(BOOT_RECORD_MAGIC)) == BOOT_RECORD_MAGIC:
        return "it is the image of a disk: ghostdump recover takes the dump out of it"
    return _first(_NOT_READ, _start(file)) or "it is no dump in a format that is read here, by its first bytes"
