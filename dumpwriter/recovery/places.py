"""Where a disk may hold a dump: in its region, and in the places for small dumps in the boot area."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.frames import DumpIdentity
from dumpwriter.verdict import Reason
from vdisk.bootarea import RegionState, SmallDumpRecord, small_dumps, with_small_dump

if TYPE_CHECKING:
    from vdisk.bootarea import BootArea, BootRecord
    from vdisk.extent import ExtentMap

# What the boot record alone rules out. What is not in the table may hold a dump.
REASONS_BY_STATE = {
    RegionState.NONE: Reason.NEVER_ARMED,
    RegionState.TAKEN: Reason.ALREADY_TAKEN,
    RegionState.DISCARDED: Reason.DISCARDED,
    RegionState.CLEAN: Reason.CLEAN,
    RegionState.FORGOTTEN: Reason.FORGOTTEN,
    RegionState.RESUMED: Reason.RESUMED,
}


class PlaceKind(StrEnum):
    REGION = "region"
    SMALL = "small"


class Place(NamedTuple):
    """One place and what the boot record says of it. `number` counts the places of one kind."""

    kind: PlaceKind
    number: int
    state: RegionState
    identity: DumpIdentity

    @property
    def is_untaken(self) -> bool:
        """Whether a dump may be there that nobody has taken out."""
        return self.state not in REASONS_BY_STATE

    @property
    def given_up(self) -> RegionState:
        """What it is to the boots that follow, once what may be there is given up."""
        is_memory = self.state in (RegionState.HIBERNATING, RegionState.HIBERNATED)
        return RegionState.FORGOTTEN if is_memory else RegionState.DISCARDED

    @property
    def is_hibernated(self) -> bool:
        """Whether the next boot is to go on with what is there."""
        return self.state == RegionState.HIBERNATED

    def extents(self, area: BootArea, record: BootRecord) -> ExtentMap:
        """Raises `FormatError` where the record of the region is damaged."""
        return area.read_extents(record) if self.kind is PlaceKind.REGION else area.small_dump_extents(self.number)

    def recorded(self, record: BootRecord, state: RegionState) -> BootRecord:
        """The record with another state, and with this place's identity."""
        if self.kind is PlaceKind.REGION:
            return record._replace(region_state=state, **self.identity._asdict())
        return with_small_dump(record, self.number, SmallDumpRecord(*self.identity, state, 0))


def region_place(record: BootRecord) -> Place:
    identity = DumpIdentity(record.dump_id, record.generation)
    return Place(PlaceKind.REGION, 0, RegionState(record.region_state), identity)


def small_places(record: BootRecord) -> list[Place]:
    return [
        Place(PlaceKind.SMALL, number, RegionState(row.state), DumpIdentity(row.dump_id, row.generation))
        for number, row in enumerate(small_dumps(record))
    ]


def untaken_places(record: BootRecord) -> list[Place]:
    """Where dumps may be that nobody has taken out, in the order in which the machine was armed for them."""
    return [place for place in _in_order(record) if place.is_untaken]


def taken_places(record: BootRecord) -> list[Place]:
    """Where dumps were that were taken out; nobody promises that they are still whole."""
    return [place for place in _in_order(record) if place.state == RegionState.TAKEN]


def reason_for_none(record: BootRecord) -> Reason:
    """Why there is no dump in the region, or none that could be read."""
    return REASONS_BY_STATE.get(region_place(record).state, Reason.NO_DUMP)


def _in_order(record: BootRecord) -> list[Place]:
    return sorted((region_place(record), *small_places(record)), key=lambda place: place.identity.generation)
