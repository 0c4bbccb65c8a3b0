"""Whether the region is still where it was recorded, in the filesystem that runs and in the boot area on the disk.

Nothing of ours moves it while the machine is armed. But a dump goes to the recorded blocks whoever owns them by then,
and the next boot looks where the boot record says; so both are looked at as long as the machine runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vdisk.errors import GhostdumpError

if TYPE_CHECKING:
    from vdisk.bootarea import BootArea, BootRecord
    from vdisk.extent import ExtentMap


class Lying(Protocol):
    """A file that lies somewhere on the disk."""

    path: str

    def extents(self) -> ExtentMap | None: ...


def why_moved(region_file: Lying, recorded: ExtentMap) -> str | None:
    """Why a dump must no longer be written; None where the file lies as recorded."""
    try:
        extents = region_file.extents()
    except (GhostdumpError, OSError) as failure:
        return f"{region_file.path} cannot be looked at: {failure}"
    if extents == recorded:
        return None
    return f"{region_file.path} is no longer where it was recorded: unmount, and mount again"


def why_not_found(area: BootArea, expected: BootRecord, recorded: ExtentMap) -> str | None:
    """Why the next boot may not find the dump; None where the boot area says what this boot wrote there."""
    try:
        found = area.read()._replace(copy_offset_bytes=expected.copy_offset_bytes)
        if found == expected and area.read_extents(found) == recorded:
            return None
    except GhostdumpError as failure:
        return f"the boot area is damaged: {failure}"
    return "the boot record on the disk is not what this machine wrote: unmount, and mount again"
