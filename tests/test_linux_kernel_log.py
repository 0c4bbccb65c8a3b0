"""The kernel log of a dump: both rings, as makedumpfile and crash print them, and rings that are damaged."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dumpwriter.export.notes import pack_notes, prstatus_note, vmcoreinfo_note
from dumpwriter.linux.kernel_log import read_kernel_log
from dumpwriter.linux.log_record import LogRecord, shown
from dumpwriter.memory import kernel
from dumpwriter.memory.printk import PRINTK_VARIABLES
from dumpwriter.memory.simulated import Clock, SimulatedMemory
from dumpwriter.memory.vmcoreinfo import vmcoreinfo as kernel_vmcoreinfo
from tests.builders.lockless_ring import COMMITTED, EMPTY_LINE, FAILED, ID_MASK, RESERVED, LocklessRing, vmcoreinfo
from tests.linux_memory import PAGE, kernel_of
from tests.vmcores import run_reader, write_vmcore
from vdisk.errors import FormatError, PageMissingError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from dumpwriter.memory.physical import PhysicalMemory

MIB = 1 << 20
RING_AT = 0xE0_0000


@pytest.fixture
def simulated() -> Iterator[SimulatedMemory]:
    ticks = iter(range(10**9, 10**15, 1_234_567_890))
    with closing(SimulatedMemory(16 * MIB, clock=Clock(lambda: next(ticks), lambda: 1_700_000_000))) as simulated:
        yield simulated


@pytest.fixture(scope="module")
def shared() -> Iterator[SimulatedMemory]:
    """For tests that plant a ring of their own."""
    with closing(SimulatedMemory(16 * MIB)) as simulated:
        yield simulated


@pytest.fixture(scope="module")
def legacy() -> Iterator[SimulatedMemory]:
    """For tests that scribble over its ring."""
    with closing(SimulatedMemory(16 * MIB)) as simulated:
        yield simulated


def log_text(memory: PhysicalMemory, missing: tuple[int, ...] = ()) -> str:
    records = read_kernel_log(*kernel_of(memory, missing))
    return "".join(line + "\n" for record in records for line in record.lines())


def others_say(memory: PhysicalMemory, directory: Path, *, crash: bool = True) -> list[str]:
    """What makedumpfile and crash print of the log."""
    write_vmcore(directory / "vmcore", memory)
    run_reader("makedumpfile", "--dump-dmesg", "-f", "vmcore", "dmesg", cwd=directory)
    printed = [(directory / "dmesg").read_text()]
    if crash:
        printed.append(run_reader("crash", "--log", "vmcore", cwd=directory).lstrip("\n").rstrip("\n") + "\n")
    return printed


def plant(simulated: SimulatedMemory, ring: LocklessRing) -> None:
    """A kernel that keeps its log in a lockless ring, which lies in its direct map."""
    address = kernel.DIRECT_MAP + RING_AT
    simulated.memory.write(RING_AT, ring.build(address))
    legacy_text = kernel_vmcoreinfo(1_700_000_000).decode()
    lines = (line for line in legacy_text.splitlines() if not line.startswith("SYMBOL(log_"))
    text = "".join(line + "\n" for line in lines) + vmcoreinfo(address)
    notes = [prstatus_note(cpu, {}) for cpu in range(2)]
    simulated.memory.write_notes(pack_notes([*notes, vmcoreinfo_note(text.encode())]))


class TestLegacyRing:
    def test_it_is_what_makedumpfile_and_crash_print(self, simulated: SimulatedMemory, tmp_path: Path) -> None:
        simulated.log("boot\nsecond\ttab")
        simulated.bugcheck(0xD1, (1, 2, 3, 4), "a reason")
        ours = log_text(simulated.memory)
        assert ours.splitlines()[0] == "[    1.000000] boot"
        assert others_say(simulated.memory, tmp_path) == [ours, ours]

    def test_it_is_so_when_the_ring_has_wrapped(self, simulated: SimulatedMemory, tmp_path: Path) -> None:
        for number in range(9000):
            simulated.log(f"line {number} " + "x" * (number % 61))
        ours = log_text(simulated.memory)
        assert ours.count("\n") > 3000
        assert "line 8999 " in ours.splitlines()[-1]
        assert others_say(simulated.memory, tmp_path) == [ours, ours]

    @pytest.mark.parametrize("length", [0, 8, 16 * 1024])
    def test_a_damaged_ring_gives_the_lines_before_the_damage(self, simulated: SimulatedMemory, length: int) -> None:
        for number in range(20):
            simulated.log(f"line {number}")
        simulated.memory.write(kernel.PRINTK_BUFFER + 10 * 24 + 8, length.to_bytes(2, "little"))
        records = read_kernel_log(*kernel_of(simulated.memory))
        assert [next(records).text for _ in range(10)] == [b"line %d" % number for number in range(10)]
        with pytest.raises(FormatError, match=f"damaged: a record of {length} bytes at 240"):
            list(records)

    @settings(max_examples=300)
    @given(st.integers(0, 60), st.binary(min_size=1, max_size=40))
    def test_a_scribbled_ring_gives_lines_or_a_declared_error(
        self, legacy: SimulatedMemory, at: int, scribble: bytes
    ) -> None:
        legacy.log("a line")
        whole = legacy.memory.read(kernel.PRINTK_VARIABLES, PRINTK_VARIABLES.size_bytes)
        legacy.memory.write(kernel.PRINTK_VARIABLES + 8 + at % 20, scribble[:8])
        legacy.memory.write(kernel.PRINTK_BUFFER + at, scribble)
        with suppress(FormatError):
            assert len(list(read_kernel_log(*kernel_of(legacy.memory)))) <= kernel.PRINTK_BUFFER_BYTES // 16
        legacy.memory.write(kernel.PRINTK_VARIABLES, whole)

    def test_a_page_that_is_missing_ends_the_log_there(self, simulated: SimulatedMemory) -> None:
        for number in range(500):
            simulated.log(f"line {number}")
        records = read_kernel_log(*kernel_of(simulated.memory, missing=[kernel.PRINTK_BUFFER // PAGE + 1]))
        found: list[LogRecord] = []
        with pytest.raises(PageMissingError):
            found.extend(iter(records.__next__, None))
        assert [record.text for record in found] == [b"line %d" % number for number in range(len(found))]
        assert found


def filled(count_bits: int, size_bits: int, count: int, length: int) -> LocklessRing:
    ring = LocklessRing(count_bits, size_bits)
    for number in range(count):
        ring.add(number * 1_000_001_000, b"record %d " % number + b"y" * (number * 7 % length))
    return ring


class TestLocklessRing:
    @pytest.mark.parametrize("count", [1, 5, 63, 64, 65, 1000, 4321])
    def test_what_was_said_comes_back(self, shared: SimulatedMemory, count: int, tmp_path: Path) -> None:
        ring = filled(6, 12, count, 150)
        plant(shared, ring)
        records = list(read_kernel_log(*kernel_of(shared.memory)))
        assert records == [LogRecord(*said) for said in ring.texts()]
        assert len(records) == min(count, len(ring.records))
        assert others_say(shared.memory, tmp_path, crash=False) == [log_text(shared.memory)]

    @pytest.mark.parametrize("length", range(1, 60))
    def test_the_wrap_of_every_length(self, shared: SimulatedMemory, length: int) -> None:
        ring = filled(4, 9, 60, length)
        plant(shared, ring)
        assert list(read_kernel_log(*kernel_of(shared.memory))) == [LogRecord(*said) for said in ring.texts()]

    def test_what_was_not_committed_or_was_lost_is_left_out(self, shared: SimulatedMemory) -> None:
        ring = LocklessRing(4, 10)
        ring.add(1, b"said", COMMITTED)
        ring.add(2, b"not yet said", RESERVED)
        ring.add(3, b"", lost=FAILED)
        ring.add(4, b"", lost=EMPTY_LINE)
        ring.add(5, b"last")
        plant(shared, ring)
        texts = [(record.time_ns, record.text) for record in read_kernel_log(*kernel_of(shared.memory))]
        assert texts == [(1, b"said"), (4, b""), (5, b"last")]

    def test_an_empty_ring_has_no_lines(self, shared: SimulatedMemory) -> None:
        plant(shared, LocklessRing(4, 10))
        assert log_text(shared.memory) == ""

    def test_a_missing_page_costs_its_own_records_only(self, shared: SimulatedMemory) -> None:
        ring = filled(9, 14, 300, 50)
        plant(shared, ring)
        last_page = (RING_AT + 8 + 88 + 512 * (24 + 88) + (1 << 14)) // PAGE - 1
        records = read_kernel_log(*kernel_of(shared.memory, missing=[last_page]))
        found: list[LogRecord] = []
        with pytest.raises(PageMissingError, match=r"\d+ of 300 records of the log are not in the dump"):
            found.extend(iter(records.__next__, None))
        assert 0 < len(found) < 300

    def test_records_that_share_a_text_are_told_up_to_the_size_of_the_ring(self, shared: SimulatedMemory) -> None:
        """Else a few pages of descriptors would make a log of gigabytes."""
        ring = LocklessRing(6, 12)
        ring.add(0, b"x" * 1000)
        said = ring.records[0]
        for _ in range(60):
            ring.head_id = ring.head_id + 1 & ID_MASK
            ring.records.append(said._replace(record_id=ring.head_id))
        plant(shared, ring)
        records = read_kernel_log(*kernel_of(shared.memory))
        assert [len(next(records).text) for _ in range(4)] == [1000] * 4
        with pytest.raises(FormatError, match="its texts are longer than its 4096 bytes"):
            next(records)

    @settings(max_examples=300)
    @given(st.integers(0, 8 + 88 + 16 * (24 + 88) - 1), st.binary(min_size=1, max_size=16))
    def test_a_scribbled_ring_gives_lines_or_a_declared_error(
        self, shared: SimulatedMemory, at: int, scribble: bytes
    ) -> None:
        plant(shared, LocklessRing(4, 9))
        content = filled(4, 9, 60, 30).build(kernel.DIRECT_MAP + RING_AT)
        shared.memory.write(RING_AT, content[:at] + scribble + content[at + len(scribble) :])
        with suppress(FormatError):
            assert len(list(read_kernel_log(*kernel_of(shared.memory)))) <= 1 << 22


def test_lines_that_follow_in_one_record_stand_below_the_first() -> None:
    assert list(LogRecord(12_345_678_901, b"one\ntwo").lines()) == ["[   12.345678] one", "               two"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"tab\tstays", "tab\tstays"),
        ("grüße".encode(), "grüße"),
        (b"\x1b[2J\x07\r", "\\x1b[2J\\x07\\x0d"),
        (b"\xff\xc3", "\\xff\\xc3"),
        ("\u202e".encode(), "\\xe2\\x80\\xae"),
    ],
)
def test_a_text_cannot_steer_the_terminal(text: bytes, line: str) -> None:
    assert shown(text) == line
