"""From the region to a vmcore and its report in a crash store; or, where the dump is sealed, to the frames as they lie.

Twice through the region: the first time to know which pages are there, for the file's layout follows from that; the
second time to copy them. Memory stays bounded whatever the size of the dump. Interrupted anywhere, it is run again.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dumpwriter.conversion.conversion import AS_ELF
from dumpwriter.recovery.copies import ExportedCopy, SealedCopy, StoredFile, Survey
from dumpwriter.recovery.crashstore import REPORT, REPORT_SIZE_BYTES_MAX
from dumpwriter.recovery.founddump import TWO_ANSWERS, FrameIndex
from dumpwriter.recovery.headers import header_blocks
from dumpwriter.recovery.places import PlaceKind
from dumpwriter.recovery.report import as_iso_time, describe_findings, iso_time
from dumpwriter.recovery.retention import NUMBER_MAX, next_number, numbered, superseded
from dumpwriter.recovery.scan import Findings, PageSink, recover, recover_scattered
from dumpwriter.secondary import FILE_PREFIX
from dumpwriter.sizes import format_size
from dumpwriter.verdict import Verdict
from vdisk.errors import KeyFileError, RecoveryError

if TYPE_CHECKING:
    from dumpwriter.conversion.conversion import Wish
    from dumpwriter.frames import DumpIdentity, Frame
    from dumpwriter.recovery.copies import Copy
    from dumpwriter.recovery.crashstore import CrashStore
    from dumpwriter.recovery.opening import Opener
    from dumpwriter.recovery.retention import Retention
    from vdisk.blockdevice import BlockDevice
    from vdisk.layers.mapped import Mapped

DIGEST_READ_SIZE_BYTES = 4 << 20
IDENTIFYING = ("dump_id", "generation", "verdict", "pages_present", "missing", "left_out", "secondary", "sealed")
ALIKE = ("format", "compression", "dump_level", "filled")  # of two copies of one dump
SPARE_BYTES = 1 << 20  # report, directory entries and extent blocks

Progress = Callable[[int, int], None]


class Extraction(NamedTuple):
    """A crash in its store. `report` is what stands in report.json, and where."""

    findings: Findings
    report: dict[str, Any]


class DumpSource(Protocol):
    """A dump that can be read as often as one likes; each time it gives every page that proves true to the sink."""

    @property
    def identity(self) -> DumpIdentity: ...

    @property
    def kind(self) -> str:
        """Where it is, as the report says."""

    @property
    def disk(self) -> BlockDevice | None:
        """Where the frames lie where they say that they lie; None where they were carried away from there."""

    def read(self, sink: PageSink, progress: Progress, opener: Opener) -> Findings: ...

    def header_blocks(self) -> list[bytes]:
        """The whole copies of its header, as they lie."""


class RegionSource(NamedTuple):
    """A dump in its place, by recorded extents."""

    region: Mapped
    identity: DumpIdentity
    kind: str = PlaceKind.REGION

    @property
    def disk(self) -> BlockDevice:
        return self.region.lower

    def read(self, sink: PageSink, progress: Progress, opener: Opener) -> Findings:
        return recover(self.region, self.identity, sink, progress, opener)

    def header_blocks(self) -> list[bytes]:
        return header_blocks(self.region, self.identity)


class CarvedSource(NamedTuple):
    """A dump whose frames were searched for."""

    disk: BlockDevice
    identity: DumpIdentity
    frames: list[Frame]
    kind: str = "carved"

    def read(self, sink: PageSink, progress: Progress, opener: Opener) -> Findings:
        return recover_scattered(self.disk, self.identity, self.frames, sink, progress, opener)

    def header_blocks(self) -> list[bytes]:
        return []


def extract(
    source: DumpSource,
    store: CrashStore,
    retention: Retention,
    progress: Progress,
    opener: Opener,
    wish: Wish = AS_ELF,
) -> Extraction:
    """Copy a dump out, durably. A dump that is in the store already, in the same format, is not copied again.

    A verdict of NONE copies nothing. Raises `RecoveryError` where the store has no room or fails, `KeyFileError` where
    the opener's key opens nothing, `ConversionError` where the format cannot hold the dump, which is then as it was.
    """
    survey, index = Survey(), FrameIndex(opener)
    findings = source.read(survey, lambda done, total: progress(done, 2 * total), index)
    report = describe_findings(findings, source.identity) | {"kind": source.kind}
    if findings.verdict == Verdict.NONE:
        if opener.why_nothing():
            raise KeyFileError(opener.why_nothing())
        return Extraction(findings, report | {"path": None})
    copy = SealedCopy(findings) if findings.is_closed else ExportedCopy(source, findings, index, wish)
    report |= copy.describe()
    known = _already_there(store, report, copy.file)
    if known is not None:
        _rotate(store, retention)
        return Extraction(findings, report | known)
    needed_bytes = copy.size_bytes_max(survey.data_bytes) + SPARE_BYTES
    needed_bytes += sum(len(blob.content) for blob in findings.secondary.found)
    _check_room(store, needed_bytes, retention.min_free_bytes)
    try:
        report = _copy(source, store, copy, findings, report, progress)
        _rotate(store, retention)
    except OSError as error:
        store.abandon()
        if error.errno == errno.ENOSPC:
            own = store.rooms()[0]
            raise RecoveryError(
                f"no room for the dump {own.where}: it needs {format_size(needed_bytes)}; make room there"
            ) from None
        raise RecoveryError(f"cannot write the dump's copy: {error.strerror or error}") from None
    return Extraction(findings, report)


def _check_room(store: CrashStore, needed_bytes: int, min_free_bytes: int) -> None:
    """Raises `RecoveryError`. What is to stay free is to stay so in the store's own filesystem."""
    own, *beneath = store.rooms()
    for room, kept_bytes in ((own, min_free_bytes), *((room, 0) for room in beneath)):
        if room.free_bytes < needed_bytes + kept_bytes:
            kept = f", and {format_size(kept_bytes)} are to stay free" if kept_bytes else ""
            raise RecoveryError(
                f"no room for the dump {room.where}: it needs {format_size(needed_bytes)}{kept}, "
                f"{format_size(room.free_bytes)} are free; make room there"
            )


def _copy(
    source: DumpSource,
    store: CrashStore,
    copy: Copy,
    findings: Findings,
    report: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    store.begin()
    again = copy.write(source, StoredFile(store, copy.file), lambda done, total: progress(total + done, 2 * total))
    if (again.present, again.secondary) != (findings.present, findings.secondary):
        store.abandon()
        raise RecoveryError(TWO_ANSWERS)
    for blob in findings.secondary.found:
        store.write(FILE_PREFIX + blob.name, 0, blob.content)
    name = _next_name(store)
    report = report | {
        "path": store.describe(name),
        "recovered": iso_time(time.time_ns()),
        "digests": {copy.file: {"sha256": _digest(functools.partial(store.read, copy.file))}},
    }
    store.write(REPORT, 0, json.dumps(report, indent=2).encode() + b"\n")
    store.finish(name)
    return report


def _next_name(store: CrashStore) -> str:
    number = next_number(store.names(), store.read_bound())
    if number > NUMBER_MAX:
        store.abandon()
        raise RecoveryError(
            f"crash {NUMBER_MAX} is the last that has a number: remove it, and the file bounds beside it"
        )
    return str(number)


def _rotate(store: CrashStore, retention: Retention) -> None:
    """Only after the newest is durable. A removal that the power cuts short is finished by the next recovery."""
    bound = b"%d\n" % next_number(store.names(), store.read_bound())
    if store.read_bound() != bound:
        store.write_bound(bound)
    for name in superseded(store.names(), retention.keep):
        store.remove(name)


def _digest(read: Callable[[int, int], bytes]) -> str:
    """SHA-256 of a file as it reads back, not of what was meant to be written."""
    hasher, offset_bytes = hashlib.sha256(), 0
    while content := read(offset_bytes, DIGEST_READ_SIZE_BYTES):
        hasher.update(content)
        offset_bytes += len(content)
    return hasher.hexdigest()


def _already_there(store: CrashStore, found: dict[str, Any], file: str) -> dict[str, Any] | None:
    """What became of this very dump, where a recovery came so far and was cut before the region was marked.

    The copy must say the same as what was read just now, and must read back as it was when it was made. Its report is
    a file that anybody may have written: nothing of it is handed on but what was checked.
    """
    for name in reversed(numbered(store.names())):
        report = _stored_report(store, name)
        if any(report.get(key) != found[key] for key in (*IDENTIFYING, *ALIKE)):
            continue
        expected = {file: _recorded_digest(report, file)}
        secondary = {blob["file"]: blob["sha256"] for blob in found["secondary"]}
        if all(_digest(_finished(store, name, one)) == digest for one, digest in (expected | secondary).items()):
            store.settle(name)
            recovered = as_iso_time(report.get("recovered"))
            return {"path": store.describe(name), "recovered": recovered, "digests": {file: {"sha256": expected[file]}}}
    return None


def _stored_report(store: CrashStore, name: str) -> dict[str, Any]:
    """Empty where it is none."""
    try:
        report = json.loads(store.read_finished(name, REPORT, 0, REPORT_SIZE_BYTES_MAX))
    except (ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}


def _finished(store: CrashStore, name: str, file: str) -> Callable[[int, int], bytes]:
    return functools.partial(store.read_finished, name, file)


def _recorded_digest(report: dict[str, Any], file: str) -> object:
    digests = report.get("digests")
    of_file = digests.get(file) if isinstance(digests, dict) else None
    return of_file.get("sha256") if isinstance(of_file, dict) else None
