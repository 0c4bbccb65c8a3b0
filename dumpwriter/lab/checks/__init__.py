"""Checks: what a proof and a campaign over the scenarios cannot see, each against a plain model of what must be.

A check is small and exhaustive, or draws its cases from `Chance`: it is the same at every run. The cheapest come first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dumpwriter.lab.checks import (
    arithmetic,
    covering,
    elsewhere,
    explanations,
    extras,
    layouts,
    records,
    seals,
    strangers,
    wholes,
    withstanding,
    writing,
)
from dumpwriter.lab.checks.refuted import RefutedError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CHECKS", "RefutedError"]

CHECKS: dict[str, Callable[[], None]] = {
    "intersections": arithmetic.intersections,
    "levels": arithmetic.levels,
    "extents": arithmetic.extents,
    "writes through the map": arithmetic.writes_through_the_map,
    "write guard": arithmetic.write_guard,
    "order of value": wholes.order_of_value,
    "whole dumps": wholes.whole_dumps,
    "dumps that were cut": wholes.dumps_that_were_cut,
    "scattered pages": wholes.scattered_pages,
    "classes beside memory": wholes.classes_beside_memory,
    "small regions": wholes.small_regions,
    "regions for all": wholes.regions_for_all,
    "sets of all sizes": layouts.sets_of_all_sizes,
    "regions for parity": layouts.regions_for_parity,
    "frames of other dumps": strangers.frames_of_other_dumps,
    "frames that moved": strangers.frames_that_moved,
    "pages that come twice": strangers.pages_that_come_twice,
    "frames that cannot be": strangers.frames_that_cannot_be,
    "headers in time": writing.headers_in_time,
    "headers that tell": writing.headers_that_tell,
    "nothing outside": writing.nothing_outside,
    "requests that come late": covering.requests_that_come_late,
    "reads that fail": covering.reads_that_fail,
    "frames that lie twice": covering.frames_that_lie_twice,
    "words of the writer": covering.words_of_the_writer,
    "sets that were cut": covering.sets_that_were_cut,
    "frames that no slot takes": covering.frames_that_no_slot_takes,
    "memory that cannot be read": withstanding.memory_that_cannot_be_read,
    "time that is over": withstanding.time_that_is_over,
    "regions where parity just fits": withstanding.regions_where_parity_just_fits,
    "slots that are bad": withstanding.slots_that_are_bad,
    "slots that are bad, with none to spare": withstanding.slots_that_are_bad_with_none_to_spare,
    "writes that are refused": withstanding.writes_that_are_refused,
    "runs that are lost": withstanding.runs_that_are_lost,
    "sealed dumps with parity": withstanding.sealed_dumps,
    "damaged frames": extras.damaged_frames,
    "secondary data": extras.secondary_data,
    "blobs that were torn": extras.blobs_that_were_torn,
    "payloads that cannot be": extras.payloads_that_cannot_be,
    "opened by the key": seals.opened_by_the_key,
    "closed dumps that lack a frame": seals.closed_dumps_that_lack_a_frame,
    "sealed frames that were altered": seals.sealed_frames_that_were_altered,
    "frames of other seals": seals.frames_of_other_seals,
    "nonces": seals.nonces,
    "headers that were altered": seals.headers_that_were_altered,
    "carved frames that cannot be": elsewhere.carved_frames_that_cannot_be,
    "carved frames that changed": elsewhere.carved_frames_that_changed,
    "carving past bad blocks": elsewhere.carving_past_bad_blocks,
    "files of frames": elsewhere.files_of_frames,
    "dumps read here and there": elsewhere.dumps_read_here_and_there,
    "headers that are none": explanations.headers_that_are_none,
    "one copy is enough": explanations.one_copy_is_enough,
    "headers that lie": explanations.headers_that_lie,
    "reasons for damage": explanations.reasons_for_damage,
    "metadata from any copy": explanations.metadata_from_any_copy,
    "generations": records.generations,
    "tables that are short": records.tables_that_are_short,
    "metadata that cannot be": records.metadata_that_cannot_be,
    "control blocks that changed": records.control_blocks_that_changed,
    "rehearsals": records.rehearsals,
    "page sets": arithmetic.page_sets,
    "boot records that were cut": records.boot_records_that_were_cut,
    "carved dumps": elsewhere.carved_dumps,
    "frames in other slots": strangers.frames_in_other_slots,
    "boot records that cannot be": records.boot_records_that_cannot_be,
    "operations that fail": writing.operations_that_fail,
    "ciphers that fail": writing.ciphers_that_fail,
    "lost frames": extras.lost_frames,
    "altered frames": strangers.altered_frames,
    "bad sectors": writing.bad_sectors,
}
