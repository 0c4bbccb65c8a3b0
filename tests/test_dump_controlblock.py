"""The control block: whole, or refused."""

from __future__ import annotations

import os

import pytest

from dumpwriter.crash import controlblock
from dumpwriter.crash.controlblock import ControlBlock
from dumpwriter.formats.controlblock import MemoryMapRecord
from dumpwriter.formats.region import (
    SECONDARY_COUNT_MAX,
    ClassRunRecord,
    DumpLevel,
    MemoryRangeRecord,
    SecondaryRecord,
    SecondaryState,
)
from dumpwriter.frames import DumpIdentity
from dumpwriter.memory.physical import NOTES_AREA_BYTES
from dumpwriter.metadata import TABLES_SIZE_BYTES_MAX, Metadata, decode_metadata, encode_metadata, has_room_for_tables
from vdisk import stack
from vdisk.errors import FormatError
from vdisk.extent import Extent, ExtentMap
from vdisk.secret import Secret
from vdisk.volume import NO_KEY

BLOCK = ControlBlock(
    identity=DumpIdentity(bytes(range(16)), 7),
    armed_time_ns=1,
    disk_size_bytes=1 << 30,
    memory_size_bytes=1 << 24,
    writer_threads=2,
    machine="simulated",
    extents=ExtentMap([Extent(0, 4096, 8192), Extent(8192, 1 << 20, 4096)]),
    memory_ranges=(MemoryMapRecord(0, 1 << 24, 0),),
    page_classes=(ClassRunRecord(1, 0, 4096),),
    images=stack.clone("dump_", NO_KEY),
    level=DumpLevel.KERNEL,
    time_budget_ns=2_500_000_000,
)


def test_what_was_sealed_is_what_is_found() -> None:
    descriptor = controlblock.seal(BLOCK)
    try:
        assert controlblock.unseal(descriptor).read() == BLOCK
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def test_any_flipped_bit_is_refused() -> None:
    content = bytearray(controlblock.encode(BLOCK))
    for position in [*range(300), *range(4096, len(content), 17)]:
        content[position] ^= 4
        with pytest.raises(FormatError):
            controlblock.decode(content)
        content[position] ^= 4
    assert controlblock.decode(content) == BLOCK


@pytest.mark.parametrize("length", [0, 8, 100, 4096, 5000])
def test_a_cut_block_is_refused(length: int) -> None:
    with pytest.raises(FormatError):
        controlblock.decode(controlblock.encode(BLOCK)[:length])


def test_the_filter_gets_its_key_and_no_bit_of_it_may_be_another() -> None:
    key = Secret(bytes(range(64)))
    block = BLOCK._replace(images=stack.clone("dump_", key))
    content = bytearray(controlblock.encode(block))
    assert [image.key for image in controlblock.decode(content).images] == [NO_KEY, key, NO_KEY]
    start = content.index(key)
    for position in range(start - 32, start + 64):
        content[position] ^= 1
        with pytest.raises(FormatError):
            controlblock.decode(content)
        content[position] ^= 1


def test_a_block_that_nobody_sealed_is_refused() -> None:
    descriptor = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.write(descriptor, controlblock.encode(BLOCK))
    with pytest.raises(FormatError, match="not sealed"):
        controlblock.unseal(descriptor)
    os.close(descriptor)


def test_metadata_comes_back_and_hostile_metadata_is_refused() -> None:
    metadata = Metadata(
        b"note" * 33,
        (MemoryRangeRecord(0, 4096), MemoryRangeRecord(8192, 4096)),
        "simulated",
        DumpLevel.KERNEL,
        (ClassRunRecord(3, 0, 1), ClassRunRecord(7, 1, 1 << 30)),
        (SecondaryRecord(b"name".ljust(64, b"\0"), 7, SecondaryState.WHOLE, bytes(range(32))),),
    )
    encoded = encode_metadata(metadata)
    assert len(encoded) % 4096 == 0
    assert decode_metadata(encoded) == metadata
    for ranges in ([(4096, 4096), (0, 4096)], [(0, 0)], [(1, 4096)]):
        hostile = encode_metadata(metadata._replace(ranges=tuple(MemoryRangeRecord(*row) for row in ranges)))
        with pytest.raises(FormatError):
            decode_metadata(hostile)
    for classes in ([(1, 9, 1), (1, 0, 1)], [(1, 0, 2), (2, 1, 1)], [(1, 0, 0)], [(1, 1 << 40, 1)]):
        hostile = encode_metadata(metadata._replace(classes=tuple(ClassRunRecord(*row) for row in classes)))
        with pytest.raises(FormatError):
            decode_metadata(hostile)
    with pytest.raises(FormatError, match="more than are there"):
        decode_metadata(b"\1\0\0\0\xff\xff\xff\x7f" + bytes(100))


def test_as_many_ranges_as_arming_accepts_fit_beside_full_notes() -> None:
    blobs = (SecondaryRecord(b"b", 1, SecondaryState.WHOLE, bytes(32)),) * SECONDARY_COUNT_MAX
    full = Metadata(bytes(NOTES_AREA_BYTES), (), "x" * 64, DumpLevel.SMALL, (), blobs)
    count = TABLES_SIZE_BYTES_MAX // 16
    ranges = tuple(MemoryRangeRecord(2 * 4096 * number, 4096) for number in range(count))
    encode_metadata(full._replace(ranges=ranges))
    assert has_room_for_tables(count, 0) and not has_room_for_tables(count + 1, 0)
    classes = tuple(ClassRunRecord(1, number, 1) for number in range((count - 10) * 16 // 24))
    encode_metadata(full._replace(ranges=ranges[:10], classes=classes))
    assert has_room_for_tables(10, len(classes)) and not has_room_for_tables(10, len(classes) + 1)
