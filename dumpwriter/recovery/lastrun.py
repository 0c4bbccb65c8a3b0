"""How the last run of a machine ended, told from what it left on the disk and from its last words.

The boot record says how far the machine came, and whether it was shut down; the headers of its dumps, whether one was
begun. Its last words are its runtime file: like a firmware's record it outlives the machine, but not a restart of the
host. Where nobody said anything, machine and standby ended at once: the power was cut.
"""

from __future__ import annotations

import contextlib
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from dumpwriter import runtime
from dumpwriter.formats.region import CauseKind, DumpState
from dumpwriter.formats.runtime import CAUSE_TEXT, REASON_TEXT, MachineState, Register
from dumpwriter.recovery.headers import newest_header
from dumpwriter.recovery.places import region_place, small_places
from dumpwriter.verdict import Verdict
from vdisk.bootarea import BootStage, RegionState
from vdisk.errors import FormatError
from vdisk.layers.mapped import Mapped

if TYPE_CHECKING:
    from dumpwriter.formats.region import DumpHeader
    from dumpwriter.recovery.places import Place
    from dumpwriter.runtime import RuntimeFile
    from vdisk.blockdevice import BlockDevice
    from vdisk.bootarea import BootArea, BootRecord


class End(StrEnum):
    NEVER_RAN = "never ran"
    CLEAN = "clean shutdown"
    HIBERNATED = "hibernation"
    NOT_HIBERNATED = "hibernation that did not finish"
    DUMPED = "crash with a dump"
    NOT_DUMPED = "crash without a dump"
    POWER_CUT = "power cut"


SHUTDOWNS = {RegionState.HIBERNATED: End.HIBERNATED, RegionState.HIBERNATING: End.NOT_HIBERNATED}
NO_WORD = "machine and standby ended at once, and left no word"


class LastRun(NamedTuple):
    """`stage` is how far the machine was; the reason is empty where there is nothing to explain."""

    end: End
    stage: BootStage
    reason: str

    def describe(self) -> dict[str, Any]:
        return {"end": self.end, "stage": self.stage.label, "reason": self.reason}


class LastWords(NamedTuple):
    """What a dead machine and its standby left in their runtime file."""

    boot_count: int
    stage: BootStage
    is_crash: bool  # somebody said that it was one
    is_dumped: bool
    reason: str


def last_words(image: str, record: BootRecord) -> LastWords | None:
    """Those of the last run of the disk in the file `image`, an absolute path; None where there are none.

    A machine that died before its drivers were up could not write to the boot record: it is one boot ahead of it.
    """
    found = []
    for machine in runtime.all_machines():
        with contextlib.closing(machine):
            if is_of_disk(machine, image, record) and not is_running(machine):
                found.append(_words_of(machine))
    last = (words for words in found if _are_of_last_run(words, record))
    return max(last, key=lambda words: words.boot_count, default=None)


def _are_of_last_run(words: LastWords, record: BootRecord) -> bool:
    if words.stage <= BootStage.POWER_ON:
        return words.boot_count == record.boot_count + 1
    return words.boot_count in (record.boot_count, record.boot_count + 1)


def is_of_disk(machine: RuntimeFile, image: str, record: BootRecord) -> bool:
    """Whether a runtime file is of a machine with this very disk, and not of one that was at its path before."""
    document = machine.document()
    return (document.get("image"), document.get("disk_id")) == (image, record.disk_id.hex())


def is_running(machine: RuntimeFile) -> bool:
    return runtime.is_alive(machine[Register.MACHINE_PID], machine[Register.MACHINE_START])


def judge(device: BlockDevice, area: BootArea, record: BootRecord, words: LastWords | None) -> LastRun:
    """How the last run ended. `record` is the boot record as that run left it."""
    if words is not None and words.boot_count > record.boot_count:
        end = End.NOT_DUMPED if words.is_crash else End.POWER_CUT
        return LastRun(end, BootStage.POWER_ON, words.reason if words.is_crash else NO_WORD)
    stage = BootStage(record.boot_stage)
    if not record.boot_count:
        return LastRun(End.NEVER_RAN, BootStage.OFF, "")
    if stage == BootStage.OFF:
        return LastRun(SHUTDOWNS.get(RegionState(record.region_state), End.CLEAN), stage, "")
    header = _begun_header(device, area, record)
    if header is not None:
        return LastRun(End.DUMPED, stage, header.cause_text.rstrip(b"\0").decode(errors="replace"))
    if words is None or not words.is_crash:
        return LastRun(End.POWER_CUT, stage, NO_WORD)
    return LastRun(End.DUMPED if words.is_dumped else End.NOT_DUMPED, stage, words.reason)


def _words_of(machine: RuntimeFile) -> LastWords:
    document = machine.document()
    boot_count = document.get("boot_count")
    verdict = machine.verdict()
    said = [machine.text(CAUSE_TEXT), machine.text(REASON_TEXT)]
    return LastWords(
        boot_count=boot_count if isinstance(boot_count, int) else 0,
        stage=machine.boot_stage,
        is_crash=machine[Register.CAUSE_KIND] != CauseKind.NONE or machine.state == MachineState.FAILED,
        is_dumped=verdict is not None and verdict != Verdict.NONE,
        reason=": ".join(text for text in said if text),
    )


def _begun_header(device: BlockDevice, area: BootArea, record: BootRecord) -> DumpHeader | None:
    """The header of a dump that the last run began, whatever became of the dump since."""
    for place in _places_of_last_run(record):
        try:
            header = newest_header(Mapped(device, place.extents(area, record)), place.identity)
        except FormatError:
            continue  # the record of the region is damaged; the other place may still tell
        if header is not None and header.state != DumpState.ARMED:
            return header
    return None


def _places_of_last_run(record: BootRecord) -> list[Place]:
    """A run takes a place for a small dump first, and arms the region after that."""
    small = max(small_places(record), key=lambda place: place.identity.generation)
    region = region_place(record)
    return [region, small] if region.identity.generation > small.identity.generation else [small]
