"""Checks: what a proof and a campaign over the scenarios cannot see, each against a plain model of what must be.

A check is small and exhaustive, or draws its cases from `Chance`: it is the same at every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.lab.checks import arithmetic, extras, strangers, wholes, writing
from dumpwriter.lab.checks.refuted import RefutedError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CHECKS", "RefutedError"]

CHECKS: dict[str, Callable[[], None]] = {
    "page sets": arithmetic.page_sets,
    "intersections": arithmetic.intersections,
    "levels": arithmetic.levels,
    "extents": arithmetic.extents,
    "writes through the map": arithmetic.writes_through_the_map,
    "write guard": arithmetic.write_guard,
    "order of value": wholes.order_of_value,
    "whole dumps": wholes.whole_dumps,
    "dumps that were cut": wholes.dumps_that_were_cut,
    "small regions": wholes.small_regions,
    "regions for all": wholes.regions_for_all,
    "altered frames": strangers.altered_frames,
    "frames of other dumps": strangers.frames_of_other_dumps,
    "frames in other slots": strangers.frames_in_other_slots,
    "frames that moved": strangers.frames_that_moved,
    "frames that cannot be": strangers.frames_that_cannot_be,
    "headers in time": writing.headers_in_time,
    "headers that tell": writing.headers_that_tell,
    "operations that fail": writing.operations_that_fail,
    "bad sectors": writing.bad_sectors,
    "nothing outside": writing.nothing_outside,
    "ciphers that fail": writing.ciphers_that_fail,
    "lost frames": extras.lost_frames,
    "secondary data": extras.secondary_data,
    "blobs that were torn": extras.blobs_that_were_torn,
    "payloads that cannot be": extras.payloads_that_cannot_be,
}
