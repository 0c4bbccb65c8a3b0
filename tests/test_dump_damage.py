"""Damage in the memory of a standby never reaches the disk: it is found, or the write guard refuses it."""

from __future__ import annotations

import ctypes
import random

import pytest

from dumpwriter.crash import controlblock, dump
from dumpwriter.crash.controlblock import PrivateBlock
from dumpwriter.crash.dump import REQUEST_BUFFER_SIZE_BYTES, Progress
from dumpwriter.machine import regionwatch
from tests.dumping import DumpBench
from tests.test_dump_controlblock import BLOCK
from vdisk.errors import FormatError, WriteRefusedError
from vdisk.extent import Extent, ExtentMap
from vdisk.layers.mapped import Mapped
from vdisk.layers.write_guard import WriteGuard


def test_any_bad_write_into_a_private_block_is_found() -> None:
    block = PrivateBlock(controlblock.encode(BLOCK))
    memory = memoryview((ctypes.c_ubyte * block.size_bytes).from_address(block.address)).cast("B")
    source = random.Random(4)
    for _ in range(1000):
        length = source.choice((1, 2, 8, 64))
        start = source.randrange(block.size_bytes - length)
        kept = bytes(memory[start : start + length])
        memory[start : start + length] = bytes(byte ^ source.randrange(1, 256) for byte in kept)
        for use in (block.check, block.read):
            with pytest.raises(FormatError):
                use()
        memory[start : start + length] = kept
    assert block.read() == BLOCK


def test_extents_that_change_after_the_check_lead_to_no_other_block() -> None:
    """The map that the region goes by is damaged; the guard is what was made of the checked block."""
    assert sum(is_refused(seed) for seed in range(100)) > 4


def is_refused(seed: int) -> bool:
    """Write a dump by a damaged map. Whether a write was refused: not every damage leads out of the region."""
    bench = DumpBench(200, pieces=6, seed=seed)
    source = random.Random(seed)
    damaged = list(bench.extents.extents)
    index, away_bytes = source.randrange(len(damaged)), source.randrange(1, 12) * 4096
    damaged[index] = damaged[index]._replace(physical_bytes=max(0, damaged[index].physical_bytes - away_bytes))
    try:
        extents = ExtentMap(damaged)
    except FormatError:
        return False  # a map that contradicts itself is found anyway
    outside = outside_bytes(bench)
    guard = WriteGuard(bench.disk, list(bench.extents.runs(0, bench.extents.size_bytes)))
    job, progress = bench.job()._replace(extents=extents, region=Mapped(guard, extents)), Progress()
    buffer = memoryview(bytearray(REQUEST_BUFFER_SIZE_BYTES))
    dump.begin(job, progress)
    for request in job.plan.requests():
        dump.write_request(job, request, buffer, progress)
    assert outside_bytes(bench) == outside
    return "write guard" in progress.failure


def outside_bytes(bench: DumpBench) -> bytes:
    """What is on the disk beside the region."""
    content = bytearray(bench.disk.content)
    for start, length in bench.extents.runs(0, bench.extents.size_bytes):
        content[start : start + length] = bytes(length)
    return bytes(content)


def test_the_guard_keeps_its_own_list() -> None:
    runs = list(DumpBench(100).extents.runs(0, 4096))
    guard = WriteGuard(DumpBench(100).disk, runs)
    runs.append(runs[0]._replace(physical_bytes=0, length_bytes=1 << 20))
    with pytest.raises(WriteRefusedError):
        guard.write_from(0, bytes(4096))


class LiesAt:
    """A region file that lies somewhere, or cannot be looked at."""

    path = "/dump.bin"

    def __init__(self, found: ExtentMap | OSError | None) -> None:
        self._found = found

    def extents(self) -> ExtentMap | None:
        if isinstance(self._found, OSError):
            raise self._found
        return self._found


def test_a_region_that_moved_is_known() -> None:
    recorded = ExtentMap([Extent(0, 8192, 4096), Extent(4096, 1 << 20, 8192)])
    assert regionwatch.why_moved(LiesAt(recorded), recorded) is None
    moved = ExtentMap([Extent(0, 8192, 12288)])
    for found in (moved, None, OSError(5, "Input/output error")):
        assert "/dump.bin" in str(regionwatch.why_moved(LiesAt(found), recorded))
