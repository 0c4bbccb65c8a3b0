"""The laboratory carries a dump out step by step: what a fault leaves of it, it leaves of the writer's threads, too."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from dumpwriter.crash import writer
from dumpwriter.crash.dump import Progress
from dumpwriter.crash.writer import WriterThreads, write_dump
from dumpwriter.lab import world as laboratory
from dumpwriter.lab.faults import Fault, FaultKind
from dumpwriter.lab.passage import Passages
from dumpwriter.lab.scenario import SCENARIOS
from dumpwriter.lab.telling import Hung
from dumpwriter.lab.world import World, build_world, recording_of
from tests.mounting import wait_until
from vdisk.blockdevice import BlockDevice, Layer
from vdisk.errors import DeviceError
from vdisk.memorydisk import MemoryDisk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

WRITER_THREADS = 4
SECTOR = 512
WORLD = build_world(SCENARIOS["requests"])
FRAME_WRITES = [number for number, event in enumerate(WORLD.trace) if event.length_bytes > 4096]


@pytest.fixture
def threads() -> Iterator[WriterThreads]:
    made = WriterThreads(WRITER_THREADS)
    yield made
    made.close()


class FailsOnceAt(Layer):
    """The first write to a place comes so far, and then fails or is not answered until the test is over."""

    def __init__(self, lower: BlockDevice, place_bytes: int, taken_bytes: int, *, hangs: bool) -> None:
        super().__init__(lower)
        self._place_bytes: int | None = place_bytes
        self._taken_bytes = taken_bytes
        self._hangs = hangs
        self.is_over = threading.Event()

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        if offset_bytes != self._place_bytes:
            self.lower.write_from(offset_bytes, buffer)
            return
        self._place_bytes = None
        self.lower.write_from(offset_bytes, memoryview(buffer)[: self._taken_bytes])
        if self._hangs:
            self.is_over.wait()
            raise Hung
        raise DeviceError("no more of it")

    write_through = BlockDevice.write_through


def left_in_the_laboratory(world: World, fault: Fault) -> bytes:
    state = Passages(recording_of(world)).state_after([fault])
    return state.read(0, state.size_bytes)


@pytest.mark.parametrize("kind", [FaultKind.HANGING, FaultKind.SHORT_WRITE])
@pytest.mark.parametrize("operation", FRAME_WRITES[:: len(FRAME_WRITES) // 5])
async def test_a_fault_leaves_of_the_threads_what_it_leaves_in_the_laboratory(
    threads: WriterThreads, monkeypatch: pytest.MonkeyPatch, kind: FaultKind, operation: int
) -> None:
    """The stall watch ends the dump; the threads that it leaves to themselves write what there is to write."""
    if kind == FaultKind.HANGING:
        monkeypatch.setattr(writer, "STALL_SECONDS", 0.1)
    expected = left_in_the_laboratory(WORLD, Fault(kind, operation, length_bytes=SECTOR))
    disk = MemoryDisk(len(WORLD.before), WORLD.before)
    place_bytes = WORLD.trace[operation].offset_bytes
    faulty = FailsOnceAt(disk, place_bytes, SECTOR, hangs=kind == FaultKind.HANGING)
    progress = Progress()
    job = laboratory._job(WORLD, faulty)
    await write_dump(job, threads, progress, lambda: None, lambda: laboratory.END_TIME_NS)
    wait_until(lambda: disk.content == expected, "the disk as the laboratory has it")
    assert progress.is_committed == (kind != FaultKind.HANGING)
    faulty.is_over.set()
