"""Where the kernel sees its memory: found in simulated tables, in moved ones, and not at all in nonsense."""

from __future__ import annotations

from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.export.about import VirtualRange
from dumpwriter.linux.address_space import TEXT_MAP, AddressSpace
from dumpwriter.linux.kernel_map import CANDIDATES_MAX, DIRECT_MAP_SIZE_BYTES, IMAGE_PIECES_MAX, virtual_ranges
from dumpwriter.linux.vmcoreinfo import Vmcoreinfo, parse_vmcoreinfo
from dumpwriter.memory import kernel
from dumpwriter.memory.simulated import SimulatedMemory
from tests.linux_memory import PAGE, SparseReader, kernel_of

MIB, GIB = 1 << 20, 1 << 30
TOP, SPARE = 0x1000, 0x10_0000
ADDRESS_BITS = 0x000F_FFFF_FFFF_F000
SHIFTS = {4: (39, 30, 21), 5: (48, 39, 30, 21)}
PRESENT, LARGE = 1, 1 << 7


def map_large_page(reader: SparseReader, levels: int, address: int, physical: int) -> None:
    """One page of 2 MiB, through tables of its own where there are none yet."""
    table = TOP
    for shift in SHIFTS[levels]:
        reader.pages.setdefault(table // PAGE, bytearray(PAGE))
        place = table + (address >> shift & 511) * 8
        if shift == 21:
            reader.write_word(place, physical | PRESENT | LARGE)
            return
        entry = int.from_bytes(reader.read_physical(place, 8), "little")
        if not entry:
            entry = SPARE + len(reader.pages) * PAGE | PRESENT
            reader.write_word(place, entry)
        table = entry & ADDRESS_BITS


def info_of(symbol: int) -> Vmcoreinfo:
    return parse_vmcoreinfo(f"SYMBOL(_stext)={symbol:x}\n".encode())


def moved(levels: int, direct_map: int, image_bytes: int, *, gap_bytes: int = 0) -> AddressSpace:
    """A kernel whose image and whose map of memory were moved; the image goes on for 2 MiB behind a gap."""
    reader = SparseReader()
    map_large_page(reader, levels, direct_map, 0)
    for inside in range(0, image_bytes, 2 * MIB):
        map_large_page(reader, levels, TEXT_MAP + 0x1E00_0000 + inside, 6 * MIB + inside)
    if gap_bytes:
        inside = image_bytes + gap_bytes
        map_large_page(reader, levels, TEXT_MAP + 0x1E00_0000 + inside, 6 * MIB + inside)
    return AddressSpace(reader, TOP, levels, ADDRESS_BITS, TEXT_MAP + GIB, 0)


def test_the_simulated_kernel() -> None:
    with closing(SimulatedMemory(20 * MIB)) as source:
        space, info = kernel_of(source.memory)
        assert virtual_ranges(space, info) == (
            VirtualRange(0, 2 * MIB, kernel.DIRECT_MAP),
            VirtualRange(2 * MIB, 2 * MIB, kernel.TEXT_MAP + 2 * MIB),
            VirtualRange(4 * MIB, DIRECT_MAP_SIZE_BYTES - 4 * MIB, kernel.DIRECT_MAP + 4 * MIB),
        )


@pytest.mark.parametrize(
    ("levels", "direct_map"),
    [(4, 0xFFFF_8880_0000_0000), (4, 0xFFFF_9AC3_4000_0000), (5, 0xFF11_0000_0000_0000), (5, 0xFF2B_7F80_C000_0000)],
)
def test_a_kernel_that_was_moved(levels: int, direct_map: int) -> None:
    space = moved(levels, direct_map, 6 * MIB)
    assert virtual_ranges(space, info_of(TEXT_MAP + 0x1E00_1000)) == (
        VirtualRange(0, 6 * MIB, direct_map),
        VirtualRange(6 * MIB, 6 * MIB, TEXT_MAP + 0x1E00_0000),
        VirtualRange(12 * MIB, DIRECT_MAP_SIZE_BYTES - 12 * MIB, direct_map + 12 * MIB),
    )


@pytest.mark.parametrize(("gap_bytes", "image_bytes"), [(2 * MIB, 10 * MIB), (8 * MIB, 16 * MIB), (10 * MIB, 6 * MIB)])
def test_an_image_goes_on_behind_what_was_given_back(gap_bytes: int, image_bytes: int) -> None:
    space = moved(4, 0xFFFF_8880_0000_0000, 6 * MIB, gap_bytes=gap_bytes)
    image = virtual_ranges(space, info_of(TEXT_MAP + 0x1E00_0000))[1]
    assert image == VirtualRange(6 * MIB, image_bytes, TEXT_MAP + 0x1E00_0000)


def test_an_image_that_is_not_mapped_is_left_out() -> None:
    space = moved(4, 0xFFFF_8880_0000_0000, 0)
    for symbol in (TEXT_MAP + 0x1E00_1000, 0, 0x1000, (1 << 64) - 1):
        everything = VirtualRange(0, DIRECT_MAP_SIZE_BYTES, 0xFFFF_8880_0000_0000)
        assert virtual_ranges(space, info_of(symbol)) == (everything,)


def test_without_tables_nothing_says_where_the_image_ends() -> None:
    space = AddressSpace(SparseReader(), TOP, 4, ADDRESS_BITS, TEXT_MAP + GIB, 0)
    assert virtual_ranges(space, info_of(TEXT_MAP)) == ()


def test_where_no_map_of_memory_is_there_the_image_still_is() -> None:
    reader = SparseReader()
    map_large_page(reader, 4, TEXT_MAP, 0)
    space = AddressSpace(reader, TOP, 4, ADDRESS_BITS, TEXT_MAP + GIB, 0)
    assert virtual_ranges(space, info_of(TEXT_MAP)) == (VirtualRange(0, 2 * MIB, TEXT_MAP),)


WORDS = st.integers(0, (1 << 64) - 1) | st.integers(0, 15).map(lambda low: 1 << 20 | low)


@given(st.lists(WORDS, min_size=1, max_size=16), st.sampled_from([4, 5]), WORDS)
@settings(deadline=None, max_examples=50)
def test_any_table_that_leads_to_itself_is_searched_in_bounded_time(words: list[int], levels: int, symbol: int) -> None:
    content = b"".join(word.to_bytes(8, "little") for word in words) * (PAGE // 8)

    class Circle:
        reads = 0

        def read_physical(self, address: int, length_bytes: int) -> bytes:
            self.reads += 1
            return content[address % PAGE :][:length_bytes]

    reader = Circle()
    space = AddressSpace(reader, TOP, levels, ADDRESS_BITS, TEXT_MAP + GIB, 0)
    end = 0
    for found in virtual_ranges(space, info_of(symbol)):
        assert found.length_bytes > 0
        assert found.physical_bytes >= end
        end = found.physical_bytes + found.length_bytes
    assert reader.reads < 6 * (CANDIDATES_MAX + IMAGE_PIECES_MAX)
