"""The dumps of earlier runs, taken out at boot: from the region and the boot area into the disk's own filesystem.

There may be several: a machine that crashes before it could take the last dump out leaves a small one beside it. They
come out in the order in which the machine was armed for them. While a dump is in the region nobody gets its blocks, a
copy of it included. They are given back, and a place is marked, only after the copy is durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dumpwriter.machine.regionfile import RegionFile
from dumpwriter.recovery.diskstore import DiskStore
from dumpwriter.recovery.extraction import extract
from dumpwriter.recovery.offline import may_be_marked, source_of
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.places import PlaceKind, reason_for_none, region_place
from dumpwriter.recovery.report import describe_nothing, headline
from dumpwriter.verdict import Verdict
from vdisk.bootarea import RegionKind, RegionState
from vdisk.errors import FormatError, RecoveryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.recovery.extraction import Extraction
    from dumpwriter.recovery.places import Place
    from dumpwriter.recovery.retention import Retention
    from vdisk.blockdevice import BlockDevice
    from vdisk.bootarea import BootArea, BootRecord
    from vdisk.ext4.filesystem import Ext4Filesystem
    from vdisk.extent import ExtentMap
    from vdisk.imagefile import HostFile


TITLES = {PlaceKind.REGION: "the region", PlaceKind.SMALL: "the small dump"}


class LastDumps:
    """What a boot knows of the dumps of earlier runs, and where they can go.

    `record` is the boot record as it is now.
    """

    def __init__(
        self,
        device: BlockDevice,
        area: BootArea,
        record: BootRecord,
        filesystem: Ext4Filesystem,
        image: HostFile,
        places: list[Place],
    ) -> None:
        """`image` is where all of it lies on the host.

        `places` are looked into, in their order; all of them may hold a dump.
        """
        self.record = record
        self._device = device
        self._area = area
        self._filesystem = filesystem
        self._image = image
        self._region_file = RegionFile(filesystem, RegionKind(record.region_kind))
        self._places = places
        self._reports: list[dict[str, Any]] = []

    @property
    def found(self) -> dict[str, Any] | None:
        """The dumps that were looked at so far, as `headline` puts them together."""
        return headline(self._reports)

    @property
    def report(self) -> dict[str, Any]:
        """The same after the last place; or why there is no dump."""
        return self.found or describe_nothing(reason_for_none(self.record))

    def give_up(self) -> None:
        """Discard every dump that may be there, on request."""
        for place in self._places:
            self._mark(place, place.given_up)

    def take_out(self, retention: Retention, progress: Callable[[int, int], None]) -> None:
        """Copy each, durably, and mark its place. Raises `RecoveryError` where one has to stay where it is."""
        try:
            if region_place(self.record).is_untaken:
                self._keep_blocks(self._area.read_extents(self.record))
            for place in self._places:
                self._take_out(place, retention, progress)
            self._filesystem.release_reserved()
            self._region_file.unpin()
        except FormatError as damage:
            raise RecoveryError(str(damage)) from None
        except OSError as error:
            raise RecoveryError(f"cannot write the dump's copy: {error.strerror or error}") from None

    def _take_out(self, place: Place, retention: Retention, progress: Callable[[int, int], None]) -> None:
        findings, report = self._copy(place, retention, progress)
        self._filesystem.commit()
        self._reports.append(report)
        if findings.reads_failed and findings.verdict != Verdict.COMPLETE:
            raise RecoveryError(f"the disk failed {findings.reads_failed} reads of {TITLES[place.kind]}")
        if may_be_marked(findings):
            self._mark(place, RegionState.TAKEN)

    def _copy(self, place: Place, retention: Retention, progress: Callable[[int, int], None]) -> Extraction:
        source = source_of(self._device, self._area, self.record, place)
        return extract(source, DiskStore(self._filesystem, self._image), retention, progress, WithoutKey())

    def _keep_blocks(self, recorded: ExtentMap) -> None:
        """Pin the region file; or set aside what is free of the recorded blocks.

        Others may have mounted the disk and moved or removed the file: its old blocks are then free, or somebody's.
        """
        if self._region_file.extents() == recorded:
            self._region_file.pin()
        else:
            self._filesystem.reserve(recorded.runs(0, recorded.size_bytes))

    def _mark(self, place: Place, state: RegionState) -> None:
        self.record = self._area.write(place.recorded(self.record, state))
