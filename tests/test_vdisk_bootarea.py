"""The boot area: two copies of everything, of which one is whole at every moment."""

from __future__ import annotations

import contextlib
import os

import pytest

from vdisk.blockdevice import BlockDevice, Layer
from vdisk.bootarea import EXTENT_TABLE_OFFSETS_BYTES, RECORD_OFFSETS_BYTES, BootArea, BootStage, new_record
from vdisk.errors import FormatError, NotAnImageError, PowerLost
from vdisk.extent import Extent, ExtentMap
from vdisk.layers.trace import Event, Trace
from vdisk.memorydisk import MemoryDisk

SIZE_BYTES = 16 << 20
OLD = ExtentMap([Extent(0, 4096, 8192)])
NEW = ExtentMap([Extent(0, 1 << 20, 4096), Extent(4096, 2 << 20, 1 << 20)])


def fresh_area() -> tuple[MemoryDisk, BootArea]:
    disk = MemoryDisk(SIZE_BYTES)
    area = BootArea(disk)
    area.write(new_record(os.urandom(16), SIZE_BYTES, 1 << 20))
    return disk, area


def test_what_was_written_is_read() -> None:
    _, area = fresh_area()
    record = area.write_region(area.read()._replace(boot_stage=BootStage.RUNNING), NEW)
    read = area.read()
    assert read._replace(copy_offset_bytes=0) == record._replace(copy_offset_bytes=0)
    assert area.read_extents(read) == NEW


@pytest.mark.parametrize("lost", range(len(RECORD_OFFSETS_BYTES)))
def test_either_copy_is_enough(lost: int) -> None:
    disk, area = fresh_area()
    record = area.write_region(area.read(), NEW)
    for offset in (RECORD_OFFSETS_BYTES[lost], EXTENT_TABLE_OFFSETS_BYTES[lost]):
        disk.content[area.offset_bytes + offset + 20] ^= 1
    assert area.read().sequence == record.sequence
    assert area.read_extents(area.read()) == NEW


def test_a_copy_in_the_place_of_the_other_is_no_copy() -> None:
    disk, area = fresh_area()
    first, second = (area.offset_bytes + offset for offset in RECORD_OFFSETS_BYTES)
    disk.content[first : first + 512] = disk.content[second : second + 512]
    disk.content[second : second + 512] = bytes(512)
    with pytest.raises(FormatError, match="damaged"):
        area.read()


def test_every_bit_of_the_record_is_guarded() -> None:
    disk, area = fresh_area()
    for offset in RECORD_OFFSETS_BYTES[1:]:
        disk.content[area.offset_bytes + offset] ^= 1
    for byte in range(512):
        disk.content[area.offset_bytes + byte] ^= 0x10
        with pytest.raises((FormatError, NotAnImageError)):
            area.read()
        disk.content[area.offset_bytes + byte] ^= 0x10


class TearsAt(Layer):
    """Lets `writes` requests through and tears the next one after `sectors` sectors."""

    def __init__(self, lower: BlockDevice, writes: int, sectors: int) -> None:
        super().__init__(lower)
        self.left, self.sectors = writes, sectors

    def write_through(self, offset_bytes: int, buffer: object) -> None:
        content = bytes(buffer)  # type: ignore[call-overload]
        if not self.left:
            self.lower.write_from(offset_bytes, content[: self.sectors * 512])
            raise PowerLost
        self.left -= 1
        self.lower.write_from(offset_bytes, content)


@pytest.mark.parametrize("writes", range(5))
@pytest.mark.parametrize("sectors", [0, 1])
def test_a_region_change_cut_anywhere_leaves_the_old_or_the_new_region(writes: int, sectors: int) -> None:
    disk, area = fresh_area()
    area.write_region(area.read(), OLD)
    with contextlib.suppress(PowerLost):
        BootArea(TearsAt(disk, writes, sectors)).write_region(area.read(), NEW)
    record = area.read()
    assert area.read_extents(record) in (OLD, NEW)
    assert area.read_extents(record).size_bytes == record.region_size_bytes


def test_each_copy_is_flushed_before_the_next_is_touched() -> None:
    disk, area = fresh_area()
    events: list[Event] = []
    BootArea(Trace(disk, events.append)).write(area.read())
    assert [event.kind for event in events] == ["write", "flush", "write", "flush"]


def test_what_is_no_image_is_told_from_what_is_damaged() -> None:
    with pytest.raises(NotAnImageError, match="too small"):
        BootArea(MemoryDisk(4096))
    with pytest.raises(NotAnImageError, match="no boot record"):
        BootArea(MemoryDisk(SIZE_BYTES)).read()
    disk, area = fresh_area()
    grown = MemoryDisk(SIZE_BYTES + 4096 * 1024, bytes(4096 * 1024) + bytes(disk.content))
    with pytest.raises(NotAnImageError, match="cut short or grown"):
        BootArea(grown).read()
    area.write(area.read()._replace(features_incompatible=2))
    with pytest.raises(FormatError, match="newer"):
        area.read()
    area = fresh_area()[1]
    area.write(area.read()._replace(region_state=99))
    with pytest.raises(FormatError, match="does not exist"):
        area.read()


def test_two_regions_changes_cut_one_after_the_other_leave_one_whole_table() -> None:
    third = ExtentMap([Extent(0, 3 << 20, 8192)])
    for first_cut in range(6):
        for second_cut in range(8):
            disk, area = fresh_area()
            area.write_region(area.read(), OLD)
            for cut, region in ((first_cut, NEW), (second_cut, third)):
                with contextlib.suppress(PowerLost):
                    BootArea(TearsAt(disk, cut, 0)).write_region(area.read(), region)
                assert area.read_extents(area.read()) in (OLD, NEW, third)


@pytest.mark.parametrize("field", ["sequence", "boot_count", "generation"])
def test_counts_that_no_machine_reaches_are_refused(field: str) -> None:
    _, area = fresh_area()
    area.write(area.read()._replace(**{field: (1 << 64) - 2}))  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="counts"):
        area.read()
