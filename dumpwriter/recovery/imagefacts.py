"""What an image says of itself, with no frame of it read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from dumpwriter.formats.region import DumpEnding, DumpLevel, DumpState
from dumpwriter.recovery.headers import newest_header
from dumpwriter.recovery.offlinedisk import last_run_of, opened_disk
from dumpwriter.recovery.places import region_place, small_places
from dumpwriter.recovery.recognition import naming_image
from dumpwriter.recovery.report import describe_extents, describe_header, iso_time
from vdisk.bootarea import BootStage, RegionKind, RegionState
from vdisk.imagefile import is_in_use, open_unlocked
from vdisk.layers.mapped import Mapped
from vdisk.volume import NO_KEY, is_encrypted

if TYPE_CHECKING:
    from dumpwriter.recovery.offlinedisk import OfflineDisk
    from dumpwriter.recovery.places import Place
    from vdisk.secret import Secret

DUMP_STATES: dict[int, str] = {state: state.name.lower() for state in DumpState}
DUMP_LEVELS: dict[int, str] = {level: level.name.lower() for level in DumpLevel}
DUMP_ENDINGS: dict[int, str] = {
    DumpEnding.NONE: "unknown",
    DumpEnding.THROUGH: "through",
    DumpEnding.TIME_BUDGET: "time budget",
}


def describe_image(path: str, key: Secret = NO_KEY) -> dict[str, Any]:
    """What boot record and headers say, with no frame read: quick, also beside a machine that runs.

    Without the key of an encrypted image, what its region holds is not told.
    """
    descriptor = open_unlocked(path)
    with naming_image(path), opened_disk(descriptor, key) as disk:
        record = disk.record
        is_readable = bool(key) or not is_encrypted(record)
        facts: dict[str, Any] = {
            "image": os.path.abspath(path),
            "disk_id": record.disk_id.hex(),
            "disk_size_bytes": record.disk_size_bytes,
            "filesystem_size_bytes": record.filesystem_size_bytes,
            "memory_bytes": record.memory_size_bytes,
            "encrypted": is_encrypted(record),
            "level": _level_name(record.dump_level),
            "parity_percent": record.parity_percent,
            "boot_count": record.boot_count,
            "boot_stage": BootStage(record.boot_stage).label,
            "last_run": last_run_of(disk, path).describe() if is_readable and not is_in_use(descriptor) else None,
            "region_state": RegionState(record.region_state).name.lower(),
            "region_kind": RegionKind(record.region_kind).name.lower(),
            "generation": record.generation,
            "region": None,
            "dump": None,
            "small_dumps": [
                _describe_small_dump(disk, place, is_readable=is_readable) for place in small_places(record)
            ],
        }
        if record.region_state != RegionState.NONE:
            extents = disk.area.read_extents(record)
            facts["region"] = {"size_bytes": extents.size_bytes, "extents": describe_extents(extents)}
            facts["dump"] = _describe_dump(disk, region_place(record)) if is_readable else None
        return facts


def _level_name(number: int) -> str:
    """A newer version may have written one that is not known here: arming refuses it."""
    return DumpLevel(number).name.lower() if number in set(DumpLevel) else f"unknown ({number})"


def _describe_small_dump(disk: OfflineDisk, place: Place, *, is_readable: bool) -> dict[str, Any]:
    return {
        "state": place.state.name.lower(),
        "generation": place.identity.generation,
        "dump": _describe_dump(disk, place) if is_readable else None,
    }


def _describe_dump(disk: OfflineDisk, place: Place) -> dict[str, Any] | None:
    """What the headers of a dump say; None where none is there."""
    header = newest_header(Mapped(disk.device, place.extents(disk.area, disk.record)), place.identity)
    if header is None:
        return None
    return describe_header(header) | {
        "state": DUMP_STATES.get(header.state, "unknown"),
        "ending": DUMP_ENDINGS.get(header.ending, "unknown"),
        "level": DUMP_LEVELS.get(header.dump_level, "unknown"),
        "armed": iso_time(header.armed_time_ns),
        "frames_planned": header.frames_planned,
        "frames_written": header.frames_written,
        "frames_failed": header.frames_failed,
        "pages_total": header.pages_total,
        "pages_wanted": header.pages_wanted,
        "pages_written": header.pages_written,
        "sealed_for": header.seal_fingerprint.hex() if any(header.seal_fingerprint) else None,
    }
