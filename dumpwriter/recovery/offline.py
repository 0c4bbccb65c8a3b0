"""A disk that no machine runs on: verified, or relieved of its dump, through a driver stack of its own."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter.conversion.conversion import AS_ELF
from dumpwriter.recovery.carving import carve
from dumpwriter.recovery.copies import Survey
from dumpwriter.recovery.extraction import CarvedSource, RegionSource, extract
from dumpwriter.recovery.offlinedisk import OfflineDisk, last_run_of, opened_device, opened_disk
from dumpwriter.recovery.opening import WithoutKey
from dumpwriter.recovery.places import reason_for_none, taken_places, untaken_places
from dumpwriter.recovery.recognition import naming_image, opened_file
from dumpwriter.recovery.report import describe_findings, describe_nothing, headline
from dumpwriter.recovery.scan import recover
from dumpwriter.recovery.sealedfile import SealedFileSource, identity_in
from dumpwriter.verdict import Reason, Verdict
from vdisk.bootarea import BootArea, BootRecord, RegionState
from vdisk.errors import FormatError, GhostdumpError, KeyFileError, NotAnImageError, RecoveryError, naming
from vdisk.imagefile import open_locked
from vdisk.layers.mapped import Mapped
from vdisk.volume import NO_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dumpwriter.conversion.conversion import Wish
    from dumpwriter.recovery.crashstore import CrashStore
    from dumpwriter.recovery.opening import Opener
    from dumpwriter.recovery.places import Place
    from dumpwriter.recovery.retention import Retention
    from dumpwriter.recovery.scan import Findings
    from vdisk.blockdevice import BlockDevice
    from vdisk.secret import Secret


def may_be_marked(findings: Findings) -> bool:
    """Whether a copied dump may be given up: not where there is none, nor where another try may read more of it."""
    return findings.verdict == Verdict.COMPLETE or (findings.verdict == Verdict.PARTIAL and not findings.reads_failed)


def source_of(device: BlockDevice, area: BootArea, record: BootRecord, place: Place) -> RegionSource:
    """Raises `FormatError` where the record of the region is damaged."""
    return RegionSource(Mapped(device, place.extents(area, record)), place.identity, place.kind)


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
            found |= {"last_run": last_run_of(OfflineDisk(device, area, record), path).describe()}
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
