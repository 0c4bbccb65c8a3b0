"""What recovery can say. A closed list: a case that is not here is a fault of ours, not a new word."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    COMPLETE = "COMPLETE"  # every page that the level asks for, byte for byte; what it leaves out is named
    PARTIAL = "PARTIAL"  # every page that is there is exact, every other is named
    NONE = "NONE"  # no page; the reason says why


class Reason(StrEnum):
    """Why a verdict is not better than it is. COMPLETE has the empty reason."""

    WHOLE = ""
    # PARTIAL
    CUT = "the dump was cut before its end"
    TIME_BUDGET = "the time budget ended before the dump"
    REGION_TOO_SMALL = "the region is too small for all that the level asks for"
    FRAMES_LOST = "frames are damaged or were never written"
    # NONE
    NEVER_ARMED = "the machine was never armed"
    CLEAN = "the machine was shut down cleanly"
    NO_DUMP = "the machine stopped without a dump: power cut, or the standby could not write"
    NO_PAGES = "a dump was begun, but no page of it can be read"
    ALREADY_TAKEN = "the dump was already recovered"
    DISCARDED = "the dump was given up on request"
    FORGOTTEN = "the hibernated machine was given up on request"
    RESUMED = "the hibernated machine was resumed"
    REGION_UNKNOWN = "the record of the region is damaged and no frame was found"
