"""Walks through page tables: every page size, four and five levels, and tables that lead nowhere or in a circle."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dumpwriter.linux.address_space import TEXT_MAP, AddressSpace, kernel_address_space
from dumpwriter.linux.vmcoreinfo import parse_vmcoreinfo
from dumpwriter.memory import kernel
from dumpwriter.memory.simulated import SimulatedMemory
from tests.linux_memory import PAGE, SparseReader, kernel_of
from vdisk.errors import FormatError, PageMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB, GIB = 1 << 20, 1 << 30
PRESENT, LARGE, NO_EXECUTE = 1, 1 << 7, 1 << 63
SHIFTS = {4: (39, 30, 21, 12), 5: (48, 39, 30, 21, 12)}
TOP = 0x1000
HIGH = {4: 0xFFFF_8880_0000_0000, 5: 0xFF11_0000_0000_0000}


@pytest.fixture(scope="module")
def simulated() -> Iterator[SimulatedMemory]:
    with closing(SimulatedMemory(16 * MIB)) as simulated:
        yield simulated


def mapped(address: int, page_shift: int, target: int, levels: int = 4, mask: int = 0) -> AddressSpace:
    """One page, through tables in consecutive pages from TOP on."""
    reader, table = SparseReader(), TOP
    for shift in SHIFTS[levels]:
        place = table + (address >> shift & 511) * 8
        if shift == page_shift:
            reader.write_word(place, target | mask | NO_EXECUTE | PRESENT | (LARGE if shift > 12 else 0))
            break
        table += PAGE
        reader.write_word(place, table | mask | PRESENT)
    return AddressSpace(reader, TOP, levels, 0x000F_FFFF_FFFF_F000 & ~mask, TEXT_MAP, 0)


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("page_shift", [12, 21, 30])
@pytest.mark.parametrize("mask", [0, 1 << 47])
def test_every_page_size_at_every_depth(levels: int, page_shift: int, mask: int) -> None:
    address = HIGH[levels] + 5 * GIB + 3 * (1 << page_shift)
    space = mapped(address, page_shift, 7 << 30, levels, mask)
    last = (1 << page_shift) - 1
    assert space.find(address) == (7 << 30, 1 << page_shift)
    assert space.find(address + last) == ((7 << 30) + last, 1)
    with pytest.raises(FormatError):
        space.physical(address + last + 1)


@pytest.mark.parametrize(("depth", "name"), list(enumerate(["PGD", "P4D", "PUD", "PMD", "PTE"])))
def test_an_error_says_at_which_level_the_walk_ended(depth: int, name: str) -> None:
    address = HIGH[5] + 0x1234000
    space = mapped(address, 12, 0x200000, levels=5)
    table = TOP + depth * PAGE
    assert isinstance(space.reader, SparseReader)
    space.reader.write_word(table + (address >> SHIFTS[5][depth] & 511) * 8, 0x8000)
    with pytest.raises(FormatError, match=f"{address:#x} is not mapped: its {name} at .* is 0x8000"):
        space.physical(address)
    del space.reader.pages[table // PAGE]
    with pytest.raises(PageMissingError, match=f"ended before its {name}: no page at {table:#x}"):
        space.physical(address)


@pytest.mark.parametrize(("levels", "address"), [(4, 1 << 47), (4, 0xFFFF_0000_0000_0000), (5, 1 << 56), (4, 1 << 64)])
def test_what_no_processor_takes_for_an_address_is_refused(levels: int, address: int) -> None:
    with pytest.raises(FormatError, match="no address"):
        mapped(0, 12, 0, levels).physical(address)


@given(st.integers(0, (1 << 64) - 1), st.sampled_from([4, 5]))
def test_a_table_that_leads_to_itself_ends_the_walk(address: int, levels: int) -> None:
    reader = SparseReader()
    for index in range(512):
        reader.write_word(TOP + index * 8, TOP | PRESENT)
    space = AddressSpace(reader, TOP, levels, 0x000F_FFFF_FFFF_F000, TEXT_MAP, 0)
    reader.reads = 0
    upper = address >> {4: 47, 5: 56}[levels]
    if upper in (0, (1 << (64 - {4: 47, 5: 56}[levels])) - 1):
        assert space.physical(address) == TOP + address % PAGE
        assert reader.reads == levels
    else:
        with pytest.raises(FormatError, match="no address"):
            space.physical(address)


def test_the_simulated_kernel_is_read_through_its_own_tables(simulated: SimulatedMemory) -> None:
    space, info = kernel_of(simulated.memory)
    for physical in (0, kernel.TEXT + 1, simulated.memory.size_bytes - 1):
        assert space.physical(kernel.DIRECT_MAP + physical) == physical
    for name in ("init_uts_ns", "log_buf", "mem_map"):
        assert space.physical(info.symbols[name]) == info.symbols[name] - kernel.TEXT_MAP
    assert space.read(info.symbols["init_uts_ns"] + kernel.UTS_NAME_OFFSET, 5) == b"Linux"


def test_a_read_goes_on_over_the_end_of_a_page(simulated: SimulatedMemory) -> None:
    space, _ = kernel_of(simulated.memory)
    start = 2 * MIB - 3000
    assert space.read(kernel.DIRECT_MAP + start, 9000) == simulated.memory.read(start, 9000)


def test_processes_are_read_through_tables_of_small_pages(simulated: SimulatedMemory) -> None:
    space, _ = kernel_of(simulated.memory)
    layout = kernel.KernelMap(simulated.memory.size_bytes)
    found = space._replace(top_table=layout.process_tables).physical(kernel.USER_BASE)
    assert any(found // PAGE in frames for frames in layout.user_frames())


def test_where_the_tables_are_missing_the_kernel_image_is_still_found(simulated: SimulatedMemory) -> None:
    space, info = kernel_of(simulated.memory, missing=[kernel.TOP_TABLE // PAGE])
    assert space.read(info.symbols["init_uts_ns"] + kernel.UTS_NAME_OFFSET, 5) == b"Linux"
    with pytest.raises(PageMissingError, match="PGD"):
        space.physical(kernel.DIRECT_MAP)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"SYMBOL(swapper_pg_dir)=1000\n",
        b"SYMBOL(swapper_pg_dir)=ffffffff80001008\n",
        b"SYMBOL(swapper_pg_dir)=ffffffff80001000\nNUMBER(phys_base)=-8192\n",
    ],
)
def test_a_top_table_that_cannot_be_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError, match=r"swapper_pg_dir|no page table"):
        kernel_address_space(SparseReader(), parse_vmcoreinfo(text))
