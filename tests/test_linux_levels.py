"""Dump levels: for every level the very pages that makedumpfile writes, of memories of every kind."""

from __future__ import annotations

import random
import struct
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.export.notes import pack_notes, prstatus_note, vmcoreinfo_note
from dumpwriter.formats.region import PageRun
from dumpwriter.linux.levels import LEVELS, PageFilter, zero_pages
from dumpwriter.linux.page_rules import Left
from dumpwriter.linux.vmcoreinfo import Vmcoreinfo, find_vmcoreinfo, parse_vmcoreinfo
from dumpwriter.memory import kernel
from dumpwriter.memory.simulated import SimulatedMemory
from dumpwriter.memory.source import PageClass
from dumpwriter.memory.vmcoreinfo import vmcoreinfo
from tests.builders.kdump_reader import KdumpFile
from tests.linux_memory import PAGE, SimulatedReader
from tests.vmcores import run_reader, write_vmcore
from vdisk.errors import FormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from dumpwriter.memory.physical import PhysicalMemory

MIB = 1 << 20
PAGES = 16 * MIB // PAGE
MEMORY = [PageRun(0, PAGES)]
SECTIONS_AT = 0xE0_0000
HWPOISON, OFFLINE, SLAB = 23, -257, 1 << 9
EVERYTHING = (
    f"NUMBER(PG_hwpoison)={HWPOISON}\nNUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)={OFFLINE}\nLENGTH(zone.free_area)=11\n"
)
FLAGS = (0, 0, 1 << 4, 1 << 4, 1 << 9, 1 << 10, 1 << 10 | 1 << 19, 1 << 13, 1 << 13 | 1 << 4, 1 << 16, 1 << HWPOISON)
MAPCOUNTS = (-1, -1, 0, kernel.BUDDY_MAPCOUNT, OFFLINE)


@pytest.fixture
def simulated() -> Iterator[SimulatedMemory]:
    with closing(SimulatedMemory(16 * MIB)) as simulated:
        yield simulated


def say(simulated: SimulatedMemory, more: str) -> None:
    """Add lines to VMCOREINFO."""
    text = vmcoreinfo(1_700_000_000) + more.encode()
    simulated.memory.write_notes(pack_notes([prstatus_note(0, {}), vmcoreinfo_note(text)]))


def kept(memory: PhysicalMemory, level: int) -> set[int]:
    chosen = PageFilter(MEMORY, SimulatedReader(memory), find_vmcoreinfo(memory.read_notes()), level)
    excluded = {page for run in chosen.excluded() for page in range(run.first_page, run.first_page + run.page_count)}
    assert chosen.undescribed == 0
    return set(range(PAGES)) - excluded


def makedumpfile_keeps(directory: Path, level: int) -> KdumpFile:
    run_reader("makedumpfile", "-d", str(level), "-f", "vmcore", "filtered", cwd=directory)
    return KdumpFile((directory / "filtered").read_bytes())


def must_agree(simulated: SimulatedMemory, directory: Path, levels: Iterable[int] = LEVELS) -> None:
    write_vmcore(directory / "vmcore", simulated.memory)
    for level in levels:
        assert kept(simulated.memory, level) == set(makedumpfile_keeps(directory, level).dumped), f"level {level}"


def write_descriptors(simulated: SimulatedMemory, seed: int, *, aligned: bool = False) -> None:
    """Descriptors of every kind, in no order that a kernel would keep; the first MiB stays as it was.

    Free blocks that are not aligned overlap each other, and the ends of sections.
    """
    numbers = random.Random(seed)
    table = kernel.KernelMap(simulated.memory.size_bytes).page_descriptors
    for page in range(256, PAGES):
        chosen = numbers.choice(FLAGS) | numbers.choice(FLAGS)
        order, destructor = numbers.choice((0, 1, 2, 3, 5, 9, 64, 200)), numbers.choice((0, 1, 2, 2))
        compound_head = numbers.choice((0, 0, 0, 0xFFFF888000000001))
        is_slab = chosen & SLAB  # what stands in its `mapping` is judged by newer versions of makedumpfile only
        mapping = numbers.choice((0, 0xFFFF888000000000) if is_slab else (0, 0xFFFF888000000000, 0xFFFF888000000001))
        private = numbers.choice((0, 0, 1, 2, 3, 6, 10, 11, 77))
        private = min(private, (page & -page).bit_length() - 1, 9) if aligned else private
        mapcount = numbers.choice(MAPCOUNTS)
        content = struct.pack(
            "<QQBB6xQQQii8x", chosen, compound_head, destructor, order, mapping, 0, private, mapcount, 1
        )
        simulated.memory.write(table + page * 64, content)


def test_every_level_keeps_what_makedumpfile_keeps(simulated: SimulatedMemory, tmp_path: Path) -> None:
    must_agree(simulated, tmp_path)


@pytest.mark.parametrize("seed", [1, 2])
def test_so_with_descriptors_of_every_kind(simulated: SimulatedMemory, tmp_path: Path, seed: int) -> None:
    write_descriptors(simulated, seed)
    say(simulated, EVERYTHING)
    must_agree(simulated, tmp_path)


@pytest.mark.parametrize("seed", range(3, 13))
def test_so_at_the_highest_levels(simulated: SimulatedMemory, tmp_path: Path, seed: int) -> None:
    write_descriptors(simulated, seed)
    say(simulated, EVERYTHING)
    must_agree(simulated, tmp_path, (6, 12, 31))


@pytest.mark.parametrize(("has_roots", "by_pointer"), [(False, False), (True, False), (True, True)])
def test_so_where_memory_is_in_sections(
    simulated: SimulatedMemory, tmp_path: Path, *, has_roots: bool, by_pointer: bool
) -> None:
    """Sections of 2 MiB, of which the kernel does not describe the fourth, nor the last one."""
    write_descriptors(simulated, 99, aligned=True)
    table = kernel.direct_address(kernel.KernelMap(simulated.memory.size_bytes).page_descriptors)
    sections = b"".join(struct.pack("<QQ", table | 3 if number not in (3, 7) else 0, 0) for number in range(8))
    simulated.memory.write(SECTIONS_AT, sections)
    array_at = kernel.direct_address(SECTIONS_AT)
    if has_roots:
        simulated.memory.write(SECTIONS_AT + PAGE, struct.pack("<Q", array_at).ljust(PAGE, b"\0"))
        array_at += PAGE
    if by_pointer:
        simulated.memory.write(SECTIONS_AT + 2 * PAGE, struct.pack("<Q", array_at))
        array_at += PAGE
    count = 1 << 36 - 21
    say(
        simulated,
        f"SYMBOL(mem_section)={array_at:x}\nSIZE(mem_section)=16\nOFFSET(mem_section.section_mem_map)=0\n"
        f"NUMBER(SECTION_SIZE_BITS)=21\nNUMBER(MAX_PHYSMEM_BITS)=36\n"
        f"LENGTH(mem_section)={count // 256 if has_roots else count}\n" + EVERYTHING,
    )
    write_vmcore(tmp_path / "vmcore", simulated.memory)
    for level in (0, 1, 2, 16, 31):
        filtered = PageFilter(MEMORY, SimulatedReader(simulated.memory), vmcoreinfo_of(simulated), level)
        excluded = {page for run in filtered.excluded() for page in range(run[0], sum(run))}
        assert set(range(PAGES)) - excluded == set(makedumpfile_keeps(tmp_path, level).dumped)
        assert filtered.undescribed == 512  # at every level, since PG_hwpoison is named


def vmcoreinfo_of(simulated: SimulatedMemory) -> Vmcoreinfo | None:
    return find_vmcoreinfo(simulated.memory.read_notes())


def test_pages_of_zeros_are_those_that_makedumpfile_stores_once(simulated: SimulatedMemory, tmp_path: Path) -> None:
    write_vmcore(tmp_path / "vmcore", simulated.memory)
    filtered = makedumpfile_keeps(tmp_path, 1)
    zeros = set(np.flatnonzero(zero_pages(memoryview(simulated.memory.read(0, 16 * MIB)))).tolist())
    places = {filtered.descriptor(page).offset for page in zeros}
    assert len(zeros) > 1000
    assert len(places) == 1
    assert {page for page in filtered.dumped if filtered.descriptor(page).offset in places} == zeros


def test_each_page_is_left_out_for_its_class(simulated: SimulatedMemory) -> None:
    judged = PageFilter(MEMORY, SimulatedReader(simulated.memory), vmcoreinfo_of(simulated), 31).judge()
    found = np.concatenate([left for _, left in judged])
    reasons = {PageClass.USER: Left.USER, PageClass.CACHE: Left.CACHE, PageClass.FREE: Left.FREE}
    for run in simulated.page_classes():
        of_run = set(found[run.first_page : run.first_page + run.page_count].tolist())
        assert of_run == {reasons.get(run.page_class, Left.KEPT)}


def test_without_vmcoreinfo_only_zero_pages_can_be_left_out(simulated: SimulatedMemory) -> None:
    reader = SimulatedReader(simulated.memory)
    for level in (0, 1):
        assert list(PageFilter(MEMORY, reader, None, level).excluded()) == []
    for level in (2, 16, 31):
        with pytest.raises(FormatError, match=f"level {level} needs VMCOREINFO"):
            PageFilter(MEMORY, reader, None, level)


@pytest.mark.parametrize("level", [-1, 32])
def test_other_numbers_are_no_levels(simulated: SimulatedMemory, level: int) -> None:
    with pytest.raises(UsageError, match="0 to 31"):
        PageFilter(MEMORY, SimulatedReader(simulated.memory), None, level)


def test_pages_whose_descriptors_are_missing_are_kept(simulated: SimulatedMemory) -> None:
    table = kernel.KernelMap(simulated.memory.size_bytes).page_descriptors // PAGE
    info = vmcoreinfo_of(simulated)
    whole = kept(simulated.memory, 31)
    filtered = PageFilter(MEMORY, SimulatedReader(simulated.memory, missing=[table + 40]), info, 31)
    excluded = {page for run in filtered.excluded() for page in range(run[0], sum(run))}
    of_missing = set(range(40 * 64, 41 * 64))
    assert set(range(PAGES)) - excluded == whole | (of_missing - excluded)
    assert filtered.undescribed == 64
    everything = PageFilter(MEMORY, SimulatedReader(simulated.memory, missing=range(table, table + 64)), info, 31)
    with pytest.raises(FormatError, match="no page descriptor can be read"):
        list(everything.excluded())


def test_memory_that_a_file_only_claims_costs_no_time(simulated: SimulatedMemory) -> None:
    reader, info = SimulatedReader(simulated.memory), vmcoreinfo_of(simulated)
    claimed = [PageRun(0, 1 << 40)]
    with pytest.raises(FormatError, match="the 4096 pages in the dump cannot hold the descriptors of 1099511627776"):
        PageFilter(claimed, reader, info, 31)
    assert list(PageFilter(claimed, reader, info, 1).excluded()) == []


@settings(max_examples=200)
@given(
    st.sampled_from(
        (
            *("SIZE(page)", "OFFSET(page.flags)", "OFFSET(page.compound_order)", "OFFSET(folio._folio_order)"),
            *("NUMBER(PG_lru)", "NUMBER(PG_head_mask)", "NUMBER(PG_hugetlb)", "NUMBER(PG_hwpoison)", "NUMBER(PG_slab)"),
            *("NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)", "NUMBER(HUGETLB_PAGE_DTOR)", "LENGTH(zone.free_area)"),
        )
    ),
    st.integers(-(1 << 63), (1 << 64) - 1) | st.integers(-5, 70),
    st.integers(0, 31),
)
def test_any_vmcoreinfo_gives_pages_or_a_declared_error(name: str, value: int, level: int) -> None:
    info = parse_vmcoreinfo(vmcoreinfo(0) + f"{name}={value}\n".encode())
    try:
        runs = list(PageFilter(MEMORY, SimulatedReader(SHARED.memory), info, level).excluded())
    except FormatError:
        return
    assert all(0 <= run.first_page < sum(run) <= PAGES for run in runs)


SHARED = SimulatedMemory(16 * MIB)
