"""The judgement on a dump: what it was to hold, what of it is there, and why not more. Pure.

Frames that proved themselves are evidence. What a header says of how the dump ended only explains; it never makes a
dump better than its pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from dumpwriter.formats.region import DumpEnding, DumpState, PageRun
from dumpwriter.frames import page_count
from dumpwriter.levels import BY_SIZE, intersection, wanted_runs
from dumpwriter.memory.source import PageClass
from dumpwriter.metadata import pages_of
from dumpwriter.recovery.pageset import PageSet
from dumpwriter.verdict import Reason, Verdict

if TYPE_CHECKING:
    from dumpwriter.formats.region import DumpHeader, DumpLevel
    from dumpwriter.metadata import Metadata


class Evidence(NamedTuple):
    """What was read. `pages_total` is what the frames say, for want of metadata."""

    header: DumpHeader | None
    metadata: Metadata | None
    pages_total: int
    present: PageSet
    frames_damaged: int
    reads_failed: int


class ClassCount(NamedTuple):
    """How much of one class of pages is there."""

    page_class: PageClass
    pages_total: int
    pages_present: int


class Judgement(NamedTuple):
    """Page runs are ascending and disjoint. Every page of memory is present, missing or left out by the level.

    `level_held` is the largest level of which no page is missing, whatever was asked for; None where none is whole.
    """

    verdict: Verdict
    reason: Reason
    pages_total: int
    pages_wanted: int
    missing: tuple[PageRun, ...]
    left_out: tuple[PageRun, ...]
    level_held: DumpLevel | None
    classes: tuple[ClassCount, ...]


def judge(evidence: Evidence) -> Judgement:
    """Without metadata, missing pages are named as if memory had no gaps and the dump had been to hold all of it."""
    metadata, present = evidence.metadata, evidence.present
    memory = pages_of(metadata.ranges) if metadata else [PageRun(0, evidence.pages_total)]
    wanted = wanted_runs(metadata.level, metadata.classes, memory) if metadata else memory
    missing = tuple(present.missing_from(wanted))
    left_out = tuple(PageSet.of(wanted).missing_from(present.missing_from(memory)))
    verdict, reason = _verdict(evidence, page_count(wanted), is_whole=not missing)
    return Judgement(
        verdict,
        reason,
        page_count(memory),
        page_count(wanted),
        missing,
        left_out,
        _level_held(metadata, present) if metadata else None,
        _count_classes(metadata, present) if metadata else (),
    )


def judge_closed(evidence: Evidence, *, has_metadata: bool) -> Judgement:
    """Of sealed frames without their key: how much is there, but not what is missing.

    How many pages were wanted, only the header says in the clear. With the key it is judged anew, by sealed metadata.
    """
    header, present = evidence.header, page_count(evidence.present.runs())
    wanted = header.pages_wanted if header is not None and header.pages_wanted else evidence.pages_total
    if has_metadata and present == wanted:
        verdict, reason = Verdict.COMPLETE, Reason.WHOLE
    elif not present:
        verdict, reason = Verdict.NONE, Reason.NO_PAGES
    else:
        verdict, reason = _verdict(evidence, wanted, is_whole=False)
    return Judgement(verdict, reason, evidence.pages_total, wanted, (), (), None, ())


def _verdict(evidence: Evidence, wanted: int, *, is_whole: bool) -> tuple[Verdict, Reason]:
    present = page_count(evidence.present.runs())
    if evidence.metadata is not None and wanted and is_whole:
        return Verdict.COMPLETE, Reason.WHOLE
    if not present:
        return Verdict.NONE, Reason.NO_PAGES if _was_begun(evidence) else Reason.NO_DUMP
    if evidence.frames_damaged or evidence.reads_failed:
        return Verdict.PARTIAL, Reason.FRAMES_LOST
    return Verdict.PARTIAL, _explanation(evidence.header, present, wanted)


def _was_begun(evidence: Evidence) -> bool:
    header = evidence.header
    seen = evidence.frames_damaged or evidence.reads_failed or evidence.metadata is not None
    return bool(seen or (header is not None and header.frames_planned))


def _explanation(header: DumpHeader | None, present: int, wanted: int) -> Reason:
    """Why pages are missing of which no trace is there, as far as a header tells."""
    if header is not None and header.ending == DumpEnding.TIME_BUDGET:
        return Reason.TIME_BUDGET
    if header is not None and header.pages_planned < wanted and present == header.pages_planned:
        return Reason.REGION_TOO_SMALL
    if header is not None and header.state == DumpState.WRITTEN and header.frames_failed:
        return Reason.FRAMES_LOST
    return Reason.CUT


def _level_held(metadata: Metadata, present: PageSet) -> DumpLevel | None:
    """A level that asks for no page of this memory says nothing, and is passed over."""
    held = None
    for level in BY_SIZE:
        wanted = wanted_runs(level, metadata.classes, pages_of(metadata.ranges))
        if any(present.missing_from(wanted)):
            break
        held = level if wanted else held
    return held


def _count_classes(metadata: Metadata, present: PageSet) -> tuple[ClassCount, ...]:
    counts, memory = [], pages_of(metadata.ranges)
    for page_class in PageClass:
        named = [PageRun(first, count) for rank, first, count in metadata.classes if rank == page_class]
        runs = list(intersection(named, memory))
        total = page_count(runs)
        if total:
            missing = page_count(list(present.missing_from(runs)))
            counts.append(ClassCount(page_class, total, total - missing))
    return tuple(counts)
