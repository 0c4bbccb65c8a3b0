"""Checks of what stands beside the frames: boot record and extent table, metadata, control block, the rehearsal."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dumpwriter.crash import controlblock
from dumpwriter.crash.controlblock import ControlBlock
from dumpwriter.crash.rehearsal import rehearse
from dumpwriter.formats.controlblock import MemoryMapRecord
from dumpwriter.formats.region import (
    META_RECORD,
    ClassRunRecord,
    DumpLevel,
    MemoryRangeRecord,
    MetaKind,
    MetaRecord,
    SecondaryRecord,
)
from dumpwriter.frames import DumpIdentity
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import Specimen, Subject, disk_of
from dumpwriter.lab.enumeration import cuts, epochs, state_after
from dumpwriter.metadata import Metadata, decode_metadata, encode_metadata
from dumpwriter.recovery.places import untaken_places
from vdisk import stack
from vdisk.bootarea import (
    BOOT_AREA_SIZE_BYTES,
    SMALL_DUMP,
    BootArea,
    BootRecord,
    RegionState,
    SmallDumpRecord,
    new_record,
    next_generation,
    with_small_dump,
)
from vdisk.errors import DeviceError, FormatError, NotAnImageError
from vdisk.extent import Extent, ExtentMap
from vdisk.layers.mapped import Mapped
from vdisk.layers.trace import Event, Trace
from vdisk.memorydisk import MemoryDisk
from vdisk.volume import NO_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

DISK_SIZE_BYTES = 2 * BOOT_AREA_SIZE_BYTES
FIRST_EXTENTS = ExtentMap([Extent(0, 4096, 8192), Extent(8192, 65536, 4096)])
SECOND_EXTENTS = ExtentMap([Extent(0, 131072, 8192)])
METADATA = Metadata(
    b"some notes",
    (MemoryRangeRecord(4096, 8192), MemoryRangeRecord(65536, 4096)),
    "check",
    DumpLevel.KERNEL,
    (ClassRunRecord(1, 1, 1), ClassRunRecord(4, 16, 1)),
    (SecondaryRecord(b"a".ljust(64, b"\0"), 1, 1, bytes(32)),),
)
BLOCK = ControlBlock(
    identity=DumpIdentity(bytes(range(16)), 7),
    armed_time_ns=1,
    disk_size_bytes=1 << 30,
    memory_size_bytes=1 << 24,
    writer_threads=2,
    machine="check",
    extents=ExtentMap([Extent(0, 4096, 8192), Extent(8192, 1 << 20, 4096)]),
    memory_ranges=(MemoryMapRecord(0, 1 << 24, 0),),
    page_classes=(ClassRunRecord(1, 0, 4096),),
    images=stack.clone("dump_", NO_KEY),
    level=DumpLevel.KERNEL,
    time_budget_ns=2_500_000_000,
)


def boot_records_that_were_cut() -> None:
    """Every state of a record and of a region being written anew: the old one or the new one, each with its extents."""
    disk = MemoryDisk(DISK_SIZE_BYTES)
    first = BootArea(disk).write_region(new_record(bytes(16), DISK_SIZE_BYTES, 1 << 20), FIRST_EXTENTS)
    for rewrite in (_write_another_region, _write_the_record):
        before, trace = bytes(disk.content), list[Event]()
        traced = disk_of(before)
        after = rewrite(BootArea(Trace(traced, trace.append)))
        must(BootArea(traced).read() == after, "what was written is not what is read")
        for flushes, epoch in enumerate(epochs(before, trace)):
            for cut in cuts(epoch):
                area = BootArea(state_after(epoch, cut))
                found = area.read()._replace(copy_offset_bytes=0)
                _must_agree(area, found in (first._replace(copy_offset_bytes=0), after))
                is_due = rewrite is _write_the_record and flushes > 0  # its first copy is the first write
                must(found == after or not is_due, "a boot record that was flushed is not the one that is read")
        _second_copies(traced)


def _write_another_region(area: BootArea) -> BootRecord:
    return area.write_region(area.read(), SECOND_EXTENTS)._replace(copy_offset_bytes=0)


def _write_the_record(area: BootArea) -> BootRecord:
    return area.write(area.read()._replace(boot_count=5))._replace(copy_offset_bytes=0)


def _must_agree(area: BootArea, is_known: bool) -> None:
    must(is_known, "a cut leaves a boot record that was never written")
    extents = area.read_extents(area.read())
    expected = FIRST_EXTENTS if area.read().region_extent_count == 2 else SECOND_EXTENTS
    must(extents == expected, "a cut leaves a boot record with the extents of another region")


def _second_copies(disk: MemoryDisk) -> None:
    """Behind the last flush each copy alone is enough."""
    for start, length in ((0, 4096), (4096, 4096), (64 << 10, 4096), (1 << 20, 4096)):
        damaged = disk_of(disk.content)
        damaged.write_from(DISK_SIZE_BYTES - BOOT_AREA_SIZE_BYTES + start, bytes(length))
        area = BootArea(damaged)
        must(area.read().sequence == BootArea(disk).read().sequence, f"a record without the copy at {start}")
        must(
            area.read_extents(area.read()) == BootArea(disk).read_extents(BootArea(disk).read()), "extents of one copy"
        )


def boot_records_that_cannot_be() -> None:
    """Copies in each other's place, damaged in any byte, or of a disk of another size: not one of them is taken."""
    disk = MemoryDisk(DISK_SIZE_BYTES)
    BootArea(disk).write_region(new_record(bytes(16), DISK_SIZE_BYTES, 1 << 20), FIRST_EXTENTS)
    area_bytes = DISK_SIZE_BYTES - BOOT_AREA_SIZE_BYTES
    first, second = disk.read(area_bytes, 512), disk.read(area_bytes + 4096, 512)
    swapped = disk_of(disk.content)
    swapped.write_from(area_bytes, second)
    swapped.write_from(area_bytes + 4096, first)
    must(_raises(BootArea(swapped).read), "copies of the boot record are believed in each other's place")
    for at in range(0, 512, 7):
        damaged = disk_of(disk.content)
        for place in (area_bytes, area_bytes + 4096):
            damaged.content[place + at] ^= 1
        must(_raises(BootArea(damaged).read), f"a boot record that is damaged at {at} is believed")
    grown = disk_of(bytes(4096) + bytes(disk.content))
    must(_raises(BootArea(grown).read), "the boot record of a disk of another size is believed")
    for place in (64 << 10, 1 << 20):
        disk.content[area_bytes + place + 8] ^= 1
    must(_raises(lambda: BootArea(disk).read_extents(BootArea(disk).read())), "damaged extents are believed")


def generations() -> None:
    """Small dumps and the region's are counted together, and come out in that order."""
    record = new_record(bytes(16), DISK_SIZE_BYTES, 1 << 20)._replace(generation=4, region_state=RegionState.ARMED)
    for place, generation in enumerate((9, 2, 6)):
        record = with_small_dump(record, place, SmallDumpRecord(bytes(16), generation, RegionState.ARMED, 0))
    must(next_generation(record) == 10, f"the generation behind 9 is {next_generation(record)}")
    order = [place.identity.generation for place in untaken_places(record)]
    must(order == [2, 4, 6, 9], f"dumps come out in the order {order}")
    for state in (RegionState.TAKEN, RegionState.DISCARDED, RegionState.CLEAN, RegionState.RESUMED):
        order = [place.identity.generation for place in untaken_places(record._replace(region_state=state))]
        must(order == [2, 6, 9], f"a region that is {state.name} is looked at for a dump")


def metadata_that_cannot_be() -> None:
    """What was encoded is what is decoded; records that contradict each other or themselves are refused."""
    payload = encode_metadata(METADATA)
    must(decode_metadata(payload) == METADATA, "metadata is not read as it was written")
    for what, ranges in (
        ("half pages", [(4096, 4196)]),
        ("overlapping ranges", [(4096, 8192), (8192, 4096)]),
        ("descending ranges", [(65536, 4096), (4096, 4096)]),
        ("an empty range", [(4096, 0)]),
        ("memory without end", [(4096, (1 << 64) - 4096)]),
    ):
        rows = tuple(MemoryRangeRecord(*row) for row in ranges)
        must(_raises(_decoder(encode_metadata(METADATA._replace(ranges=rows)))), f"metadata with {what} is taken")
    for classes in ([(1, 1, 2), (2, 2, 1)], [(1, 5, 1), (2, 1, 1)], [(1, 1, 0)], [(1, 1 << 40, 1)]):
        named = tuple(ClassRunRecord(*row) for row in classes)
        must(_raises(_decoder(encode_metadata(METADATA._replace(classes=named)))), f"classes {classes} are taken")
    long = META_RECORD.pack(MetaRecord(MetaKind.NOTES, 1 << 31)) + payload
    must(_raises(_decoder(long)), "a record longer than the metadata is taken")
    unknown = META_RECORD.pack(MetaRecord(99, 3)) + b"new\0\0\0\0\0" + payload
    must(decode_metadata(unknown) == METADATA, "a record of a kind that is not known is not passed over")
    level = decode_metadata(payload.replace(_level(DumpLevel.KERNEL), _level(77))).level
    must(level == DumpLevel.COMPLETE, f"a level that is not known asks for no more than {level.name}")


def tables_that_are_short() -> None:
    """No row is read behind the end of what is there, nor fewer than were asked for."""
    whole = SMALL_DUMP.pack_table([SmallDumpRecord(bytes([n]) * 16, n, n, 0) for n in range(3)])
    for offset_bytes in range(0, len(whole) + 1, 8):
        for count in range(5):
            is_there = offset_bytes + count * SMALL_DUMP.size_bytes <= len(whole)
            read = partial(SMALL_DUMP.unpack_table, whole, offset_bytes, count)
            must(_raises(read) != is_there, f"{count} rows are read from {offset_bytes} of {len(whole)} bytes")
    must(_raises(partial(SMALL_DUMP.unpack_table, whole, 0, -1)), "fewer than no rows are read")


def control_blocks_that_changed() -> None:
    """Any byte of it changed, or the end of it gone: it is refused before anything in it is used."""
    content = controlblock.encode(BLOCK)
    must(controlblock.decode(content) == BLOCK, "a control block is not read as it was written")
    for at in (*range(192), 193, 4095, *range(4096, len(content), 97), len(content) - 1):
        changed = bytearray(content)
        changed[at] ^= 4
        for use in (controlblock.check, controlblock.decode):
            must(_raises(lambda use=use, changed=changed: use(changed)), f"a control block changed at {at} is used")  # type: ignore[misc]
    for end in (0, 191, 4096, len(content) - 1):
        must(_raises(lambda end=end: controlblock.decode(content[:end])), f"{end} bytes of a control block are used")  # type: ignore[misc]


def rehearsals() -> None:
    """The region is afterwards as it was before; a disk that loses or changes what it takes is told."""
    specimen = Specimen(Subject("rehearsed", {0: 1}, slots=3))
    before = bytes(specimen.disk.content)
    rehearse(Mapped(specimen.disk, specimen.extents))
    must(specimen.disk.content == before, "a rehearsal leaves a trace")
    for lies in (_Losing, _Flipping):
        must(_raises(lambda lies=lies: rehearse(Mapped(lies(disk_of(before)), specimen.extents))), "a lie is believed")  # type: ignore[misc]


class _Losing(Trace):
    """Says of every write that it was done."""

    def __init__(self, lower: MemoryDisk) -> None:
        super().__init__(lower, lambda _: None)

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        """Nothing is written."""


class _Flipping(_Losing):
    """Changes a bit of every write."""

    def write_from(self, offset_bytes: int, buffer: Buffer) -> None:
        content = bytearray(buffer)
        content[-1] ^= 1
        self.lower.write_from(offset_bytes, content)


def _level(number: int) -> bytes:
    return META_RECORD.pack(MetaRecord(MetaKind.LEVEL, 8)) + number.to_bytes(8, "little")


def _decoder(payload: bytes) -> Callable[[], object]:
    return lambda: decode_metadata(payload)


def _raises(act: Callable[[], object]) -> bool:
    """Whether it is refused by an error that is declared for it."""
    try:
        act()
    except (FormatError, DeviceError, NotAnImageError):
        return True
    return False
