"""The simulated processes: which page is whose, and the page tables that say where it lies. Pure.

The pages of all processes are numbered together and dealt out in turn: page 0 is the first page of the first process,
page 1 the first page of the second. Their tables stand one process behind the other: three upper ones, then the lowest.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, NamedTuple

from dumpwriter.memory import kernel, structures
from dumpwriter.memory.contents import user_page
from dumpwriter.memory.physical import PAGE_SIZE_BYTES
from vdisk.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Sequence

_UPPER_TABLES = 3
_WORD_MASK = (1 << 64) - 1
_FRAME_MASK = 0x000F_FFFF_FFFF_F000
_SWAP_TYPE_BITS = 5
_SWAP_OFFSET_SHIFT = 14


class ProcessRecord(NamedTuple):
    """A row of the table at `kernel.PROCESS_TABLE`, which a row of zeros ends."""

    process_id: Annotated[int, "Q"]
    top_table: Annotated[int, "Q"]  # physical address
    page_count: Annotated[int, "Q"]  # from kernel.USER_BASE on
    name: Annotated[bytes, "16s"]


PROCESS_RECORD = Layout(ProcessRecord, size_bytes=40)


@dataclass(frozen=True)
class Processes:
    """The processes of a kernel. Addresses are physical where nothing else is said."""

    layout: kernel.KernelMap

    @property
    def page_count(self) -> int:
        return len(kernel.PROCESSES) * self.layout.pages_per_process

    def process_id(self, page: int) -> int:
        return kernel.PROCESSES[page % len(kernel.PROCESSES)][0]

    def address(self, page: int) -> int:
        """The virtual address at which its process has the page."""
        return kernel.USER_BASE + page // len(kernel.PROCESSES) * PAGE_SIZE_BYTES

    def content(self, page: int) -> bytes:
        """What the page holds at first."""
        return user_page(self.process_id(page), self.address(page))

    def entry_address(self, page: int) -> int:
        """Where the entry of the lowest table stands that maps the page."""
        index, process = divmod(page, len(kernel.PROCESSES))
        lowest = self._tables(process) + _UPPER_TABLES * PAGE_SIZE_BYTES
        return lowest + index * struct.calcsize("Q")

    def table_of_processes(self) -> bytes:
        rows = [
            ProcessRecord(process_id, self._tables(number), self.layout.pages_per_process, name.encode())
            for number, (process_id, name) in enumerate(kernel.PROCESSES)
        ]
        return PROCESS_RECORD.pack_table([*rows, ProcessRecord(0, 0, 0, b"")])

    def page_tables(self, frames: Sequence[int]) -> bytes:
        """The tables of all processes, with page n in the n-th frame."""
        count = len(kernel.PROCESSES)
        return b"".join(self._tables_of(number, frames[number::count]) for number in range(count))

    def _tables_of(self, process: int, frames: Sequence[int]) -> bytes:
        _, upper, middle, lowest = (self._tables(process) + level * PAGE_SIZE_BYTES for level in range(4))
        below = {
            structures.entry_number(kernel.USER_BASE, structures.MIDDLE_SHIFT) + index: lowest + index * PAGE_SIZE_BYTES
            for index in range(self.layout.tables_per_process - _UPPER_TABLES)
        }
        entries = struct.pack(f"<{len(frames)}Q", *map(resident_entry, frames))
        return b"".join(
            (
                structures.table(
                    structures.top_entries() | {structures.entry_number(kernel.USER_BASE, structures.TOP_SHIFT): upper}
                ),
                structures.table({structures.entry_number(kernel.USER_BASE, structures.UPPER_SHIFT): middle}),
                structures.table(below),
                entries.ljust(len(below) * PAGE_SIZE_BYTES, b"\0"),
            )
        )

    def _tables(self, process: int) -> int:
        return self.layout.process_tables + process * self.layout.tables_per_process * PAGE_SIZE_BYTES


def resident_entry(frame: int) -> int:
    """A page table entry that maps a page frame."""
    return frame * PAGE_SIZE_BYTES | kernel.USER_PAGE_FLAGS


def swap_entry(slot: int) -> int:
    """A page table entry of a page that is out: the block of the page file stands in it inverted, as Linux has it."""
    return (~slot << _SWAP_OFFSET_SHIFT & _WORD_MASK) >> _SWAP_TYPE_BITS


def frame_of(entry: int) -> int | None:
    """The page frame that an entry maps; None where the page is out."""
    return (entry & _FRAME_MASK) // PAGE_SIZE_BYTES if entry & kernel.PRESENT else None


def slot_of(entry: int) -> int:
    """The block of the page file that the entry of a page names that is out."""
    return (~entry << _SWAP_TYPE_BITS & _WORD_MASK) >> _SWAP_OFFSET_SHIFT
