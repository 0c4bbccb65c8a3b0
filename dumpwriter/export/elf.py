"""ELF64 vmcore: the layout of a dump file as gdb, drgn, crash and makedumpfile read it.

    ┌────────────┬─────────────────┬──────────────────┬───────┬─────────┬────────────┬────────────┬───┐
    │ ELF header │ program headers │ section header 0 │ notes │ padding │ page run 0 │ page run 1 │ … │
    └────────────┴─────────────────┴──────────────────┴───────┴─────────┴────────────┴────────────┴───┘

One PT_LOAD per run of present pages, `p_align` = 0 (crash finds no VMCOREINFO otherwise). `p_vaddr` is where the kernel
sees the run, for gdb, which knows no other addresses: a run is cut where that changes, and no page is in two segments,
as in the files of kexec, because leechcore opens none that overlap. Where nothing is known, `p_vaddr` = `p_paddr`. The
section header is there only where the program headers are too many for `e_phnum`. A missing page is in no PT_LOAD, so
readers report it as excluded instead of showing zeros, and an incomplete dump says so in `e_flags`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING

from dumpwriter.export import elf_format as elf
from dumpwriter.export.export import Piece
from dumpwriter.export.notes import why_unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dumpwriter.export.about import VirtualRange

DATA_ALIGNMENT_BYTES = 4096


class ElfLayout:
    """Where everything of one vmcore goes. Pure; three 64-bit numbers are kept per run.

    `runs` are (physical address, length) in ascending order; neighbours that touch are one PT_LOAD. `notes` is the
    content of a PT_NOTE segment; a dying machine may have scribbled on it, so notes that do not parse are left out and
    `notes_dropped` says why. Raises ValueError where runs overlap, are empty or not in order.
    """

    def __init__(
        self,
        runs: Iterable[tuple[int, int]],
        notes: bytes,
        *,
        partial: bool,
        virtual_ranges: Sequence[VirtualRange] = (),
    ) -> None:
        self.partial = partial
        self.notes_dropped = why_unreadable(notes)
        self._notes = b"" if self.notes_dropped else notes
        self._virtual_ranges = virtual_ranges
        cuts = sorted({cut for found in virtual_ranges for cut in (found.physical_bytes, _end(found))})
        self._starts, self._lengths = _cut(*_merge(runs), cuts)
        self._segment_count = len(self._starts) + bool(self._notes)
        self._notes_offset_bytes = self._end_of_headers()
        data_start_bytes = _align(self._notes_offset_bytes + len(self._notes))
        self._offsets = array("Q", accumulate(self._lengths, initial=data_start_bytes))
        self.size_bytes = self._offsets.pop()

    @property
    def _is_extended(self) -> bool:
        return self._segment_count >= elf.PN_XNUM

    def _end_of_headers(self) -> int:
        programs_bytes = self._segment_count * elf.PROGRAM_HEADER.size_bytes
        return elf.ELF_HEADER.size_bytes + programs_bytes + self._is_extended * elf.SECTION_HEADER.size_bytes

    def headers(self) -> Iterable[Piece]:
        yield Piece(0, self.header())

    def header(self) -> bytes:
        """Everything in front of the first page."""
        content = bytearray(self._offsets[0] if self._offsets else self.size_bytes)
        elf.ELF_HEADER.pack_into(content, 0, self._elf_header())
        position = elf.ELF_HEADER.size_bytes
        for program_header in self._program_headers():
            elf.PROGRAM_HEADER.pack_into(content, position, program_header)
            position += elf.PROGRAM_HEADER.size_bytes
        if self._is_extended:
            elf.SECTION_HEADER.pack_into(content, position, elf.SectionHeader(sh_info=self._segment_count))
        content[self._notes_offset_bytes : self._notes_offset_bytes + len(self._notes)] = self._notes
        return bytes(content)

    def _elf_header(self) -> elf.ElfHeader:
        section_offset_bytes = self._notes_offset_bytes - elf.SECTION_HEADER.size_bytes
        return elf.ElfHeader(
            e_ident=elf.IDENT,
            e_type=elf.ET_CORE,
            e_machine=elf.EM_X86_64,
            e_version=1,
            e_entry=0,
            e_phoff=elf.ELF_HEADER.size_bytes,
            e_shoff=section_offset_bytes if self._is_extended else 0,
            e_flags=elf.DUMP_ELF_INCOMPLETE if self.partial else 0,
            e_ehsize=elf.ELF_HEADER.size_bytes,
            e_phentsize=elf.PROGRAM_HEADER.size_bytes,
            e_phnum=min(self._segment_count, elf.PN_XNUM),
            e_shentsize=elf.SECTION_HEADER.size_bytes if self._is_extended else 0,
            e_shnum=int(self._is_extended),
            e_shstrndx=0,
        )

    def _program_headers(self) -> Iterable[elf.ProgramHeader]:
        if self._notes:
            size = len(self._notes)
            yield elf.ProgramHeader(elf.PT_NOTE, 0, self._notes_offset_bytes, 0, 0, size, size, 0)
        for start, length, offset in zip(self._starts, self._lengths, self._offsets, strict=True):
            virtual = self._virtual_address(start)
            yield elf.ProgramHeader(elf.PT_LOAD, elf.PF_RWX, offset, virtual, start, length, length, 0)

    def _virtual_address(self, physical_bytes: int) -> int:
        index = bisect_right(self._virtual_ranges, physical_bytes, key=itemgetter(0)) - 1
        if index < 0 or physical_bytes >= _end(self._virtual_ranges[index]):
            return physical_bytes
        return physical_bytes - self._virtual_ranges[index].physical_bytes + self._virtual_ranges[index].virtual_bytes

    def file_offset_bytes(self, physical_bytes: int) -> int:
        """Where the byte of that physical address goes; ValueError where its page is not present."""
        index = bisect_right(self._starts, physical_bytes) - 1
        if index < 0 or physical_bytes >= self._starts[index] + self._lengths[index]:
            raise ValueError(f"the page at {physical_bytes:#x} is not in the dump")
        return self._offsets[index] + physical_bytes - self._starts[index]


def _end(mapped: VirtualRange) -> int:
    return mapped.physical_bytes + mapped.length_bytes


def _merge(runs: Iterable[tuple[int, int]]) -> tuple[array[int], array[int]]:
    starts, lengths = array("Q"), array("Q")
    end = 0
    for physical_bytes, length_bytes in runs:
        if physical_bytes < end or length_bytes <= 0:
            raise ValueError(f"run of {length_bytes} bytes at {physical_bytes:#x} is empty or not in order")
        if starts and physical_bytes == end:
            lengths[-1] += length_bytes
        else:
            starts.append(physical_bytes)
            lengths.append(length_bytes)
        end = physical_bytes + length_bytes
    return starts, lengths


def _cut(starts: array[int], lengths: array[int], cuts: Sequence[int]) -> tuple[array[int], array[int]]:
    """The runs, ended and begun anew at each cut."""
    cut_starts, cut_lengths = array("Q"), array("Q")
    for start, length in zip(starts, lengths, strict=True):
        inside = cuts[bisect_right(cuts, start) : bisect_left(cuts, start + length)]
        borders = [start, *inside, start + length]
        cut_starts.extend(borders[:-1])
        cut_lengths.extend(after - before for before, after in pairwise(borders))
    return cut_starts, cut_lengths


def _align(offset_bytes: int) -> int:
    return offset_bytes + -offset_bytes % DATA_ALIGNMENT_BYTES
