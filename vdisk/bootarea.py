"""The boot area: the last 8 MiB of the image, outside the filesystem.

It does not lie in the 1,024 bytes that ext4 leaves to boot loaders, because ext4 journals block 0 whole and a replay
puts the old bytes back (docs/DESIGN.md). Layout, in bytes from its start (docs/FORMAT.md has the fields):

    0        boot record, copy A      one sector
    4096     boot record, copy B      one sector
    16 KiB   key slot, copy A         one sector, of an encrypted disk (vdisk/keyslot.py)
    32 KiB   key slot, copy B         one sector
    64 KiB   extent table, copy A
    1 MiB    extent table, copy B
    2 MiB    three places for a small dump, 2 MiB each

A boot record is written A, flush, B, flush; so is a new extent table around the record that names its digest (table A,
record, table B). At every moment one copy of each is whole and the two agree.
"""

from __future__ import annotations

import contextlib
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Annotated, NamedTuple

import blake3

from vdisk.blockdevice import BLOCK_SIZE_BYTES, SECTOR_SIZE_BYTES
from vdisk.errors import DeviceError, FormatError, NotAnImageError
from vdisk.extent import Extent, ExtentMap, Run
from vdisk.layout import Layout, seal, unseal

if TYPE_CHECKING:
    from vdisk.blockdevice import BlockDevice

BOOT_AREA_SIZE_BYTES = 8 << 20
RECORD_OFFSETS_BYTES = (0, 4096)
EXTENT_TABLE_OFFSETS_BYTES = (64 << 10, 1 << 20)
SMALL_DUMP_OFFSETS_BYTES = (2 << 20, 4 << 20, 6 << 20)
SMALL_DUMP_SIZE_BYTES = 2 << 20
EXTENT_COUNT_MAX = 32768

_SEARCHED = "ghostdump recover searches it for a dump all the same"
COUNT_MAX = 1 << 63
MAGIC = b"GHOSTBR\0"
VERSION = 1


class BootStage(IntEnum):
    """How far the machine is, or was when it stopped. OFF is written by a clean shutdown alone, POWER_ON never."""

    OFF = 0
    POWER_ON = 1  # no driver is up that could write this
    DRIVERS = 2
    FILESYSTEM = 3
    RECOVERY = 4
    ARMING = 5
    RUNNING = 6

    @property
    def label(self) -> str:
        """As a user types and reads it."""
        return self.name.lower().replace("_", "-")


class RegionState(IntEnum):
    """What the region means to the next boot."""

    NONE = 0  # no region was ever recorded
    ARMED = 1  # a dump of this generation may be there
    TAKEN = 2  # it was copied out, durably
    DISCARDED = 3  # it was given up on request
    CLEAN = 4  # the machine that was armed was shut down: there is none
    HIBERNATING = 5  # it was shut down, and its memory was about to be written: whatever is there is not whole
    HIBERNATED = 6  # its memory is there, whole and flushed: the next boot goes on with it
    RESUMED = 7  # the memory that was there runs, or ran, on: never again from here
    FORGOTTEN = 8  # the memory that was there was given up on request


class RegionKind(IntEnum):
    """What the region is besides room for a dump."""

    DEDICATED = 0  # nothing else
    PAGEFILE = 1  # while the machine runs, pages of its memory go there and back


class IncompatibleFeature(IntFlag):
    """Features without which an image must not be touched."""

    ENCRYPTED = 1  # all but the first 2 MiB of the boot area is ciphertext; the key slots have its key


class BootRecord(NamedTuple):
    """One sector. `copy_offset_bytes` binds a copy to its place, so that a misdirected write is noticed."""

    magic: Annotated[bytes, "8s"]
    version: Annotated[int, "I"]
    features_compatible: Annotated[int, "I"]
    features_read_only_compatible: Annotated[int, "I"]
    features_incompatible: Annotated[int, "I"]
    copy_offset_bytes: Annotated[int, "Q"]
    sequence: Annotated[int, "Q"]
    disk_id: Annotated[bytes, "16s"]
    disk_size_bytes: Annotated[int, "Q"]
    filesystem_size_bytes: Annotated[int, "Q"]
    sector_size_bytes: Annotated[int, "I"]
    block_size_bytes: Annotated[int, "I"]
    memory_size_bytes: Annotated[int, "Q"]
    boot_count: Annotated[int, "Q"]
    boot_stage: Annotated[int, "I"]
    region_state: Annotated[int, "I"]
    generation: Annotated[int, "Q"]
    dump_id: Annotated[bytes, "16s"]
    region_size_bytes: Annotated[int, "Q"]
    region_extent_count: Annotated[int, "I"]
    region_kind: Annotated[int, "I"]
    region_extents_digest: Annotated[bytes, "32s"]
    small_dumps: Annotated[bytes, "96s"]  # SmallDumpRecord, one for each place
    dump_level: Annotated[int, "I"]
    parity_percent: Annotated[int, "I"]


class SmallDumpRecord(NamedTuple):
    """What a place for a small dump means to the next boot; a `RegionState`, as for the region."""

    dump_id: Annotated[bytes, "16s"]
    generation: Annotated[int, "Q"]
    state: Annotated[int, "I"]
    reserved: Annotated[int, "I"]


class ExtentRecord(NamedTuple):
    """One row of an extent table: an `Extent`."""

    logical_bytes: Annotated[int, "Q"]
    physical_bytes: Annotated[int, "Q"]
    length_bytes: Annotated[int, "Q"]


BOOT_RECORD = Layout(BootRecord, size_bytes=280)
SMALL_DUMP = Layout(SmallDumpRecord, size_bytes=32)
EXTENT = Layout(ExtentRecord, size_bytes=24)


def clear_run(disk_size_bytes: int) -> Run:
    """What an encrypted disk has in the clear: all that is read before there is a key."""
    return Run(disk_size_bytes - BOOT_AREA_SIZE_BYTES, SMALL_DUMP_OFFSETS_BYTES[0])


def record_runs(disk_size_bytes: int) -> tuple[Run, ...]:
    """Where the boot record stands: what of the boot area a clone may write, besides the place that it was given."""
    area_bytes = disk_size_bytes - BOOT_AREA_SIZE_BYTES
    return tuple(Run(area_bytes + offset, SECTOR_SIZE_BYTES) for offset in RECORD_OFFSETS_BYTES)


def new_record(
    disk_id: bytes, disk_size_bytes: int, memory_size_bytes: int, region_kind: RegionKind = RegionKind.DEDICATED
) -> BootRecord:
    """The record of a disk that never ran."""
    return BootRecord(
        magic=MAGIC,
        version=VERSION,
        features_compatible=0,
        features_read_only_compatible=0,
        features_incompatible=0,
        copy_offset_bytes=0,
        sequence=0,
        disk_id=disk_id,
        disk_size_bytes=disk_size_bytes,
        filesystem_size_bytes=disk_size_bytes - BOOT_AREA_SIZE_BYTES,
        sector_size_bytes=SECTOR_SIZE_BYTES,
        block_size_bytes=BLOCK_SIZE_BYTES,
        memory_size_bytes=memory_size_bytes,
        boot_count=0,
        boot_stage=BootStage.OFF,
        region_state=RegionState.NONE,
        generation=0,
        dump_id=bytes(16),
        region_size_bytes=0,
        region_extent_count=0,
        region_kind=region_kind,
        region_extents_digest=bytes(32),
        small_dumps=bytes(SMALL_DUMP.size_bytes * len(SMALL_DUMP_OFFSETS_BYTES)),
        dump_level=0,
        parity_percent=0,
    )


def small_dumps(record: BootRecord) -> list[SmallDumpRecord]:
    """What the record says of each place for a small dump."""
    return SMALL_DUMP.unpack_table(record.small_dumps, 0, len(SMALL_DUMP_OFFSETS_BYTES))


def with_small_dump(record: BootRecord, place: int, small_dump: SmallDumpRecord) -> BootRecord:
    rows = small_dumps(record)
    rows[place] = small_dump
    return record._replace(small_dumps=SMALL_DUMP.pack_table(rows))


def next_generation(record: BootRecord) -> int:
    """Dumps in the region and small ones are counted together, so that it is known which one is older."""
    return 1 + max(record.generation, *(row.generation for row in small_dumps(record)))


class BootArea:
    """Reads and writes the boot area of a device. Writes may raise `DeviceError`."""

    def __init__(self, device: BlockDevice) -> None:
        if device.size_bytes < 2 * BOOT_AREA_SIZE_BYTES:
            raise NotAnImageError("not a ghostdump image: it is too small to be one")
        self._device = device
        self.offset_bytes = device.size_bytes - BOOT_AREA_SIZE_BYTES

    @property
    def run(self) -> Run:
        return Run(self.offset_bytes, BOOT_AREA_SIZE_BYTES)

    def small_dump_extents(self, place: int) -> ExtentMap:
        return ExtentMap([Extent(0, self.offset_bytes + SMALL_DUMP_OFFSETS_BYTES[place], SMALL_DUMP_SIZE_BYTES)])

    def read(self) -> BootRecord:
        """The newest whole copy of the boot record.

        Raises `NotAnImageError` where neither copy is there, `FormatError` where what is there cannot be used.
        """
        sectors = self._sectors()
        found = [self._parse(sector, offset) for sector, offset in zip(sectors, RECORD_OFFSETS_BYTES, strict=True)]
        whole = [record for record in found if record is not None]
        if whole:
            return max(whole, key=lambda record: record.sequence)
        if any(sector.startswith(MAGIC) for sector in sectors):
            raise FormatError(f"both copies of the boot record are damaged ({_SEARCHED})")
        raise NotAnImageError(
            f"not a ghostdump image, or one that was cut short: there is no boot record at its end ({_SEARCHED})"
        )

    def is_marked(self) -> bool:
        """Whether a copy of the record, whole or damaged, is where it belongs.

        Raises `DeviceError` where neither place can be read.
        """
        sectors = self._sectors()
        if not any(sectors):
            raise DeviceError("neither copy of the boot record can be read")
        return any(sector.startswith(MAGIC) for sector in sectors)

    def write(self, record: BootRecord) -> BootRecord:
        """Write both copies in turn, with the next sequence number; the record as written is returned."""
        record = record._replace(sequence=record.sequence + 1)
        for offset in RECORD_OFFSETS_BYTES:
            sector = seal(BOOT_RECORD.pack(record._replace(copy_offset_bytes=offset)), SECTOR_SIZE_BYTES)
            self._device.write_through(self.offset_bytes + offset, sector)
        return record

    def write_region(self, record: BootRecord, extents: ExtentMap) -> BootRecord:
        """Record a region: its extents, and the boot record that names them by their digest."""
        assert len(extents.extents) <= EXTENT_COUNT_MAX
        self._repair_second_table(record)
        table = _encode_table(extents)
        record = record._replace(
            region_size_bytes=extents.size_bytes,
            region_extent_count=len(extents.extents),
            region_extents_digest=blake3.blake3(table).digest(),
        )
        self._write_table(EXTENT_TABLE_OFFSETS_BYTES[0], table)
        record = self.write(record)
        self._write_table(EXTENT_TABLE_OFFSETS_BYTES[1], table)
        return record

    def _write_table(self, offset_bytes: int, table: bytes) -> None:
        padded = table.ljust(-(-len(table) // SECTOR_SIZE_BYTES) * SECTOR_SIZE_BYTES, b"\0")
        self._device.write_through(self.offset_bytes + offset_bytes, padded)

    def _repair_second_table(self, record: BootRecord) -> None:
        """A cut may have left the table of the record in copy A alone, which is the one to be overwritten first."""
        if not record.region_extent_count:
            return
        with contextlib.suppress(FormatError):  # no copy is whole: there is nothing to keep
            extents = self.read_extents(record)
            self._write_table(EXTENT_TABLE_OFFSETS_BYTES[1], _encode_table(extents))

    def read_extents(self, record: BootRecord) -> ExtentMap:
        """The recorded extents of the region. Raises `FormatError` where neither copy has the recorded digest."""
        if record.region_extent_count > EXTENT_COUNT_MAX:
            raise FormatError(f"boot record names {record.region_extent_count} extents, more than there can be")
        size_bytes = record.region_extent_count * EXTENT.size_bytes
        for offset in EXTENT_TABLE_OFFSETS_BYTES:
            try:
                table = self._device.read(
                    self.offset_bytes + offset, -(-size_bytes // SECTOR_SIZE_BYTES) * SECTOR_SIZE_BYTES
                )[:size_bytes]
            except DeviceError:
                continue  # the other copy is there for this
            if blake3.blake3(table).digest() == record.region_extents_digest:
                rows = EXTENT.unpack_table(table, 0, record.region_extent_count)
                return ExtentMap(Extent(*row) for row in rows)
        raise FormatError("both copies of the region's extent table are damaged")

    def _sectors(self) -> list[bytes]:
        return [self._sector(self.offset_bytes + offset) for offset in RECORD_OFFSETS_BYTES]

    def _sector(self, offset_bytes: int) -> bytes:
        try:
            return self._device.read(offset_bytes, SECTOR_SIZE_BYTES)
        except DeviceError:
            return b""  # an unreadable copy is a lost copy

    def _parse(self, sector: bytes, offset_bytes: int) -> BootRecord | None:
        try:
            record = BOOT_RECORD.unpack_from(unseal(sector))
        except FormatError:
            return None
        if record.magic != MAGIC:
            return None
        if record.disk_size_bytes != self._device.size_bytes:
            raise NotAnImageError(
                f"image was cut short or grown: it has {self._device.size_bytes} bytes, not {record.disk_size_bytes} "
                f"({_SEARCHED})"
            )
        if record.copy_offset_bytes != offset_bytes:
            return None
        if record.version != VERSION or record.features_incompatible & ~sum(IncompatibleFeature):
            raise FormatError(f"image has format version {record.version}: a newer ghostdump wrote it")
        if max(record.sequence, record.boot_count, next_generation(record)) >= COUNT_MAX:
            raise FormatError("boot record has counts that no machine can have reached")
        if not _has_known_states(record):
            raise FormatError("boot record has a stage or a region state that does not exist")
        return record


def _has_known_states(record: BootRecord) -> bool:
    states = set(RegionState)
    return (
        record.boot_stage in set(BootStage)
        and record.region_state in states
        and all(row.state in states for row in small_dumps(record))
        and record.region_kind in set(RegionKind)
    )


def _encode_table(extents: ExtentMap) -> bytes:
    return EXTENT.pack_table([ExtentRecord(*extent) for extent in extents.extents])
