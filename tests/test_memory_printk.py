"""The log ring: order, wrap-around, and appends that are cut off or interrupted at any point."""

from __future__ import annotations

import struct
import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest

from dumpwriter.memory.physical import PhysicalMemory
from dumpwriter.memory.printk import PRINTK_VARIABLES, PrintkRing, RingPlace
from tests.builders.printk_reader import TEXT_MAP, read_log

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLES, BUFFER, SIZE = 0x1000, 0x2000, 512
PLACE = RingPlace(VARIABLES, BUFFER, TEXT_MAP + BUFFER, SIZE)


@pytest.fixture
def memory() -> Iterator[PhysicalMemory]:
    with closing(PhysicalMemory.create([(0, 0x3000)])) as memory:
        yield memory


def line(number: int) -> bytes:
    """Lines of different lengths, so that a new one needs the place of none, one or several old ones."""
    return b"number %03d " % number + b"x" * (number * 53 % 97)


def new_ring(memory: PhysicalMemory) -> PrintkRing:
    return PrintkRing(memory, PLACE)


def texts(memory: PhysicalMemory) -> list[str]:
    places = {field.name: field.offset_bytes for field in PRINTK_VARIABLES.fields}
    vmcoreinfo = "\n".join(f"SYMBOL({name})={TEXT_MAP + VARIABLES + at:x}" for name, at in places.items())
    return [line.text for line in read_log(memory.read, vmcoreinfo)]


def test_an_empty_ring_has_no_lines(memory: PhysicalMemory) -> None:
    new_ring(memory)
    assert texts(memory) == []


def test_lines_come_back_in_order(memory: PhysicalMemory) -> None:
    ring = new_ring(memory)
    for text in (b"one", b"", b"three"):
        ring.append(6, 7, text)
    assert texts(memory) == ["one", "", "three"]


@pytest.mark.parametrize("length", range(60))
def test_the_newest_lines_survive_the_wrap(memory: PhysicalMemory, length: int) -> None:
    ring = new_ring(memory)
    written = []
    for number in range(200):
        written.append(f"{number:03d}" + "x" * (length + number % 3))
        ring.append(6, number, written[-1].encode())
        kept = texts(memory)
        assert kept == written[-len(kept) :]
    record_bytes = 16 + len(written[-1]) + 8
    assert len(kept) >= (SIZE - 16) // record_bytes - 2


def test_a_long_text_is_cut(memory: PhysicalMemory) -> None:
    ring = PrintkRing(memory, PLACE._replace(size_bytes=2048))
    ring.append(6, 0, b"z" * 5000)
    assert texts(memory) == ["z" * 992]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("before", range(16))
@pytest.mark.parametrize("survived", range(5))
def test_killed_before_any_write_the_log_is_readable(
    memory: PhysicalMemory, monkeypatch: pytest.MonkeyPatch, before: int, survived: int
) -> None:
    ring = new_ring(memory)
    for number in range(before):
        ring.append(6, 0, line(number))
    write, left = PhysicalMemory.write, survived

    def write_until_killed(self: PhysicalMemory, physical_bytes: int, content: bytes) -> None:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        write(self, physical_bytes, content)

    monkeypatch.setattr(PhysicalMemory, "write", write_until_killed)
    with suppress(Killed):
        ring.append(6, 0, line(before))
    lines = texts(memory)
    everything = [line(number).decode() for number in range(before + 1)]
    assert lines in (everything[len(everything) - len(lines) :], everything[-1 - len(lines) : -1])
    assert len(lines) >= min(before, 2)


def append_interrupted(ring: PrintkRing, text: bytes, event_number: int) -> bool:
    """Append, and append two other lines where Python could run a signal handler for the n-th time."""
    seen = 0

    def at_event(_frame: object, event: str, _argument: Any) -> None:
        nonlocal seen
        if event in ("call", "c_return", "return"):
            if seen == event_number:
                ring.append(0, 0, b"BUG: interrupted")
                ring.append(0, 0, b"Kernel panic")
            seen += 1

    sys.setprofile(at_event)
    try:
        ring.append(6, 0, text)
    finally:
        sys.setprofile(None)
    return seen > event_number


@pytest.mark.parametrize("before", range(0, 16, 3))
def test_interrupted_anywhere_by_another_append_no_line_is_lost(memory: PhysicalMemory, before: int) -> None:
    was_interrupted, event_number = True, 0
    while was_interrupted:
        ring = new_ring(memory)
        for number in range(before):
            ring.append(6, 0, line(number))
        was_interrupted = append_interrupted(ring, b"the interrupted line", event_number)
        if was_interrupted:
            lines = texts(memory)
            expected = {"the interrupted line", "BUG: interrupted", "Kernel panic"}
            assert set(lines[-3:]) == expected, f"interrupted at event {event_number}"
            assert lines.index("BUG: interrupted") + 1 == lines.index("Kernel panic")
            ring.append(6, 0, b"life goes on")
            assert texts(memory)[-1] == "life goes on"
        event_number += 1
    assert event_number > 20, "the profile saw too few places to interrupt"


@pytest.mark.parametrize("length", [0, 1, 8, 504, 0x8000, 0xFFFF])
def test_a_scribbled_ring_neither_hangs_the_writer_nor_leads_it_astray(memory: PhysicalMemory, length: int) -> None:
    ring = new_ring(memory)
    for number in range(20):
        memory.write(BUFFER, struct.pack("<QHHHH", 0, length, 0, 0, 0) * (SIZE // 16))
        ring.append(6, 0, line(number))
        variables = PRINTK_VARIABLES.unpack_from(memory.read(VARIABLES, PRINTK_VARIABLES.size_bytes))
        assert max(variables.log_first_idx, variables.log_next_idx) + 16 <= SIZE
    assert memory.read(BUFFER + SIZE, 0x3000 - BUFFER - SIZE) == bytes(0x3000 - BUFFER - SIZE)
