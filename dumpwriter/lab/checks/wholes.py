"""Checks of what a dump holds and what is said of it: order of value, levels, gaps, regions that are too small."""

from __future__ import annotations

import itertools

from dumpwriter.crash.plan import META_COPIES, region_size_bytes
from dumpwriter.formats.region import (
    FRAME_PAGES_MAX,
    PAGE_SIZE_BYTES,
    ClassRunRecord,
    DumpLevel,
    FrameKind,
    MemoryRangeRecord,
    PageRun,
)
from dumpwriter.frames import slot_count, slot_offset_bytes
from dumpwriter.lab.checks.refuted import must
from dumpwriter.lab.checks.specimen import Specimen, Subject, pages_in, written
from dumpwriter.levels import RANK_UNKNOWN
from dumpwriter.metadata import Metadata
from dumpwriter.recovery.judgement import Evidence, judge
from dumpwriter.recovery.pageset import PageSet
from dumpwriter.verdict import Reason, Verdict

LAST_CLASS = {DumpLevel.SMALL: 3, DumpLevel.KERNEL: 4, DumpLevel.ACTIVE: 5}  # as docs/FORMAT.md has it
# Classes take turns, so that pages of one worth lie far apart; three stretches of memory with gaps between them.
MIXED = {page: 1 + page // 7 * 5 % 7 for page in (*range(3, 250), *range(300, 420), *range(500, 520))}
SOME_ZEROS = frozenset(page for page in MIXED if page // 7 % 3 == 1)
UNNAMED = {page: RANK_UNKNOWN if page in range(310, 330) or page >= 510 else rank for page, rank in MIXED.items()}


def order_of_value() -> None:
    """Frames come in the order of the best page in each, and each holds the best that is left of its kind."""
    specimen = Specimen(Subject("value", UNNAMED, SOME_ZEROS))
    frames = specimen.job().plan.frames
    must(frames[0].kind == frames[-1].kind == FrameKind.META, "metadata is not in the first and the last frame")
    bests = [min(UNNAMED[page] for page in pages_in(frame.runs)) for frame in frames if frame.runs]
    must(bests == sorted(bests), f"the best classes of the frames are {bests}")
    for kind, pages in ((FrameKind.PAGES, set(UNNAMED) - SOME_ZEROS), (FrameKind.ZEROS, set(SOME_ZEROS))):
        contents = [pages_in(frame.runs) for frame in frames if frame.kind == kind]
        ranks = [UNNAMED[page] for content in contents for page in _in_order(content, UNNAMED)]
        must(ranks == sorted(ranks), f"{kind.name} are not in the order of value")
        must(
            set().union(*contents) == pages and sum(map(len, contents)) == len(pages), f"{kind.name} are not all there"
        )


def whole_dumps() -> None:
    """Of every level: all that it asks for comes back, what it leaves out is named, and so is what each class has."""
    for level, ranks in itertools.product(DumpLevel, (MIXED, UNNAMED)):
        specimen = written(Subject("levels", ranks, SOME_ZEROS, level=level))
        findings, pages = specimen.read(specimen.disk.content)
        wanted = {page for page, rank in ranks.items() if rank <= LAST_CLASS.get(level, RANK_UNKNOWN)}
        judgement = findings.judgement
        must(not specimen.wrong_pages(pages) and set(pages) == wanted, f"{level.name}: other pages than were asked for")
        must((findings.verdict, findings.reason) == (Verdict.COMPLETE, Reason.WHOLE), f"{level.name} is not whole")
        must(pages_in(judgement.left_out) == set(ranks) - wanted, f"{level.name}: what is left out is misnamed")
        must((judgement.pages_total, judgement.pages_wanted) == (len(ranks), len(wanted)), f"{level.name}: counts")
        held = DumpLevel.COMPLETE if level == DumpLevel.AUTOMATIC else level
        must(judgement.level_held == held, f"{level.name}: said to hold {judgement.level_held}")
        found = {row.page_class.value: (row.pages_total, row.pages_present) for row in judgement.classes}
        must(found == _class_counts(ranks, set(pages)), f"{level.name}: classes are {found}")


def scattered_pages() -> None:
    """Data and zeros that take turns page by page: more runs than a frame can name."""
    ranks = dict.fromkeys(range(600), 4)
    for zeros in (frozenset(range(0, 600, 2)), frozenset(range(600)) - frozenset(range(0, 600, 2))):
        specimen = written(Subject("scattered", ranks, zeros, slots=14))
        findings, pages = specimen.read(specimen.disk.content)
        must(findings.verdict == Verdict.COMPLETE and not specimen.wrong_pages(pages), "scattered pages are not whole")


def dumps_that_were_cut() -> None:
    """Every number of frames that came: exactly their pages, and the largest level of which none is missing."""
    specimen = written(Subject("cut", MIXED, SOME_ZEROS))
    frames, armed = specimen.job().plan.frames, Specimen(specimen.subject)
    armed.arm()
    for count in range(len(frames)):
        disk = bytearray(armed.disk.content)
        for frame in frames[:count]:
            _copy(specimen, disk, frame.region_offset_bytes, frame.sequence)
        findings, pages = specimen.read(disk)
        there = set().union(*(pages_in(frame.runs) for frame in frames[:count]))
        verdict, reason = _of_a_cut(there, count)
        must((findings.verdict, findings.reason) == (verdict, reason), f"{count} frames are {findings.verdict}")
        must(set(pages) == there and not specimen.wrong_pages(pages), f"{count} frames give other pages")
        missing = set(MIXED) - there if count else set()
        must(pages_in(findings.judgement.missing) == missing, f"{count} frames lack other pages than are named")
        must(not findings.judgement.left_out, f"{count} frames: what is missing is said to be left out")
        must(findings.judgement.level_held == _largest_level(there) or not count, f"{count} frames hold another level")


def classes_beside_memory() -> None:
    """Classes may name pages that memory does not have: nobody counts them, or asks for them."""
    named = (ClassRunRecord(1, 0, 10), ClassRunRecord(4, 20, 5))
    metadata = Metadata(b"", (MemoryRangeRecord(8192, 4 * PAGE_SIZE_BYTES),), "check", DumpLevel.KERNEL, named)
    there = PageSet.of([PageRun(2, 4)])
    judgement = judge(Evidence(None, metadata, 4, there, frames_damaged=0, reads_failed=0))
    counts = [(row.page_class, row.pages_total, row.pages_present) for row in judgement.classes]
    must(counts == [(1, 4, 4)], f"pages beside memory are counted in their classes: {counts}")
    must(judgement.verdict == Verdict.COMPLETE, "pages beside memory are asked for")


def small_regions() -> None:
    """Each keeps the best of what fits, and says why it is not more."""
    for slots in range(1, 9):
        subject = Subject("small", MIXED, frozenset(), slots)
        specimen = Specimen(subject)
        progress = specimen.write()
        findings, pages = specimen.read(specimen.disk.content)
        must(slot_count(specimen.extents.size_bytes) == slots, f"a region of {slots} slots counts others")
        must(slot_count(slot_offset_bytes(slots)) == slots - 1, "the last header has no block of its own")
        room = max(0, slots - META_COPIES) * FRAME_PAGES_MAX
        must(len(pages) == min(room, len(MIXED)), f"{slots} slots hold {len(pages)} pages")
        worst = max((MIXED[page] for page in pages), default=0)
        must(all(MIXED[page] >= worst for page in set(MIXED) - set(pages)), f"{slots} slots keep what is worth less")
        must(progress.pages_written == len(pages), f"{slots} slots: the writer counts {progress.pages_written}")
        reason = Reason.REGION_TOO_SMALL if room else Reason.NO_PAGES if slots == META_COPIES else Reason.NO_DUMP
        reason = Reason.WHOLE if room >= len(MIXED) else reason
        must(findings.reason == reason, f"{slots} slots: {findings.reason}")


def regions_for_all() -> None:
    """A region of the size that is asked for holds the memory whole, however its pages alternate."""
    for pages, alternate in itertools.product((1, 64, 129, 640), (1, 2, 3)):
        ranks = dict.fromkeys(range(pages), 1)
        zeros = frozenset(page for page in range(pages) if page // alternate % 2)
        slots = slot_count(region_size_bytes(pages * PAGE_SIZE_BYTES))
        plan = Specimen(Subject("all", ranks, zeros, slots)).job().plan
        must(plan.pages_planned == pages, f"{plan.pages_planned} of {pages} pages fit in the region for them")


def _in_order(pages: set[int], ranks: dict[int, int]) -> list[int]:
    return sorted(pages, key=lambda page: ranks[page])


def _class_counts(ranks: dict[int, int], there: set[int]) -> dict[int, tuple[int, int]]:
    named = sorted(set(ranks.values()) - {RANK_UNKNOWN})
    pages = {rank: {page for page, of_page in ranks.items() if of_page == rank} for rank in named}
    return {rank: (len(of_rank), len(of_rank & there)) for rank, of_rank in pages.items()}


def _of_a_cut(there: set[int], count: int) -> tuple[Verdict, Reason]:
    if not count:
        return Verdict.NONE, Reason.NO_DUMP
    if not there:
        return Verdict.NONE, Reason.NO_PAGES
    return (Verdict.COMPLETE, Reason.WHOLE) if there == set(MIXED) else (Verdict.PARTIAL, Reason.CUT)


def _largest_level(there: set[int]) -> DumpLevel | None:
    held = None
    for level in (DumpLevel.SMALL, DumpLevel.KERNEL, DumpLevel.ACTIVE, DumpLevel.COMPLETE):
        if {page for page, rank in MIXED.items() if rank <= LAST_CLASS.get(level, RANK_UNKNOWN)} <= there:
            held = level
    return held


def _copy(specimen: Specimen, disk: bytearray, offset_bytes: int, sequence: int) -> None:
    """A frame's slot from the disk that has all of it."""
    behind_bytes = specimen.job().plan.frames[sequence].region_offset_bytes + 65 * 4096
    for place, length in specimen.extents.runs(offset_bytes, behind_bytes - offset_bytes):
        disk[place : place + length] = specimen.disk.content[place : place + length]
