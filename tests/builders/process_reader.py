"""Reads the simulated processes as a debugger would, from VMCOREINFO and memory. Imports nothing of the product."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TEXT_MAP = 0xFFFFFFFF80000000
USER_BASE = 0x5555_5560_0000


class ProcessPage(NamedTuple):
    """A page of a process. `frame` is where it is in memory, `slot` where in the page file: one of them is None."""

    process_id: int
    address: int
    frame: int | None
    slot: int | None


def read_processes(read: Callable[[int, int], bytes], vmcoreinfo: str) -> list[ProcessPage]:
    """All pages of all processes; ValueError where a table in between is missing."""
    found = re.search(r"SYMBOL\(ghostdump_processes\)=(\w+)", vmcoreinfo)
    if found is None:
        raise ValueError("VMCOREINFO names no processes")
    return [page for row in _rows(read, int(found[1], 16) - TEXT_MAP) for page in _pages(read, *row)]


def _rows(read: Callable[[int, int], bytes], place: int) -> Iterator[tuple[int, int, int]]:
    while True:
        process_id, top_table, page_count, _ = struct.unpack("<QQQ16s", read(place, 40))
        if process_id == 0:
            return
        yield process_id, top_table, page_count
        place += 40


def _pages(
    read: Callable[[int, int], bytes], process_id: int, top_table: int, page_count: int
) -> Iterator[ProcessPage]:
    for address in range(USER_BASE, USER_BASE + page_count * 4096, 4096):
        entry = walk(read, top_table, address)
        if entry & 1:
            yield ProcessPage(process_id, address, (entry & 0x000F_FFFF_FFFF_F000) >> 12, None)
        else:
            # Linux since 4.18: the offset in the swap file stands inverted in bits 9 to 58, its type in the 5 above.
            yield ProcessPage(process_id, address, None, ~entry >> 9 & (1 << 50) - 1)


def walk(read: Callable[[int, int], bytes], table: int, address: int) -> int:
    """The entry of the lowest table for a virtual address."""
    for shift in (39, 30, 21, 12):
        entry = int.from_bytes(read(table + (address >> shift & 511) * 8, 8), "little")
        if shift > 12 and not entry & 1:
            raise ValueError(f"no table for {address:#x}")
        table = entry & 0x000F_FFFF_FFFF_F000
    return entry
