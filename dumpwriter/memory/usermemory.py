"""The memory of the simulated processes, as their page tables have it: pages are used, moved out and moved in.

Each move is done in an order in which a process that is killed half-way leaves a memory that is right: an entry that
maps a frame always maps the page's own bytes.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from dumpwriter.memory import structures
from dumpwriter.memory.contents import USE_COUNT_OFFSET_BYTES
from dumpwriter.memory.kernel import PAGE_DESCRIPTOR, PROCESS_TABLE
from dumpwriter.memory.physical import PAGE_SIZE_BYTES
from dumpwriter.memory.processes import Processes, frame_of, resident_entry, swap_entry
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from dumpwriter.memory.kernel import KernelMap
    from dumpwriter.memory.physical import PhysicalMemory

_WORD_BYTES = 8
_WORD_MASK = (1 << 64) - 1


def start_processes(memory: PhysicalMemory, layout: KernelMap) -> None:
    """Lay all processes out, with every page in a frame."""
    processes, frames = Processes(layout), layout.user_frames()
    memory.write(PROCESS_TABLE, processes.table_of_processes())
    memory.write(layout.process_tables, processes.page_tables([*itertools.chain(*frames)]))
    first = 0
    for run in frames:
        pages = range(first, first + len(run))
        memory.write(run.start * PAGE_SIZE_BYTES, b"".join(map(processes.content, pages)))
        descriptors = b"".join(structures.user_descriptor(processes.address(page)) for page in pages)
        memory.write(layout.page_descriptors + run.start * PAGE_DESCRIPTOR.size_bytes, descriptors)
        first = pages.stop


class UserMemory:
    """Pages by their number, page frames by theirs."""

    def __init__(self, memory: PhysicalMemory, layout: KernelMap) -> None:
        self._memory = memory
        self.processes = Processes(layout)

    def entry(self, page: int) -> int:
        """The page table entry of a page."""
        return self._word(self.processes.entry_address(page))

    def frames(self) -> dict[int, int]:
        """The frame of each page, of a memory that no pager works on yet.

        Raises `FormatError` where the tables are not as processes have them that nothing was paged out of.
        """
        entries = {page: self.entry(page) for page in range(self.processes.page_count)}
        frames = {page: frame for page, entry in entries.items() if (frame := frame_of(entry)) is not None}
        if sorted(frames.values()) != [*itertools.chain(*self.processes.layout.user_frames())]:
            raise FormatError("the page tables of the simulated processes are not whole")
        return frames

    def use(self, frame: int) -> None:
        """What a running process does to a page: read it and write to it."""
        place = frame * PAGE_SIZE_BYTES + USE_COUNT_OFFSET_BYTES
        self._write_word(place, self._word(place) + 1 & _WORD_MASK)

    def read(self, frame: int) -> bytes:
        return self._memory.read(frame * PAGE_SIZE_BYTES, PAGE_SIZE_BYTES)

    def move_out(self, page: int, frame: int, slot: int) -> None:
        """Say that the page is in a slot of the page file, where it must be by now, and free its frame."""
        self._write_word(self.processes.entry_address(page), swap_entry(slot))
        self._memory.write(frame * PAGE_SIZE_BYTES, bytes(PAGE_SIZE_BYTES))
        self._describe(frame, structures.free_descriptor(0))

    def move_in(self, page: int, frame: int, content: bytes) -> None:
        self._memory.write(frame * PAGE_SIZE_BYTES, content)
        self._describe(frame, structures.user_descriptor(self.processes.address(page)))
        self._write_word(self.processes.entry_address(page), resident_entry(frame))

    def _describe(self, frame: int, descriptor: bytes) -> None:
        self._memory.write(self.processes.layout.page_descriptors + frame * PAGE_DESCRIPTOR.size_bytes, descriptor)

    def _word(self, physical_bytes: int) -> int:
        return int.from_bytes(self._memory.read(physical_bytes, _WORD_BYTES), "little")

    def _write_word(self, physical_bytes: int, word: int) -> None:
        self._memory.write(physical_bytes, word.to_bytes(_WORD_BYTES, "little"))
