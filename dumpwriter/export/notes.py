"""ELF notes: the registers of each CPU and VMCOREINFO.

Sources: System V ABI, chapter 5 (note section); Linux `struct elf_prstatus` (include/linux/elfcore.h) for x86-64.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

NT_PRSTATUS = 1
PRSTATUS_NAME = b"CORE"
VMCOREINFO_NAME = b"VMCOREINFO"
VMCOREINFO_TYPE = 0

NOTE_HEADER = struct.Struct("<III")  # namesz, descsz, type
PRSTATUS = struct.Struct("<iiihxxQQiiii64x27Qi4x")
assert PRSTATUS.size == 336
PRSTATUS_FIELDS_BEFORE_REGISTERS = 10

REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"),
    *("orig_rax", "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs"),
)
"""The order of `struct user_regs_struct`."""


class Note(NamedTuple):
    """One note; the name without its terminating zero."""

    name: bytes
    type: int
    content: bytes


def pack_notes(notes: Iterable[Note]) -> bytes:
    """The content of a PT_NOTE segment."""
    return b"".join(_pack(note) for note in notes)


def _pack(note: Note) -> bytes:
    name = note.name + b"\0"
    header = NOTE_HEADER.pack(len(name), len(note.content), note.type)
    return header + _padded(name) + _padded(note.content)


def _padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 4)


def parse_notes(segment: bytes) -> Iterator[Note]:
    """The notes of a PT_NOTE segment; FormatError where a length leaves it. Zeros behind the last note are padding."""
    return (note for _, note in _places(segment))


def why_unreadable(segment: bytes) -> str | None:
    """What is wrong with a segment that a dying machine may have scribbled on; None where every note parses."""
    try:
        for _ in parse_notes(segment):
            pass
    except FormatError as error:
        return str(error)
    return None


def first_registers(segment: bytes) -> dict[str, int]:
    """The registers of the first CPU by name; none where no NT_PRSTATUS note has them."""
    notes = (note for note in parse_notes(segment) if (note.name, note.type) == (PRSTATUS_NAME, NT_PRSTATUS))
    content = next((note.content for note in notes if len(note.content) == PRSTATUS.size), None)
    values = PRSTATUS.unpack(content)[PRSTATUS_FIELDS_BEFORE_REGISTERS:] if content else ()
    return dict(zip(REGISTERS, values, strict=False))


def vmcoreinfo_place(segment: bytes) -> tuple[int, int]:
    """Where the text of VMCOREINFO stands in a segment, and how long it is; (0, 0) where there is none."""
    places = ((offset, len(note.content)) for offset, note in _places(segment) if note.name == VMCOREINFO_NAME)
    return next(places, (0, 0))


def vmcoreinfo_value(segment: bytes, key: bytes) -> bytes | None:
    """What VMCOREINFO says of a key, as it stands there."""
    offset, size = vmcoreinfo_place(segment)
    lines = (line.partition(b"=") for line in segment[offset : offset + size].splitlines())
    return next((value for name, _, value in lines if name == key), None)


def vmcoreinfo_number(segment: bytes, key: bytes) -> int:
    """A decimal number of VMCOREINFO; 0 where it is not told, or is none that 64 bits hold with their sign."""
    try:
        value = int(vmcoreinfo_value(segment, key) or b"0")
    except ValueError:
        return 0
    return value if -(1 << 63) <= value < 1 << 63 else 0


def _places(segment: bytes) -> Iterator[tuple[int, Note]]:
    """Each note, and where its content stands."""
    position, padding_start = 0, len(segment.rstrip(b"\0"))
    while position < padding_start:
        if position + NOTE_HEADER.size > len(segment):
            raise FormatError(f"note at {position} is cut off")
        name_size, content_size, note_type = NOTE_HEADER.unpack_from(segment, position)
        name_start = position + NOTE_HEADER.size
        content_start = name_start + name_size + -name_size % 4
        content_end = content_start + content_size
        if content_end > len(segment):
            raise FormatError(f"note at {position} claims {name_size} + {content_size} bytes of {len(segment)}")
        name = segment[name_start : name_start + name_size].rstrip(b"\0")
        yield content_start, Note(name, note_type, segment[content_start:content_end])
        position = content_end + -content_size % 4


def prstatus_note(pid: int, registers: dict[str, int], signal: int = 0) -> Note:
    """The NT_PRSTATUS note of one CPU; a register that is not named is zero."""
    values = [registers.get(name, 0) & 0xFFFF_FFFF_FFFF_FFFF for name in REGISTERS]
    content = PRSTATUS.pack(signal, 0, 0, signal, 0, 0, pid, 0, 0, 0, *values, 0)
    return Note(PRSTATUS_NAME, NT_PRSTATUS, content)


def vmcoreinfo_note(text: bytes) -> Note:
    """The note by which readers find their way in a Linux kernel's memory."""
    return Note(VMCOREINFO_NAME, VMCOREINFO_TYPE, text)
