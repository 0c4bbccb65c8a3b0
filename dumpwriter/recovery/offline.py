"""A disk that no machine runs on: looked into, verified, or relieved of its dump, through a driver stack of its own."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.conversion.conversion import AS_ELF
from dumpwriter.formats.region import DumpEnding, DumpLevel, DumpState
from dumpwriter.recovery.carving import carve
from dumpwriter.recovery.copies import Survey
from dumpwriter.recovery.extraction import CarvedSource, RegionSource, extract
from dumpwriter.recovery.lastrun import LastRun, judge, last_words
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.places import reason_for_none, region_place, small_places, taken_places, untaken_places
from dumpwriter.recovery.recognition import naming_image, opened_file
from dumpwriter.recovery.report import (
    describe_extents,
    describe_findings,
    describe_header,
    describe_nothing,
    headline,
    iso_time,
)
from dumpwriter.recovery.scan import newest_header, recover
from dumpwriter.recovery.sealedfile import SealedFileSource, identity_in
from dumpwriter.verdict import Reason, Verdict
from vdisk import stack
from vdisk.bootarea import BootArea, BootRecord, BootStage, RegionKind, RegionState
from vdisk.controller import Controller
from vdisk.errors import FormatError, GhostdumpError, KeyFileError, NotAnImageError, RecoveryError, naming
from vdisk.imagefile import ImageFile, is_in_use, open_locked, open_unlocked
from vdisk.layers.mapped import Mapped
from vdisk.registers import create_registers
from vdisk.volume import NO_KEY, is_encrypted, key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dumpwriter.conversion.conversion import Wish
    from dumpwriter.recovery.crashstore import CrashStore
    from dumpwriter.recovery.opening import Opener
    from dumpwriter.recovery.places import Place
    from dumpwriter.recovery.retention import Retention
    from dumpwriter.recovery.scan import Findings
    from vdisk.blockdevice import BlockDevice
    from vdisk.extent import ExtentMap
    from vdisk.secret import Secret

DUMP_STATES: dict[int, str] = {state: state.name.lower() for state in DumpState}
DUMP_LEVELS: dict[int, str] = {level: level.name.lower() for level in DumpLevel}
DUMP_ENDINGS: dict[int, str] = {
    DumpEnding.NONE: "unknown",
    DumpEnding.THROUGH: "through",
    DumpEnding.TIME_BUDGET: "time budget",
}


class OfflineDisk(NamedTuple):
    """A disk with its boot area."""

    device: BlockDevice
    area: BootArea
    record: BootRecord


def may_be_marked(findings: Findings) -> bool:
    """Whether a copied dump may be given up: not where there is none, nor where another try may read more of it."""
    return findings.verdict == Verdict.COMPLETE or (findings.verdict == Verdict.PARTIAL and not findings.reads_failed)


def source_of(device: BlockDevice, area: BootArea, record: BootRecord, place: Place) -> RegionSource:
    """Raises `FormatError` where the record of the region is damaged."""
    return RegionSource(Mapped(device, place.extents(area, record)), place.identity, place.kind)


@contextlib.contextmanager
def opened_device(descriptor: int, key: Secret = NO_KEY) -> Iterator[BlockDevice]:
    """A driver stack on an open image, which is closed at the end.

    Without its key, an encrypted image gives ciphertext, but for the boot record, the extents and the key slots.
    """
    registers = create_registers()
    try:
        yield stack.load_live(Controller(registers, ImageFile(descriptor)), key).device
    finally:
        os.close(registers)
        os.close(descriptor)


@contextlib.contextmanager
def opened_disk(descriptor: int, key: Secret = NO_KEY) -> Iterator[OfflineDisk]:
    """The same with its boot record. Raises `NotAnImageError`, `FormatError`."""
    with opened_device(descriptor, key) as device:
        area = BootArea(device)
        yield OfflineDisk(device, area, area.read())


def unlock_image(path: str, ask: Callable[[], Secret]) -> Secret:
    """The volume key of an image, whoever uses it; `NO_KEY` for a plain one. See `vdisk.volume.key_of`."""
    with naming_image(path), opened_device(open_unlocked(path)) as device:
        return key_of(device, ask)


def recover_image(
    path: str,
    store: CrashStore,
    retention: Retention,
    progress: Callable[[int, int], None],
    key: Secret = NO_KEY,
    new_opener: Callable[[], Opener] = WithoutKey,
    wish: Wish = AS_ELF,
) -> dict[str, Any]:
    """Copy the dumps of an image out and mark their places, durably and in this order. The report says what was found.

    Where the boot area cannot tell where the dump is, the whole image is searched for it; nothing is marked then.
    Without its key, a sealed dump is copied as it lies. Of several dumps those are taken that the openers open; raises
    `KeyFileError` where there is none of these.
    """
    is_writable = os.access(path, os.W_OK)
    with naming_image(path), opened_device(open_locked(path, read_only=not is_writable), key) as device:
        try:
            area = BootArea(device)
            record = area.read()
            sources = [(place, source_of(device, area, record, place)) for place in untaken_places(record)]
        except (FormatError, NotAnImageError) as damage:
            return _recover_carved(device, store, retention, progress, damage, new_opener(), wish)
        record, reports, unopened = take_out(
            area, record, sources, store, retention, progress, new_opener, wish, is_writable=is_writable
        )
        if unopened and not reports:
            raise unopened[-1]
        found = headline(reports) or describe_nothing(reason_for_none(record))
        if unopened:
            found |= {"unopened": [str(reason) for reason in unopened]}
        if found["verdict"] == Verdict.NONE:
            found |= {"last_run": _last_run_of(OfflineDisk(device, area, record), path).describe()}
        return found


class TakenOut(NamedTuple):
    """`record` is the boot record as it is then; `unopened` are dumps that the opener's key does not open."""

    record: BootRecord
    reports: list[dict[str, Any]]
    unopened: list[KeyFileError]


def take_out(
    area: BootArea,
    record: BootRecord,
    sources: Sequence[tuple[Place, RegionSource]],
    store: CrashStore,
    retention: Retention,
    progress: Callable[[int, int], None],
    new_opener: Callable[[], Opener] = WithoutKey,
    wish: Wish = AS_ELF,
    *,
    is_writable: bool = True,
) -> TakenOut:
    """Copy each, durably, and then mark its place, durably. Raises `RecoveryError` where one cannot be copied."""
    reports: list[dict[str, Any]] = []
    unopened: list[KeyFileError] = []
    for place, source in sources:
        try:
            findings, report = extract(source, store, retention, progress, new_opener(), wish)
        except KeyFileError as not_ours:
            unopened.append(not_ours)
            continue
        except RecoveryError as refusal:
            raise _with_what_came_out(refusal, reports) from None
        reports.append(report | _resumable(place))
        if may_be_marked(findings) and is_writable and not place.is_hibernated:
            record = area.write(place.recorded(record, RegionState.TAKEN))
    return TakenOut(record, reports, unopened)


def _with_what_came_out(refusal: RecoveryError, reports: list[dict[str, Any]]) -> RecoveryError:
    paths = [report["path"] for report in reports if report["path"]]
    return RecoveryError(f"{refusal}; taken out before it: {', '.join(paths)}") if paths else refusal


def _resumable(place: Place) -> dict[str, Any]:
    """What a report says besides of a memory that the next mount goes on with: a copy is no reason to give it up."""
    return {"hibernated": True} if place.is_hibernated else {}


def _recover_carved(
    device: BlockDevice,
    store: CrashStore,
    retention: Retention,
    progress: Callable[[int, int], None],
    damage: GhostdumpError,
    opener: Opener,
    wish: Wish,
) -> dict[str, Any]:
    carved = carve(device, progress)
    if carved is None and isinstance(damage, NotAnImageError):
        raise NotAnImageError("not a ghostdump image, or no longer whole, and no frame of a dump is in it")
    if carved is None:
        return describe_nothing(Reason.REGION_UNKNOWN)
    extraction = extract(CarvedSource(device, *carved), store, retention, progress, opener, wish)
    return extraction.report | {"carved": str(damage)}


def sealed_source(file: BlockDevice) -> SealedFileSource:
    """Raises `FormatError` where nothing of a dump is in it."""
    identity = identity_in(file)
    if identity is None:
        raise FormatError("no frame of a dump is left in it")
    return SealedFileSource(file, identity)


def recover_sealed_file(
    path: str,
    store: CrashStore,
    retention: Retention,
    progress: Callable[[int, int], None],
    opener: Opener,
    wish: Wish = AS_ELF,
) -> dict[str, Any]:
    """Open a sealed dump. The file stays as it is."""
    with naming(path), opened_file(path) as file:
        return extract(sealed_source(file), store, retention, progress, opener, wish).report


def verify_image(path: str, progress: Callable[[int, int], None], key: Secret = NO_KEY) -> dict[str, Any]:
    """Check every frame and copy nothing."""
    with naming_image(path), opened_disk(open_locked(path, read_only=True), key) as disk:
        reports = []
        for place in untaken_places(disk.record) or taken_places(disk.record):
            findings = recover(source_of(*disk, place).region, place.identity, Survey(), progress)
            reports.append(describe_findings(findings, place.identity) | {"kind": place.kind} | _resumable(place))
        return headline(reports) or describe_nothing(reason_for_none(disk.record))


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
            "last_run": _last_run_of(disk, path).describe() if is_readable and not is_in_use(descriptor) else None,
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


def _last_run_of(disk: OfflineDisk, path: str) -> LastRun:
    return judge(*disk, last_words(os.path.realpath(path), disk.record))


def recorded_extents(path: str) -> ExtentMap:
    """The extents of the region as the boot area has them. Raises `FormatError` where there never was a region."""
    with naming_image(path), opened_disk(open_unlocked(path)) as disk:
        if disk.record.region_state == RegionState.NONE:
            raise FormatError("never armed: no region is recorded yet")
        return disk.area.read_extents(disk.record)


def _describe_small_dump(disk: OfflineDisk, place: Place, *, is_readable: bool) -> dict[str, Any]:
    return {
        "state": place.state.name.lower(),
        "generation": place.identity.generation,
        "dump": _describe_dump(disk, place) if is_readable else None,
    }


def _describe_dump(disk: OfflineDisk, place: Place) -> dict[str, Any] | None:
    """What the headers of a dump say; None where none is there."""
    header = newest_header(source_of(*disk, place).region, place.identity)
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
