"""What the laboratory remembers changes nothing that it finds: the same cases with memory and without."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dumpwriter.frames import slot_offset_bytes
from dumpwriter.lab import remembering
from dumpwriter.lab.campaign import run_cases
from dumpwriter.lab.chance import CaseKey, Chance
from dumpwriter.lab.faults import DRAWERS, Fault
from dumpwriter.lab.judging import Recovery
from dumpwriter.lab.passage import Passages
from dumpwriter.lab.recording import Recording
from dumpwriter.lab.remembering import RememberingRecovery
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.telling import TOLD, telling
from dumpwriter.lab.world import World, build_world, recording_of
from dumpwriter.recovery import scan, slots
from vdisk.layers.trace import Event, Trace
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from dumpwriter.frames import DumpIdentity
    from vdisk.blockdevice import BlockDevice
    from vdisk.layers.mapped import Mapped

BLOCK = 4096


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(SCENARIOS["zeros"])


@pytest.mark.parametrize(("name", "cases"), [("pages", 3000), ("zeros", 3000), ("requests", 200)])
def test_a_campaign_finds_the_same_with_memory_and_without(name: str, cases: int) -> None:
    world = build_world(SCENARIOS[name])
    with_memory, without = (run_cases(world, [reader(world)], 17, range(cases)) for reader in READERS)
    assert with_memory == without
    assert with_memory.cases == cases


READERS = (RememberingRecovery, Recovery)


def test_a_memory_that_is_full_forgets_and_finds_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run_cases(world, [RememberingRecovery(world)], 17, range(300))
    monkeypatch.setattr(remembering, "CONTENTS_MAX", 2)
    monkeypatch.setattr(remembering, "VERSIONS_MAX", 3)
    assert run_cases(world, [RememberingRecovery(world)], 17, range(300)) == expected


def test_a_fault_of_recovery_is_found_with_memory_as_without(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "payload_is_true", lambda slot, frame: True)
    with_memory, without = (run_cases(world, [reader(world)], 17, range(300)) for reader in READERS)
    assert with_memory.wrong_bytes
    assert with_memory == without


def test_a_recovery_that_looks_elsewhere_is_not_remembered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lets the last byte of a slot decide, where no frame is to be."""
    read_slot = slots.read_slot

    def by_the_last_byte(region: Mapped, identity: DumpIdentity, sequence: int, buffer: memoryview) -> slots.Slot:
        try:
            last = region.read(slot_offset_bytes(sequence + 1) - 512, 512)[-1]
        except OSError:
            return slots.NOTHING
        return read_slot(region, identity, sequence, buffer) if last % 2 else slots.NOTHING

    monkeypatch.setattr(scan, "read_slot", by_the_last_byte)
    with_memory, without = (run_cases(world, [reader(world)], 17, range(100)) for reader in READERS)
    assert with_memory.disagreements
    assert with_memory == without


def told_faults(recording: Recording, count: int) -> list[tuple[Fault, ...]]:
    """One to three of each kind that the writer is told of, in turn."""
    drawn = [Chance(CaseKey("told", 0, case)) for case in range(count)]
    return [
        tuple(DRAWERS[TOLD[chance.below(len(TOLD))]][0](chance, recording) for _ in range(1 + case % 3))
        for case, chance in enumerate(drawn)
    ]


@pytest.mark.parametrize("name", ["zeros", "requests"])
def test_what_comes_to_the_disk_is_what_the_writer_run_anew_sends_there(name: str) -> None:
    recording = recording_of(build_world(SCENARIOS[name]))
    passages = Passages(recording)
    for faults in told_faults(recording, 150):
        anew = recording.again(lambda disk, faults=faults: telling(disk, faults))  # type: ignore[misc]
        assert passages.trace_under(faults) == anew


def test_writes_of_the_same_bytes_share_them(world: World) -> None:
    """So that to compare them is to compare a pointer."""
    recording = recording_of(world)
    passages = Passages(recording)
    whole = {(event.offset_bytes, event.content): event.content for event in recording.trace}
    for faults in told_faults(recording, 50):
        for event in passages.trace_under(faults):
            assert whole.get((event.offset_bytes, event.content), event.content) is event.content or not event.content


def test_a_writer_that_reads_the_disk_is_run_over_it() -> None:
    """It writes the second block only where the first does not hold what it wrote there."""
    runs = []

    def again(around: object) -> tuple[Event, ...]:
        runs.append(around)
        trace: list[Event] = []
        disk: BlockDevice = around(Trace(MemoryDisk(4 * BLOCK), trace.append))  # type: ignore[operator]
        for _ in range(2):
            try:
                disk.write_from(0, b"x" * BLOCK)
            except OSError:
                if disk.read(0, BLOCK) == b"x" * 512 + bytes(BLOCK - 512):
                    disk.write_from(BLOCK, b"y" * BLOCK)
        return tuple(trace)

    trace = again(lambda disk: disk)
    passages = Passages(Recording(bytes(4 * BLOCK), trace, again))
    short = Fault(TOLD[1], 0, length_bytes=512)
    expected = [(0, 512), (BLOCK, BLOCK), (0, BLOCK)]
    assert [(event.offset_bytes, event.length_bytes) for event in passages.trace_under([short])] == expected
