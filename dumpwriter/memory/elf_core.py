"""Reads an ELF64 core file of a machine: where its memory lies and which notes it carries. Pure; trusts no length.

`p_filesz` bytes of a PT_LOAD are memory. What `p_memsz` adds to them was left out by whoever wrote the file, and is no
memory here. Segments may share addresses (kexec describes the kernel's text twice): both are then the same memory, and
it is taken once. Segments need not begin or end at a page; the rest of such a page is zeros.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.export import elf_format as elf
from dumpwriter.export.notes import parse_notes
from dumpwriter.memory.physical import PAGE_SIZE_BYTES
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

SEGMENTS_MAXIMUM = 1 << 20
PHYSICAL_MAXIMUM_BYTES = 1 << 52
ROUNDING_ALLOWANCE_BYTES = 1 << 20
NOTE_ALIGNMENT_BYTES = 4


class Segment(NamedTuple):
    """A piece of memory in the file, in bytes. No two of one core share an address."""

    physical_bytes: int
    length_bytes: int
    file_offset_bytes: int


class ElfCore(NamedTuple):
    """What a core file says: its memory in ascending order, and its notes as they stand in it."""

    segments: tuple[Segment, ...]
    notes: bytes

    def spans(self) -> list[tuple[int, int]]:
        """The whole pages that the segments touch, as (physical address, length) without overlap, in order."""
        spans: list[tuple[int, int]] = []
        covered_end = -1
        for segment in self.segments:
            start = segment.physical_bytes - segment.physical_bytes % PAGE_SIZE_BYTES
            end = segment.physical_bytes + segment.length_bytes
            if start <= covered_end:
                start = spans.pop()[0]
            covered_end = end + -end % PAGE_SIZE_BYTES
            spans.append((start, covered_end - start))
        return spans


def parse_elf_core(read: Callable[[int, int], bytes], file_size_bytes: int, notes_capacity_bytes: int) -> ElfCore:
    """Parse through `read(offset, length)`, which is never asked for more than the file has.

    Raises FormatError where the file is no x86-64 core of a machine, is cut off, or claims more memory than it holds.
    """
    headers = _program_headers(read, file_size_bytes)
    for header in headers:
        if header.p_offset + header.p_filesz > file_size_bytes:
            raise FormatError(f"a segment ends at {header.p_offset + header.p_filesz}: the ELF core is cut off there")
    core = ElfCore(_segments(headers), _notes(read, headers, notes_capacity_bytes))
    if not core.segments:
        raise FormatError("the ELF core holds no memory")
    if sum(length_bytes for _, length_bytes in core.spans()) > file_size_bytes + ROUNDING_ALLOWANCE_BYTES:
        raise FormatError("the segments of the ELF core claim more memory than the file holds")
    return core


def _program_headers(read: Callable[[int, int], bytes], file_size_bytes: int) -> list[elf.ProgramHeader]:
    """All PT_LOAD and PT_NOTE headers that have bytes in the file."""
    header = elf.ELF_HEADER.unpack_from(read(0, min(elf.ELF_HEADER.size_bytes, file_size_bytes)))
    _check_header(header)
    count = _program_header_count(read, header, file_size_bytes)
    table_bytes = count * elf.PROGRAM_HEADER.size_bytes
    if count > SEGMENTS_MAXIMUM or header.e_phoff + table_bytes > file_size_bytes:
        raise FormatError(f"{count} program headers at {header.e_phoff} are not in the ELF core")
    table = elf.PROGRAM_HEADER.unpack_table(read(header.e_phoff, table_bytes), 0, count)
    return [entry for entry in table if entry.p_type in (elf.PT_LOAD, elf.PT_NOTE) and entry.p_filesz]


def _check_header(header: elf.ElfHeader) -> None:
    if header.e_ident[:7] != elf.IDENT[:7]:
        raise FormatError("not a 64-bit little-endian ELF file")
    if header.e_type != elf.ET_CORE:
        raise FormatError(f"ELF type {header.e_type} is not a core file")
    if header.e_machine != elf.EM_X86_64:
        raise FormatError(f"ELF machine {header.e_machine} is not x86-64")
    if header.e_phentsize != elf.PROGRAM_HEADER.size_bytes:
        raise FormatError(f"program headers of {header.e_phentsize} bytes are not those of a 64-bit ELF file")


def _program_header_count(read: Callable[[int, int], bytes], header: elf.ElfHeader, file_size_bytes: int) -> int:
    if header.e_phnum != elf.PN_XNUM:
        return header.e_phnum
    if header.e_shoff + elf.SECTION_HEADER.size_bytes > file_size_bytes:
        raise FormatError("the section header that counts the program headers is not in the ELF core")
    section = elf.SECTION_HEADER.unpack_from(read(header.e_shoff, elf.SECTION_HEADER.size_bytes))
    return section.sh_info


def _segments(headers: Iterable[elf.ProgramHeader]) -> tuple[Segment, ...]:
    loads = [header for header in headers if header.p_type == elf.PT_LOAD]
    if len(loads) > 1 and not any(load.p_paddr for load in loads):
        raise FormatError("the ELF core has no physical addresses: it is the core of a program, not of a machine")
    for load in loads:
        if load.p_paddr + load.p_filesz > PHYSICAL_MAXIMUM_BYTES:
            raise FormatError(f"{load.p_filesz} bytes at {load.p_paddr:#x} are beyond any physical memory")
    ordered = sorted(Segment(load.p_paddr, load.p_filesz, load.p_offset) for load in loads)
    return tuple(_without_overlap(ordered))


def _without_overlap(ordered: Iterable[Segment]) -> Iterator[Segment]:
    taken_bytes = 0
    for physical_bytes, length_bytes, file_offset_bytes in ordered:
        skip_bytes = max(taken_bytes - physical_bytes, 0)
        if skip_bytes < length_bytes:
            yield Segment(physical_bytes + skip_bytes, length_bytes - skip_bytes, file_offset_bytes + skip_bytes)
            taken_bytes = physical_bytes + length_bytes


def _notes(read: Callable[[int, int], bytes], headers: Iterable[elf.ProgramHeader], capacity_bytes: int) -> bytes:
    places = [(header.p_offset, header.p_filesz) for header in headers if header.p_type == elf.PT_NOTE]
    total_bytes = sum(size + -size % NOTE_ALIGNMENT_BYTES for _, size in places)
    if total_bytes > capacity_bytes:
        raise FormatError(f"the notes of the ELF core take {total_bytes} bytes; {capacity_bytes} can be kept")
    parts = [read(offset, size) for offset, size in places]
    notes = b"".join(itertools.chain.from_iterable((part, bytes(-len(part) % NOTE_ALIGNMENT_BYTES)) for part in parts))
    for _ in parse_notes(notes):
        pass
    return notes
