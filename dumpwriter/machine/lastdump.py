"""The dump of the last run, taken out at boot: from the region into the disk's own filesystem.

While the dump is in the region nobody gets its blocks, its own copy included. They are given back, and the region is
marked, only after the copy is durable.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.machine.regionfile import RegionFile
from dumpwriter.recovery.diskstore import DiskStore
from dumpwriter.recovery.extraction import RegionSource, extract
from dumpwriter.recovery.offline import identity_of, may_be_marked, reason_for_none
from dumpwriter.recovery.report import describe_nothing
from dumpwriter.verdict import Reason, Verdict
from vdisk.bootarea import RegionKind, RegionState
from vdisk.errors import FormatError, RecoveryError
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from dumpwriter.recovery.extraction import Extraction
    from dumpwriter.recovery.retention import Retention
    from vdisk.blockdevice import BlockDevice
    from vdisk.bootarea import BootArea, BootRecord
    from vdisk.ext4.filesystem import Ext4Filesystem
    from vdisk.extent import ExtentMap


class Outcome(NamedTuple):
    """The boot record as it is now, and what was found."""

    record: BootRecord
    report: dict[str, Any]


class LastDump:
    """What a boot knows of the last run's dump, and where it can go."""

    def __init__(self, device: BlockDevice, area: BootArea, record: BootRecord, filesystem: Ext4Filesystem) -> None:
        self._device = device
        self._area = area
        self._record = record
        self._filesystem = filesystem
        self._region_file = RegionFile(filesystem, RegionKind(record.region_kind))

    def give_up(self) -> Outcome:
        """Discard a dump that may be there, on request."""
        reason = reason_for_none(self._record)
        if reason is None:
            reason = Reason.DISCARDED
            self._mark(RegionState.DISCARDED)
        return Outcome(self._record, describe_nothing(reason))

    def take_out(self, retention: Retention, progress: Callable[[int, int], None]) -> Outcome:
        """Copy it, durably, and mark the region. Raises `RecoveryError` where it has to stay where it is."""
        reason = reason_for_none(self._record)
        if reason is not None:
            return Outcome(self._record, describe_nothing(reason))
        try:
            findings, report = self._copy(retention, progress)
        except FormatError as damage:
            raise RecoveryError(str(damage)) from None
        except OSError as error:
            raise RecoveryError(f"cannot write the dump's copy: {error.strerror or error}") from None
        self._filesystem.commit()
        if findings.reads_failed and findings.verdict != Verdict.COMPLETE:
            raise RecoveryError(f"the disk failed {findings.reads_failed} reads of the region")
        if may_be_marked(findings):
            self._mark(RegionState.TAKEN)
        self._filesystem.release_reserved()
        self._region_file.unpin()
        return Outcome(self._record, report)

    def _copy(self, retention: Retention, progress: Callable[[int, int], None]) -> Extraction:
        recorded = self._area.read_extents(self._record)
        self._keep_blocks(recorded)
        source = RegionSource(Mapped(self._device, recorded), identity_of(self._record))
        return extract(source, DiskStore(self._filesystem), retention, progress)

    def _keep_blocks(self, recorded: ExtentMap) -> None:
        """Pin the region file; or set aside what is free of the recorded blocks.

        Others may have mounted the disk and moved or removed the file: its old blocks are then free, or somebody's.
        """
        if self._region_file.extents() == recorded:
            self._region_file.pin()
        else:
            self._filesystem.reserve(recorded.runs(0, recorded.size_bytes))

    def _mark(self, state: RegionState) -> None:
        self._record = self._area.write(self._record._replace(region_state=state))
