"""Reads an ELF64 core file of a machine: where its memory lies and which notes it carries. Pure; trusts no length.

`p_filesz` bytes of a PT_LOAD are present. What `p_memsz` adds to them is memory that whoever wrote the file left out.
Sources: see dumpwriter/export/elf_format.py.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy

from dumpwriter.dumpfile.file import read_table, row_of
from dumpwriter.dumpfile.pageruns import PageRuns
from dumpwriter.dumpfile.segments import PHYSICAL_MAXIMUM_BYTES, SEGMENTS_MAXIMUM, SegmentDump, Segments
from dumpwriter.export import elf_format as elf
from dumpwriter.export.notes import parse_notes
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dumpwriter.dumpfile.file import File

    Rows = NDArray[Any]

NOTES_MAXIMUM_BYTES = 4 << 20
"""NT_PRSTATUS of ten thousand processors."""
NOTE_ALIGNMENT_BYTES = 4


def open_elf(file: File) -> SegmentDump:
    """The dump in an x86-64 core file of a machine.

    FormatError where it is none, is cut off, or claims more memory than it holds.
    """
    header = elf.ELF_HEADER.unpack_from(file.read(0, min(elf.ELF_HEADER.size_bytes, file.size_bytes)))
    _check_header(header)
    programs = _program_headers(file, header)
    loads = programs[programs["p_type"] == elf.PT_LOAD]
    held = loads[loads["p_filesz"] > 0]
    if len(held) > 1 and not held["p_paddr"].any():
        raise FormatError("the ELF core has no physical addresses: it is the core of a program, not of a machine")
    return SegmentDump(
        "elf",
        file,
        Segments.of(file, held["p_paddr"], held["p_filesz"], held["p_offset"]),
        memory=_memory(loads),
        notes=_notes(file, programs[programs["p_type"] == elf.PT_NOTE]),
        is_partial=bool(header.e_flags & elf.DUMP_ELF_INCOMPLETE),
    )


def _check_header(header: elf.ElfHeader) -> None:
    if header.e_ident[:7] != elf.IDENT[:7]:
        raise FormatError("not a 64-bit little-endian ELF file")
    if header.e_type != elf.ET_CORE:
        raise FormatError(f"ELF type {header.e_type} is not a core file")
    if header.e_machine != elf.EM_X86_64:
        raise FormatError(f"ELF machine {header.e_machine} is not x86-64")
    if header.e_phentsize != elf.PROGRAM_HEADER.size_bytes:
        raise FormatError(f"program headers of {header.e_phentsize} bytes are not those of a 64-bit ELF file")


def _program_headers(file: File, header: elf.ElfHeader) -> Rows:
    """All PT_LOAD and PT_NOTE headers."""
    count = _program_header_count(file, header)
    if count > SEGMENTS_MAXIMUM or header.e_phoff + count * elf.PROGRAM_HEADER.size_bytes > file.size_bytes:
        raise FormatError(f"{count} program headers at {header.e_phoff} are not in the ELF core")
    tables = read_table(file, header.e_phoff, count, row_of(elf.PROGRAM_HEADER))
    wanted = [table[numpy.isin(table["p_type"], (elf.PT_LOAD, elf.PT_NOTE))] for table in tables]
    if not wanted:
        raise FormatError("the ELF core holds no memory")
    return numpy.concatenate(wanted)


def _program_header_count(file: File, header: elf.ElfHeader) -> int:
    if header.e_phnum != elf.PN_XNUM:
        return header.e_phnum
    if header.e_shoff + elf.SECTION_HEADER.size_bytes > file.size_bytes:
        raise FormatError("the section header that counts the program headers is not in the ELF core")
    section = elf.SECTION_HEADER.unpack_from(file.read(header.e_shoff, elf.SECTION_HEADER.size_bytes))
    return section.sh_info


def _memory(loads: Rows) -> PageRuns:
    sizes = numpy.maximum(loads["p_memsz"], loads["p_filesz"])
    limit = numpy.uint64(PHYSICAL_MAXIMUM_BYTES)
    if (sizes > limit).any() or (loads["p_paddr"] > limit - sizes).any():
        raise FormatError("a segment lies beyond any physical memory")
    starts, lengths = loads["p_paddr"].astype(numpy.int64), sizes.astype(numpy.int64)
    order = numpy.argsort(starts, kind="stable")
    return PageRuns.covering(starts[order], (starts + lengths)[order])


def _notes(file: File, headers: Rows) -> bytes:
    places = [(int(header["p_offset"]), int(header["p_filesz"])) for header in headers]
    total_bytes = sum(size + -size % NOTE_ALIGNMENT_BYTES for _, size in places)
    if total_bytes > NOTES_MAXIMUM_BYTES:
        raise FormatError(f"the notes of the ELF core take {total_bytes} bytes; {NOTES_MAXIMUM_BYTES} can be kept")
    notes = b"".join(itertools.chain.from_iterable(_padded_notes(file, places)))
    for _ in parse_notes(notes):
        pass
    return notes


def _padded_notes(file: File, places: list[tuple[int, int]]) -> Iterator[tuple[bytes, bytes]]:
    for offset_bytes, size_bytes in places:
        yield file.read(offset_bytes, size_bytes), bytes(-size_bytes % NOTE_ALIGNMENT_BYTES)
