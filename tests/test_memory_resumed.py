"""A machine goes on from the memory that it left: no byte changes by that, and its log continues."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest

from dumpwriter.memory import kernel
from dumpwriter.memory.loading import load_image
from dumpwriter.memory.physical import NOTES_AREA_BYTES, PhysicalMemory
from dumpwriter.memory.printk import PRINTK_VARIABLES, PrintkRing, find_ring
from dumpwriter.memory.processes import resident_entry, swap_entry
from dumpwriter.memory.resumed import resumed
from dumpwriter.memory.simulated import RING, SimulatedMemory
from tests.test_memory_printk import PLACE, SIZE, line, new_ring, texts
from tests.test_memory_printk import memory as memory
from tests.test_memory_simulated import log_of
from vdisk.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path


def whole(memory: PhysicalMemory) -> bytes:
    return os.pread(memory.fd, memory.size_bytes + NOTES_AREA_BYTES, 0)


def test_a_simulated_machine_goes_on_without_a_changed_byte() -> None:
    with closing(SimulatedMemory(16 << 20)) as before:
        before.log("the last line before\nand another")
        content = whole(before.memory)
        after = resumed("simulated", before.memory)
        assert whole(before.memory) == content
        assert after.page_classes() == before.page_classes()
        after.log("the first line after")
        after.bugcheck(0xD1, (1, 2, 3, 4), "later")
        lines = log_of(after)
        assert [found.text for found in lines[:3]] == ["the last line before", "and another", "the first line after"]
        assert lines[-1].text.startswith("Kernel panic")
        assert [found.ts_nsec for found in lines] == sorted(found.ts_nsec for found in lines)


def test_the_uptime_goes_on() -> None:
    with closing(SimulatedMemory(16 << 20)) as before:
        PrintkRing(before.memory, RING).append(6, 5_000 * 10**9, b"up for long")
        after = resumed("simulated", before.memory)
        after.log("later")
        assert [found.ts_nsec // 10**9 for found in log_of(after)] == [5000, 5000]


def test_an_image_goes_on_without_its_file(tmp_path: Path) -> None:
    path = tmp_path / "memory.raw"
    path.write_bytes(os.urandom(50_000))
    with closing(load_image(str(path))) as before:
        path.unlink()
        after = resumed("image", before.memory)
        assert after.page_classes() == before.page_classes()
        assert after.kind == "image"


@pytest.mark.parametrize("count", range(0, 40, 3))
def test_a_ring_goes_on_wherever_it_stands(memory: PhysicalMemory, count: int) -> None:
    ring = new_ring(memory)
    for number in range(count):
        ring.append(6, number, line(number))
    content, kept = whole(memory), texts(memory)
    found = find_ring(memory, PLACE)
    assert found.newest_ns == max(0, count - 1)
    ring = PrintkRing(memory, PLACE, found)
    assert whole(memory) == content
    ring.append(6, count, line(count))
    assert texts(memory) == [*kept, line(count).decode()][-len(texts(memory)) :]


@pytest.mark.parametrize("field", [field.name for field in PRINTK_VARIABLES.fields if field.name != "clear_idx"])
@pytest.mark.parametrize("value", [1, 8, SIZE, 0xFFFF_FFFF])
def test_variables_of_no_ring_are_refused(memory: PhysicalMemory, field: str, value: int) -> None:
    ring = new_ring(memory)
    for number in range(3):
        ring.append(6, number, line(number))
    good = PRINTK_VARIABLES.unpack_from(memory.read(PLACE.variables, PRINTK_VARIABLES.size_bytes))
    if getattr(good, field) == value:
        return
    memory.write(PLACE.variables, PRINTK_VARIABLES.pack(good._replace(**{field: value})))
    with pytest.raises(FormatError, match="no ring"):
        find_ring(memory, PLACE)


def test_any_bytes_in_the_ring_end_in_a_refusal_or_a_ring(memory: PhysicalMemory) -> None:
    new_ring(memory).append(6, 1, b"one")
    good = memory.read(PLACE.buffer, SIZE)
    for where in range(24):
        for value in (0, 1, 7, 8, 16, 255):
            memory.write(PLACE.buffer, good[:where] + bytes([value]) + good[where + 1 :])
            with suppress(FormatError):
                assert find_ring(memory, PLACE).variables.log_next_seq == 1


@pytest.mark.parametrize("spans", [[(0, 4096)], [(0, 16 << 20), (32 << 20, 4096)], [(4096, 16 << 20)], [(0, 16 << 20)]])
def test_a_memory_that_no_simulated_machine_left_is_refused(spans: list[tuple[int, int]]) -> None:
    with closing(PhysicalMemory.create(spans)) as memory, pytest.raises(FormatError):
        resumed("simulated", memory)
    with closing(PhysicalMemory.create([(0, kernel.MEMORY_MINIMUM_BYTES)])) as memory, pytest.raises(FormatError):
        resumed("toaster", memory)


@pytest.mark.parametrize("entry", [0, swap_entry(5), resident_entry(0), resident_entry(1 << 30)])
def test_page_tables_that_do_not_hold_are_refused(entry: int) -> None:
    with closing(SimulatedMemory(16 << 20)) as before:
        assert before.user_memory is not None
        where = before.user_memory.processes.entry_address(7)
        good = before.memory.read(where, 8)
        before.memory.write(where, entry.to_bytes(8, "little"))
        with pytest.raises(FormatError, match="page tables"):
            resumed("simulated", before.memory)
        before.memory.write(where, before.memory.read(before.user_memory.processes.entry_address(8), 8))
        with pytest.raises(FormatError, match="page tables"):
            resumed("simulated", before.memory)
        before.memory.write(where, good)
        after = resumed("simulated", before.memory)
        assert after.user_memory is not None
        assert after.user_memory.frames() == before.user_memory.frames()
