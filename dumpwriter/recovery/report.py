"""What recovery found, as the JSON that stands beside the vmcore. Field names are used by other programs: keep them."""

from __future__ import annotations

import hashlib
import struct
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dumpwriter.formats.region import CauseKind
from dumpwriter.formats.runtime import STANDBY_NAMES
from dumpwriter.recovery.places import PlaceKind
from dumpwriter.secondary import FILE_PREFIX
from dumpwriter.verdict import Reason, Verdict
from vdisk.bootarea import BootStage

if TYPE_CHECKING:
    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.frames import DumpIdentity
    from dumpwriter.recovery.blobs import FoundBlob
    from dumpwriter.recovery.scan import Findings
    from vdisk.extent import ExtentMap

UNEXPLAINED: dict[str, Any] = {
    "cause": "unknown",
    "bugcheck": None,
    "stage": None,
    "times": {},
    "standby": None,
    "takeover": None,
    "frames_moved": None,
}
CAUSE_NAMES: dict[int, str] = {
    CauseKind.NONE: "unknown",
    CauseKind.BUGCHECK: "bugcheck",
    CauseKind.MACHINE_DIED: "machine died",
    CauseKind.WATCHDOG: "watchdog",
    CauseKind.HIBERNATION: "hibernation",
}
PAGE_LISTS = ("missing", "left_out")  # as long as memory is torn; the report beside the vmcore has them
STAGE_NAMES: dict[int, str] = {stage: stage.label for stage in BootStage}


def describe_findings(findings: Findings, identity: DumpIdentity) -> dict[str, Any]:
    """The facts of a dump, without what became of its copy."""
    found = findings.judgement
    return {
        "verdict": found.verdict,
        "reason": found.reason,
        "level": findings.metadata.level.name.lower() if findings.metadata else None,
        "level_held": found.level_held.name.lower() if found.level_held is not None else None,
        "pages_total": found.pages_total,
        "pages_wanted": found.pages_wanted,
        "pages_present": findings.pages_present,
        "missing": [run._asdict() for run in found.missing],
        "left_out": [run._asdict() for run in found.left_out],
        "classes": [
            {
                "name": count.page_class.name.lower(),
                "pages_total": count.pages_total,
                "pages_present": count.pages_present,
            }
            for count in found.classes
        ],
        "secondary": [_describe_blob(blob) for blob in findings.secondary.found],
        "secondary_missing": [blob._asdict() for blob in findings.secondary.missing],
        "frames_damaged": findings.frames_damaged,
        "frames_rebuilt": findings.frames_rebuilt,
        "reads_failed": findings.reads_failed,
        "memory_map": "sealed" if findings.is_closed else "known" if findings.metadata else "lost",
        "machine": findings.metadata.machine if findings.metadata else None,
        "sealed": findings.is_closed,
        "sealed_for": findings.sealed_for.hex() if findings.sealed_for else None,
        "dump_id": identity.dump_id.hex(),
        "generation": identity.generation,
        **(describe_header(findings.header) if findings.header else UNEXPLAINED),
    }


def _describe_blob(blob: FoundBlob) -> dict[str, Any]:
    return {
        "name": blob.name,
        "file": FILE_PREFIX + blob.name,
        "size_bytes": len(blob.content),
        "sha256": hashlib.sha256(blob.content).hexdigest(),
    }


def headline(reports: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Of what was found in several places, oldest first: the newest dump, and the others within it as `earlier`.

    A dump that was begun, and of which nothing is left, is one of them. Where no dump was begun, what the region said;
    None where it was not asked.
    """
    dumps = [report for report in reports if is_of_dump(report)]
    if dumps:
        return dumps[-1] | ({"earlier": dumps[:-1]} if dumps[:-1] else {})
    return next((report for report in reports if report["kind"] == PlaceKind.REGION), None)


def is_of_dump(report: dict[str, Any]) -> bool:
    """Whether a dump was begun there, whatever is left of it."""
    return Verdict(report["verdict"]) != Verdict.NONE or report["reason"] == Reason.NO_PAGES


def together(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The report and those within it, oldest first."""
    return [*report.get("earlier", []), report]


def without_page_lists(report: dict[str, Any]) -> dict[str, Any]:
    """What there is room for in a status: the pages themselves are named beside the dump."""
    short = {key: value for key, value in report.items() if key not in PAGE_LISTS}
    if "earlier" in short:
        short["earlier"] = [without_page_lists(older) for older in report["earlier"]]
    return short


def describe_nothing(reason: Reason) -> dict[str, Any]:
    """A verdict of NONE that needed no look at the region."""
    return {
        "verdict": Verdict.NONE,
        "reason": reason,
        "kind": PlaceKind.REGION,
        "path": None,
        "pages_total": 0,
        "pages_wanted": 0,
        "pages_present": 0,
        "missing": [],
        "left_out": [],
        "secondary": [],
        "secondary_missing": [],
        "frames_damaged": 0,
        "frames_rebuilt": 0,
        "reads_failed": 0,
        "sealed": False,
        "sealed_for": None,
        **UNEXPLAINED,
    }


def describe_header(header: DumpHeader) -> dict[str, Any]:
    """Why the machine stopped, and when; the unexplained where no dump was begun."""
    if not header.crash_time_ns:
        return UNEXPLAINED
    return {
        "cause": CAUSE_NAMES.get(header.cause_kind, "unknown"),
        "bugcheck": {
            "code": header.bugcheck_code,
            "parameters": list(struct.unpack("<4Q", header.bugcheck_parameters)),
            "text": _text(header.cause_text),
        },
        "stage": STAGE_NAMES.get(header.boot_stage),
        "times": {
            "armed": iso_time(header.armed_time_ns),
            "crash": iso_time(header.crash_time_ns),
            "dump_end": iso_time(header.end_time_ns),
        },
        "standby": header.writer - 1 if 0 < header.writer <= len(STANDBY_NAMES) else None,
        "takeover": _text(header.takeover_text) or None,
        "frames_moved": header.frames_moved,
    }


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="replace")


def iso_time(time_ns: int) -> str | None:
    """UTC to the microsecond; None for a time that was never set, or cannot be one."""
    try:
        return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="microseconds") if time_ns else None
    except (OverflowError, ValueError):
        return None


def as_iso_time(text: object) -> str | None:
    """A time that somebody wrote down, where it is one."""
    try:
        return datetime.fromisoformat(text).isoformat(timespec="microseconds") if isinstance(text, str) else None
    except ValueError:
        return None


def describe_extents(extents: ExtentMap) -> list[dict[str, int]]:
    return [extent._asdict() for extent in extents.extents]
